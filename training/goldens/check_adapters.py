"""Holds adapters that Tandem wrote to PEFT and to ONNX Runtime.

usage: check_adapters.py DIRECTORY

DIRECTORY is what `TANDEM_ADAPTERS_OUT=DIRECTORY cargo test -p tandem-core --test it -- adapters::written` wrote: for each golden adapter `NAME`,
`NAME/peft`, `NAME/NAME.onnx_adapter` and `NAME/merged`, those of them that can hold it. PEFT and transformers must give the recorded logits and
tokens with the first and the third; ONNX Runtime must read the second as the parameters that its own writer is given.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import peft
import torch
import transformers
from safetensors.numpy import load_file

from adapters import F32_TOLERANCE, ROOT
from checkpoints import load
from reference import forward, greedy, relative_difference


def check_model(model, record, tensors):
    """The largest relative difference of logits, and whether all greedy tokens are the recorded ones."""
    worst, equal = 0.0, True
    for i, prompt in enumerate(record["prompts"]):
        worst = max(worst, relative_difference(forward(model, prompt["ids"])[0], tensors[f"prompt.{i}"]))
        equal &= greedy(model, prompt["ids"])[0] == prompt["greedy_tokens"]
    return worst, equal


def check_onnx(path, golden, record):
    """How far ONNX Runtime's parameters are from PEFT's factors, relative to the largest of each."""
    # The values lie in the adapter's memory, which goes with it.
    adapter = onnxruntime.AdapterFormat.read_adapter(str(path))
    read = {name: np.array(value.numpy()) for name, value in adapter.get_parameters().items()}
    stored = peft.utils.load_peft_weights(str(golden), device="cpu")
    assert len(read) == len(stored) == 2 * len(record["modules"]), f"{path} has other parameters"
    worst = 0.0
    for module, expected in record["modules"].items():
        for factor, scale in (("A", 1.0), ("B", expected["scale"])):
            value = stored[f"base_model.model.{module}.lora_{factor}.weight"].double().numpy().T * scale
            got = read[f"{module}.lora_{factor}.weight"]
            assert got.shape == value.shape and got.dtype == np.float32
            worst = max(worst, relative_difference(got, value))
    return worst


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    failed = 0
    for directory in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        golden = ROOT / "adapters" / directory.name
        record = json.loads((golden / "golden.json").read_text(encoding="utf-8"))
        tensors = load_file(golden / "golden.safetensors")
        results = []
        if (directory / "peft").is_dir():
            model = peft.PeftModel.from_pretrained(load(ROOT / record["base"]), directory / "peft").eval()
            results.append(("peft", *check_model(model, record, tensors)))
        if (directory / "merged").is_dir():
            results.append(("merged", *check_model(load(directory / "merged"), record, tensors)))
        onnx = directory / f"{directory.name}.onnx_adapter"
        if onnx.is_file():
            results.append(("onnx", check_onnx(onnx, golden, record), True))
        for form, worst, equal in results:
            good = worst <= F32_TOLERANCE and equal
            failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {directory.name} {form}: {worst:.2g}{'' if equal else ', other tokens'}")
        if not results:
            failed += 1
            print(f"FAIL {directory.name}: nothing was written")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
