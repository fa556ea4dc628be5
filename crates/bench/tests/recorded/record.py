"""Records what the statistics of the bench are tested on: this program's own samples, one run a line.

    python3 crates/bench/tests/recorded/record.py target/release/tandem

A release build, on a machine that does nothing else, with two processors. The last run is disturbed on purpose.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 34  # the test takes the first 20 that nothing disturbed
WARM_UP = 2  # a machine that was idle, or building, is not at its usual speed
# One thread, and what fits its caches: where two wait for memory that others use as well, speeds differ by more from run to run than
# a tenth, and `disturbances` says so.
WORKLOAD = "bench demo --backend onnx --dtype f32 --threads 1 --prompt 512 --depth 0 --generate 500 --rounds 30".split()
DISTURB = "while True: pass"


def short(value):
    """Numbers to five digits: the file stays small, and nothing that is judged depends on more."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: short(inner) for name, inner in value.items()}
    return [short(inner) for inner in value] if isinstance(value, list) else value


def measure(program: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run.json"
        subprocess.run([program, *WORKLOAD, "--output", str(output)], check=True, stdout=subprocess.DEVNULL)
        run = short(json.loads(output.read_text()))
    for sample in (sample for entry in run["entries"] for sample in entry["samples"]):
        for decode in sample["decode"]:
            decode["step_ms"] = []  # one number a token
    return run


def main() -> None:
    program = sys.argv[1]
    runs = [measure(program) for _ in range(WARM_UP + RUNS)][WARM_UP:]
    busy = [subprocess.Popen([sys.executable, "-c", DISTURB]) for _ in range(2)]
    try:
        disturbed = measure(program)
    finally:
        for process in busy:
            process.kill()
    folder = Path(__file__).parent
    (folder / "quiet.jsonl").write_text("".join(json.dumps(run, separators=(",", ":")) + "\n" for run in runs))
    (folder / "disturbed.json").write_text(json.dumps(disturbed, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
