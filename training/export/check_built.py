"""Builds every golden checkpoint in every form and checks the graphs with programs that are not ours; leaves nothing behind.

usage: check_built.py [GOLDEN]...

`onnx.checker` is to accept each file, and ONNX Runtime is to compute the recorded logits from it: within 1e-4 in 32-bit floats,
and with 4 bits in blocks of 32, which hold the goldens' weights exactly; within what rounding the weights costs elsewhere, which
is little with 8 bits and much with 4 for models as small as these. Activations stay floats, so that nothing else is rounded.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

import variants

GOLDENS = variants.ROOT / "goldens"
# What the example `build` is told, and how far the logits may be off, as a share of the greatest.
FORMS = {
    "weights=f32": 1e-4,
    "weights=f16": 0.03,
    "weights=int8": 0.02,
    "weights=int4": 1e-4,
    "weights=int4 head=int8": 0.02,
    "weights=int4 head=f32": 1e-4,
    "weights=int4 zero=free": 1e-4,
    "weights=int4 block=16": 0.9,
    "weights=int4 block=64": 0.9,
    "weights=int4 block=128": 0.9,
    "weights=int4 block=128 zero=free": 0.9,
    "weights=int8 block=16": 0.1,
    "weights=int8 block=64": 0.02,
    "weights=int8 block=128 zero=free": 0.02,
}


def difference(path, golden):
    """The greatest difference in logits over all prompts, as a share of the greatest logit."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    record = json.loads((golden / "golden.json").read_text(encoding="utf-8"))
    wanted = load_file(golden / "golden.safetensors")
    worst = 0.0
    for index, prompt in enumerate(record["prompts"]):
        ids = np.array([prompt["ids"]], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for value in session.get_inputs():
            if value.name.startswith("past_key_values."):
                dtype = np.float16 if value.type == "tensor(float16)" else np.float32
                feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), dtype)
        logits = wanted[f"prompt.{index}"]
        got = session.run(["logits"], feeds)[0][0][-len(logits) :]
        worst = max(worst, float(np.abs(got - logits).max() / np.abs(logits).max()))
    return worst


def check(builder, golden, form, bound):
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "graph"
        subprocess.run([builder, golden, directory, "activations=float", *form.split()], check=True)
        onnx.checker.check_model(str(directory / "model.onnx"), full_check=True)
        off = difference(directory / "model.onnx", golden)
    print(f"{'ok  ' if off <= bound else 'FAIL'} {golden.name} {form}: accepted, off by {off:.2g} of {bound}", flush=True)
    return off <= bound


def main():
    names = sys.argv[1:] or sorted(path.parent.name for path in GOLDENS.glob("*/golden.json"))
    builder = variants.builder()
    results = [check(builder, GOLDENS / name, form, bound) for name in names for form, bound in FORMS.items()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
