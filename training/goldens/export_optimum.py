"""Exports one checkpoint with optimum, as f32 and as dynamic int8. Runs in the environment of requirements-optimum.txt.

usage: export_optimum.py CHECKPOINT F32_DIR INT8_DIR
"""

import sys
import tempfile
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic
from optimum.exporters.onnx import main_export


def export_f32(checkpoint, directory):
    """The graph that `optimum-cli export onnx --task text-generation-with-past` writes."""
    with tempfile.TemporaryDirectory() as scratch:
        main_export(str(checkpoint), output=scratch, task="text-generation-with-past", dtype="fp32", device="cpu")
        directory.mkdir(parents=True, exist_ok=True)
        for file in Path(scratch).glob("model.onnx*"):
            file.replace(directory / file.name)


def quantize(f32, int8):
    """Dynamic int8 of the matrix products, as optimum's own quantizer and the `_int8` files of the hub have it."""
    int8.mkdir(parents=True, exist_ok=True)
    quantize_dynamic(
        f32 / "model.onnx",
        int8 / "model.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Seven bits: the sums of eight saturate on processors without VNNI, and the golden would hang on the machine.
        reduce_range=True,
        op_types_to_quantize=["MatMul"],
    )


def main():
    checkpoint, f32, int8 = map(Path, sys.argv[1:])
    export_f32(checkpoint, f32)
    quantize(f32, int8)


if __name__ == "__main__":
    main()
