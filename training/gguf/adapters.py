"""Makes `goldens/adapters/*/gguf/`: golden adapters as llama.cpp's own converter writes them.

usage: adapters.py LLAMA_CPP

LLAMA_CPP is a checkout of llama.cpp. The files are small, and the tests read them (`crates/core/tests/it/adapters.rs`).
"""

import json
import subprocess
import sys

from check import ROOT

sys.path.append(str(ROOT.parent / "training" / "goldens"))
from adapter_specs import SPECS  # noqa: E402


def convert(llama_cpp, directory, kind="f32"):
    base = ROOT / json.loads((directory / "golden.json").read_text(encoding="utf-8"))["base"]
    target = directory / "gguf" / "adapter.gguf"
    target.parent.mkdir(exist_ok=True)
    command = [sys.executable, f"{llama_cpp}/convert_lora_to_gguf.py", str(directory), "--base", str(base)]
    done = subprocess.run(
        [*command, "--outfile", str(target), "--outtype", kind], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{directory.name}: the converter failed\n{done.stderr}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, spec in SPECS.items():
        if "gguf" in spec["also"]:
            convert(sys.argv[1], ROOT / "adapters" / name)


if __name__ == "__main__":
    main()
