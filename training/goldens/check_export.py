"""Checks directories that `tandem export` made with programs that are not ours; makes nothing.

usage: check_export.py GOLDEN=DIRECTORY...

GOLDEN is a directory of goldens/ whose checkpoint was exported to DIRECTORY. For each, `onnx.checker` is to accept the graph,
ONNX Runtime is to run it with and without `num_logits_to_keep`, and onnxruntime-genai is to load the directory unchanged and
to take the recorded greedy tokens, or, where weights or activations are rounded, to begin with them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai

from make import ROOT


def check_graph(path):
    """`onnx.checker` with shape inference; operators of `com.microsoft` are not in its tables and pass unseen."""
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def check_optional_input(directory, ids):
    """The logits of all tokens without the input, and their last row with it."""
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    assert "num_logits_to_keep" not in {i.name for i in session.get_inputs()}, "the input is not optional"
    feeds = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), dtype)
    everything = session.run(["logits"], feeds)[0]
    last = session.run(["logits"], {**feeds, "num_logits_to_keep": np.array(1, np.int64)})[0]
    assert everything.shape[1] == len(ids) and last.shape[1] == 1, (everything.shape, last.shape)
    scale = np.abs(everything).max()
    assert np.abs(everything[:, -1:] - last).max() <= 1e-3 * scale, "the last row differs"


def greedy(directory, ids, n_tokens):
    model = onnxruntime_genai.Model(str(directory))
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(ids) + n_tokens)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(np.array([ids], np.int32))
    while not generator.is_done() and len(generator.get_sequence(0)) < len(ids) + n_tokens:
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)[len(ids) :]]


def check(golden, directory):
    metadata = check_graph(directory / "model.onnx")
    dtype = metadata["tandem.weights"]
    prompts = json.loads((ROOT / golden / "golden.json").read_text(encoding="utf-8"))["prompts"]
    check_optional_input(directory, prompts[0]["ids"])
    equal, total = 0, 0
    for prompt in prompts:
        wanted = prompt["greedy_tokens"]
        got = greedy(directory, prompt["ids"], len(wanted))
        prefix = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), len(got))
        equal, total = equal + prefix, total + len(wanted)
    passed = equal == total if dtype == "f32" else equal > 0
    print(f"{'ok  ' if passed else 'FAIL'} {golden} {dtype}: checker accepts, {equal} of {total} greedy tokens before the first other")
    return passed


def main():
    pairs = [argument.split("=", 1) for argument in sys.argv[1:]]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        sys.exit(__doc__)
    results = [check(golden, Path(directory)) for golden, directory in pairs]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
