"""Checks the committed graphs against the committed goldens with this machine's ONNX Runtime; makes nothing.

usage: check.py [NAME]...
"""

import json
import sys

from safetensors.numpy import load_file

from graphs import Decoder, measure
from make import ROOT, kv_dims


def check(directory):
    """Prints a line an export; whether all are within their tolerances."""
    record = json.loads((directory / "golden.json").read_text(encoding="utf-8"))
    tensors = load_file(directory / "golden.safetensors")
    dims = kv_dims(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    prompts = record["prompts"]
    ids, greedy = [p["ids"] for p in prompts], [p["greedy_tokens"] for p in prompts]
    logits = [tensors[f"prompt.{i}"] for i in range(len(prompts))]
    passed = True
    for name, export in record["exports"].items():
        path = directory / "onnx" / name / "model.onnx"
        decoder = Decoder(path if path.exists() else directory / "onnx" / f"{name}.onnx", dims)
        got = measure(decoder, ids, logits, greedy)
        worst = max(*got["relative"], got["relative_chunked"])
        good = worst <= export["tolerance"] and max(got["rms"]) <= export["tolerance_rms"]
        good &= not export["greedy_equal"] or min(got["equal_greedy_prefix"]) == len(greedy[0])
        passed &= good
        print(f"{'ok  ' if good else 'FAIL'} {directory.name} {name}: {worst:.2g} of {export['tolerance']:.2g}")
    return passed


def main():
    names = sys.argv[1:] or sorted(path.parent.name for path in ROOT.glob("*/golden.json"))
    results = [check(ROOT / name) for name in names]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
