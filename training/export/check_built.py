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
ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3"]
# What `tandem export` is told, and how far the logits may be off, as a share of the greatest.
FORMS = {
    "--dtype=f32": 1e-4,
    "--dtype=f16": 0.03,
    "--dtype=int8": 0.02,
    "--dtype=int4": 1e-4,
    "--dtype=int4 --head-dtype=int8": 0.02,
    "--dtype=int4 --head-dtype=f32": 1e-4,
    "--dtype=int4 --zero-points": 1e-4,
    "--dtype=int4 --block-size=16": 0.9,
    "--dtype=int4 --block-size=64": 0.9,
    "--dtype=int4 --block-size=128": 0.9,
    "--dtype=int4 --block-size=128 --zero-points": 0.9,
    "--dtype=int8 --block-size=16": 0.1,
    "--dtype=int8 --block-size=64": 0.02,
    "--dtype=int8 --block-size=128 --zero-points": 0.02,
    "--dtype=f32 --adapter-inputs": 1e-4,
    "--dtype=f16 --adapter-inputs": 0.03,
    "--dtype=int4 --adapter-inputs --outputs=both": 1e-4,
}


def is_built(golden):
    """Whether graphs are made of its architecture; there are goldens of candle's as well."""
    config = json.loads((golden / "config.json").read_text(encoding="utf-8"))
    return config["model_type"] in ARCHITECTURES and (golden / "model.safetensors").exists()


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


def float_activations(path):
    """Has the graph multiply quantised weights by activations that are not rounded."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend(kept)
    onnx.save(model, path)


def check(builder, golden, form, bound):
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "graph"
        subprocess.run([builder, "export", golden, "-o", directory, "-q", *form.split()], check=True, stdout=subprocess.DEVNULL)
        onnx.checker.check_model(str(directory / "model.onnx"), full_check=True)
        float_activations(directory / "model.onnx")
        off = difference(directory / "model.onnx", golden)
    print(f"{'ok  ' if off <= bound else 'FAIL'} {golden.name} {form}: accepted, off by {off:.2g} of {bound}", flush=True)
    return off <= bound


def main():
    names = sys.argv[1:] or sorted(path.parent.name for path in GOLDENS.glob("*/golden.json") if is_built(path.parent))
    builder = variants.builder()
    results = [check(builder, GOLDENS / name, form, bound) for name in names for form, bound in FORMS.items()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
