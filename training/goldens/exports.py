"""Exports a checkpoint: onnxruntime-genai's builder here, optimum in an environment of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from checkpoints import write_configs

HERE = Path(__file__).parent
EXPORTS = ["genai_f32", "genai_int4", "optimum_f32", "optimum_int8"]
# Nothing here is ever looked for on a hub.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1"}


def run(command):
    """Runs a command quietly; its output is shown only when it fails."""
    done = subprocess.run(command, env={**os.environ, **OFFLINE}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stdout[-4000:])
        raise SystemExit(f"failed: {' '.join(map(str, command))}")


def genai(checkpoint, directory, precision, extra_options=()):
    """The builder's directory, as it is: the graph, its genai_config.json, the tokenizer and the chat template."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", checkpoint, "-o", scratch, "-p", precision, "-e", "cpu", "-c", Path(scratch) / "cache"]
        run(command + (["--extra_options", *extra_options] if extra_options else []))
        directory.mkdir(parents=True, exist_ok=True)
        for file in filter(Path.is_file, Path(scratch).iterdir()):
            shutil.move(file, directory / file.name)


def optimum(checkpoint, spec, f32, int8, python):
    """optimum's transformers 4 does not know `rope_parameters`, so it gets a config in the form of 4."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch)
        write_configs(source, spec, form=4)
        shutil.copy(checkpoint / "model.safetensors", source)
        run([python, HERE / "export_optimum.py", source, f32, int8])


def export_all(checkpoint, spec, optimum_python):
    onnx = checkpoint / "onnx"
    shutil.rmtree(onnx, ignore_errors=True)
    genai(checkpoint, onnx / "genai_f32", "fp32")
    genai(checkpoint, onnx / "genai_int4", "int4", ["int4_block_size=32", "int4_accuracy_level=4"])
    optimum(checkpoint, spec, onnx / "optimum_f32", onnx / "optimum_int8", optimum_python)
