"""Exports embedders and rerankers with optimum as published repositories have them. Runs in the environment of requirements-optimum.txt.

usage: export_embedders.py DIRECTORY TASK LIBRARY OUTPUT

`DIRECTORY` is a checkpoint as transformers 4 reads it, `OUTPUT` the file of the graph. Of a `text-generation-with-past`
the vocabulary product is cut off, so that the hidden states after the last norm come out, as onnx-community has it.
"""

import sys
import tempfile
from pathlib import Path

import onnx
from optimum.exporters.onnx import main_export


def export(directory, task, library):
    with tempfile.TemporaryDirectory() as scratch:
        main_export(directory, output=scratch, task=task, library_name=library, dtype="fp32", device="cpu")
        graphs = sorted(path.name for path in Path(scratch).glob("*.onnx*"))
        assert graphs == ["model.onnx"], graphs
        return onnx.load(Path(scratch) / "model.onnx")


def without_head(model):
    """The output `logits` becomes `last_hidden_state`; what only it needed is left out."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    head = made_by["logits"]
    assert head.op_type == "MatMul", head.op_type
    hidden, width = head.input[0], next(i.dims[0] for i in graph.initializer if i.name == "model.norm.weight")
    graph.node.remove(head)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["last_hidden_state" if name == hidden else name for name in names]
    output = next(value for value in graph.output if value.name == "logits")
    output.name = "last_hidden_state"
    output.type.tensor_type.shape.dim[-1].dim_value = width
    remove_unused(graph)
    onnx.checker.check_model(model)
    return model


def remove_unused(graph):
    outputs = {value.name for value in graph.output}
    while True:
        used = outputs | {name for node in graph.node for name in node.input}
        unused = [node for node in graph.node if not used & set(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for initializer in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(initializer)
    del graph.value_info[:]


def main():
    directory, task, library, output = sys.argv[1:]
    model = export(directory, task, library)
    if task == "text-generation-with-past":
        model = without_head(model)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, output)


if __name__ == "__main__":
    main()
