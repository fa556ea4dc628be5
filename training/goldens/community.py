"""Graphs as onnx-community publishes them for transformers.js: `onnx/model.onnx` and its `_fp16`, `_q4`, ... siblings.

Made from genai's f32 graph by what distinguishes those files: the scalar input `num_logits_to_keep`, the names,
external data in numbered files, f16 activations and caches.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

# Smaller tensors stay in the graph file.
EXTERNAL_FROM_BYTES = 1024


def add_num_logits_to_keep(model):
    """Keeps the hidden states of the last `num_logits_to_keep` tokens before the head, of all when it is 0."""
    graph = model.graph
    head = next(node for node in graph.node if "logits" in node.output)
    hidden = head.input[0]
    graph.input.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], np.int64), "/keep/shape"),
            numpy_helper.from_array(np.array([np.iinfo(np.int64).max], np.int64), "/keep/ends"),
        ]
    )
    nodes = [
        helper.make_node("Reshape", ["num_logits_to_keep", "/keep/shape"], ["/keep/count"], "/keep/Reshape"),
        # `-0` is 0: a slice from 0 keeps all.
        helper.make_node("Neg", ["/keep/count"], ["/keep/starts"], "/keep/Neg"),
        helper.make_node(
            "Slice", [hidden, "/keep/starts", "/keep/ends", "/keep/shape"], ["/keep/hidden"], "/keep/Slice"
        ),
    ]
    head.input[0] = "/keep/hidden"
    at = list(graph.node).index(head)
    for offset, node in enumerate(nodes):
        graph.node.insert(at + offset, node)
    logits = next(output for output in graph.output if output.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "kept_sequence_length"
    return model


def save_external(model, path, n_files):
    """Saves with the weights in `n_files` files: `<name>_data`, `<name>_data_1`, ..."""
    names = [f"{path.name}_data" + (f"_{i}" if i else "") for i in range(n_files)]
    tensors = [t for t in model.graph.initializer if len(t.raw_data) >= EXTERNAL_FROM_BYTES]
    half = sum(len(t.raw_data) for t in tensors) / n_files
    buffers, written = [bytearray() for _ in names], 0
    for tensor in tensors:
        file = min(int(written / half), n_files - 1)
        buffer, size = buffers[file], len(tensor.raw_data)
        buffer.extend(bytes(-len(buffer) % 64))
        for key, value in (("location", names[file]), ("offset", len(buffer)), ("length", size)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        buffer.extend(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        written += size
    for name, buffer in zip(names, buffers):
        (path.parent / name).write_bytes(buffer)
    onnx.save(model, path)


def quantize_q4(model):
    """4 bits in blocks of 32, symmetric, and like the published ones without `accuracy_level`."""
    quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=None)
    quantizer.process()
    return quantizer.model.model


def untie(model):
    """Gives a tied head a weight of its own, so that it is quantised, too."""
    graph = model.graph
    initializers = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in initializers]:
        weight = numpy_helper.to_array(initializers[node.input[0]])
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.T), node.output[0]))
        graph.node.remove(node)
    return model


def half(model, f32_logits):
    """f16 weights, activations and caches; the logits in f16, too, or cast to f32 at the end."""
    model = convert_float_to_float16(model, keep_io_types=["logits"] if f32_logits else False)
    # The converter leaves shapes inferred for f32 behind.
    del model.graph.value_info[:]
    return model


def write_all(f32_path, directory):
    """Every graph of the directory, from genai's f32 one."""
    directory.mkdir(parents=True, exist_ok=True)

    def fresh():
        return add_num_logits_to_keep(onnx.load(f32_path))

    save_external(fresh(), directory / "model.onnx", 2)
    onnx.save(half(fresh(), f32_logits=False), directory / "model_fp16.onnx")
    onnx.save(quantize_q4(untie(fresh())), directory / "model_q4.onnx")
    save_external(half(quantize_q4(untie(fresh())), f32_logits=True), directory / "model_q4f16.onnx", 1)
    quantize_dynamic(
        untie(fresh()),
        directory / "model_int8.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["MatMul"],
    )
    return ["model", "model_fp16", "model_q4", "model_q4f16", "model_int8"]
