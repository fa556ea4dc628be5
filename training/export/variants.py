"""Graphs of one checkpoint to compare: those that Tandem builds, and that of onnxruntime-genai's builder."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Nothing is looked for on a hub, and nothing is sent.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1", TQDM_DISABLE="1")

# What `tandem export` is told. The name says weights, block, and what is not plain.
TANDEM = {
    "f32": ["--dtype=f32"],
    "int8-32": ["--dtype=int8"],
    "int4-16": ["--dtype=int4", "--block-size=16"],
    "int4-32": ["--dtype=int4"],
    "int4-64": ["--dtype=int4", "--block-size=64"],
    "int4-128": ["--dtype=int4", "--block-size=128"],
    "int4-32-asymmetric": ["--dtype=int4", "--zero-points"],
    "int4-64-asymmetric": ["--dtype=int4", "--block-size=64", "--zero-points"],
    "int4-128-asymmetric": ["--dtype=int4", "--block-size=128", "--zero-points"],
    "int4-32-head-int8": ["--dtype=int4", "--head-dtype=int8"],
    "int4-128-head-int8": ["--dtype=int4", "--block-size=128", "--head-dtype=int8"],
}
GENAI = {
    "genai-int4-32": ["block_size=32", "accuracy_level=4"],
    "genai-int4-64": ["block_size=64", "accuracy_level=4"],
    "genai-int4-128": ["block_size=128", "accuracy_level=4"],
    "genai-int4-32-asymmetric": ["block_size=32", "accuracy_level=4", "is_symmetric=false"],
}
NAMES = [*TANDEM, *GENAI]


def builder():
    """The program, compiled with optimisation."""
    cargo = ["cargo", "build", "--quiet", "--release", "-p", "tandem-cli"]
    subprocess.run(cargo, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "tandem"


def command(name, checkpoint, directory, scratch):
    """What makes the graph called `name` in `directory`."""
    if name in TANDEM:
        return [builder(), "export", checkpoint, "-o", directory, *TANDEM[name]]
    genai = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", directory]
    return [*genai, "-p", "int4", "-e", "cpu", "-c", scratch, "--extra_options", *GENAI[name]]


def build(name, checkpoint, directory):
    """Makes the graph called `name` anew and gives its path; output is shown only when it fails."""
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = command(name, checkpoint, directory, scratch)
        done = subprocess.run(made, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stdout[-4000:])
        raise SystemExit(f"failed: {' '.join(map(str, made))}")
    return directory / "model.onnx"


def n_bytes(graph):
    """Bytes of a graph and its weights."""
    return sum(file.stat().st_size for file in graph.parent.glob("model.onnx*"))
