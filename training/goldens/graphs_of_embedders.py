"""The graphs of embedders and rerankers: makes those of GRAPHS, and runs them with ONNX Runtime.

usage: graphs_of_embedders.py --optimum-python PYTHON [--only NAME]...
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.torch import load_file, save_file

from checkpoints import write_json
from embedder_checkpoints import write_checkpoint
from embedder_specs import SPECS
from embedders import ROOT

# Task and library of optimum; for `text-generation-with-past` the checkpoint is given a (tied) head first.
GRAPHS = {
    "bert-mean": ("feature-extraction", "transformers"),
    "roberta": ("sentence-similarity", "sentence_transformers"),
    "qwen3": ("text-generation-with-past", "transformers"),
    "cross-bert": ("text-classification", "transformers"),
}
# Of these a second graph, `pooled/model.onnx`, has `sentence_embedding` as its only output.
POOLED = ["roberta"]
TOLERANCE = 1e-5


def make(name, optimum_python):
    task, library = GRAPHS[name]
    directory, output = ROOT / name, ROOT / name / "onnx" / "model.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        if task == "text-generation-with-past":
            directory = Path(scratch)
            write_causal(directory, SPECS[name])
        script = Path(__file__).with_name("export_embedders.py")
        subprocess.run([optimum_python, script, directory, task, library, output], check=True)
    print(f"{name}: {output.stat().st_size} bytes")
    if name in POOLED:
        write_pooled(output)
    check_graphs(ROOT / name, json.loads((ROOT / name / "expected.json").read_text(encoding="utf-8")))


def write_pooled(path):
    model = onnx.load(path)
    outputs = [value for value in model.graph.output if value.name == "sentence_embedding"]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.checker.check_model(model)
    (path.parent / "pooled").mkdir(exist_ok=True)
    onnx.save(model, path.parent / "pooled" / path.name)


def write_causal(directory, spec):
    """The checkpoint in the form of transformers 4, as a language model."""
    write_checkpoint(directory, spec)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, config | {"architectures": ["Qwen3ForCausalLM"]})
    weights = load_file(directory / "model.safetensors")
    weights = {f"model.{name}": value for name, value in weights.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def run(session, ids, types=None):
    """The outputs by name for one text; caches are empty."""
    values = {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "token_type_ids": types or [0] * len(ids),
        "position_ids": list(range(len(ids))),
    }
    feeds = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            heads, width = value.shape[1], value.shape[3]
            feeds[value.name] = np.zeros((1, heads, 0, width), np.float32)
        else:
            feeds[value.name] = np.array([values[value.name]], np.int64)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def check_graphs(directory, expected):
    """The plain case through the graph, if the directory has one."""
    path = directory / "onnx" / "model.onnx"
    if not path.exists():
        return
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    case = expected["cases"][0]
    types = case.get("token_type_ids", [None] * len(case["token_ids"]))
    outputs = [run(session, ids, t) for ids, t in zip(case["token_ids"], types)]
    wanted = np.array(case["logits"] if "logits" in case else case["embeddings"])
    got = np.array([vector(output, expected) for output in outputs])
    worst = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    print(f"  {directory.name}/onnx: {[value.name for value in session.get_inputs()][:4]} -> {list(outputs[0])[:2]}: {worst:.1g}")
    assert worst < TOLERANCE, f"{path}: {worst}"


def vector(output, expected):
    if "logits" in output:
        return output["logits"][0, 0]
    if "sentence_embedding" in output:
        return output["sentence_embedding"][0]
    states = output["last_hidden_state"][0]
    pooled = {"mean": states.mean(axis=0), "lasttoken": states[-1]}[expected["pooling"][0]]
    return pooled / np.linalg.norm(pooled)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimum-python", default=os.environ.get("OPTIMUM_PYTHON"))
    parser.add_argument("--only", action="append", choices=GRAPHS)
    arguments = parser.parse_args()
    if arguments.optimum_python is None:
        parser.error("`--optimum-python` (or OPTIMUM_PYTHON) names the python of the optimum environment")
    for name in arguments.only or GRAPHS:
        make(name, arguments.optimum_python)


if __name__ == "__main__":
    main()
