"""What an export to int4 costs, beside onnxruntime-genai's builder: seconds and peak memory, in turns within one run.

usage: cost.py CHECKPOINT [--rounds N] [--work DIRECTORY]

Memory is the kernel's maximum resident set of the process.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import variants


def cost(command):
    """Seconds on the clock, seconds of processor, and peak bytes of one process."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            output.seek(0)
            raise SystemExit(f"failed: {command}\n{output.read()[-4000:].decode(errors='replace')}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    figures = {"genai": [], "tandem": []}
    variants.builder()
    for _ in range(arguments.rounds):
        for who in figures:
            with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
                name = {"genai": "genai-int4-32", "tandem": "int4-32"}[who]
                directory = Path(scratch) / "graph"
                command = variants.command(name, arguments.checkpoint, directory, Path(scratch) / "cache")
                figures[who].append(cost(command))
    medians = {who: [statistics.median(column) for column in zip(*rows)] for who, rows in figures.items()}
    print(f"{arguments.checkpoint.name}, int4, medians of {arguments.rounds} rounds in turns\n")
    print("| builder | seconds | processor seconds | peak MB |\n|---|---|---|---|")
    for who, (seconds, processor, memory) in medians.items():
        print(f"| {who} | {seconds:.1f} | {processor:.1f} | {memory / 1e6:.0f} |")
    ratios = [ours / theirs for ours, theirs in zip(medians["tandem"], medians["genai"])]
    print("| ratio | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
