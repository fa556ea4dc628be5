"""Makes `goldens/gguf/`: golden checkpoints as llama.cpp's own converter writes them.

usage: make.py LLAMA_CPP

LLAMA_CPP is a checkout of llama.cpp. The files are small, and the tests read them (`crates/backend-candle/tests/it/gguf.rs`).
"""

import sys
from pathlib import Path

from check import ROOT, convert

# Rows as published (Qwen2), and reordered with the factors of a rope scaling as a tensor (Llama 3), as floats and as blocks.
FIXTURES = [("qwen2-tied", "f16"), ("llama3-rope", "f16"), ("llama3-rope", "q8_0")]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    (ROOT / "gguf").mkdir(exist_ok=True)
    for name, kind in FIXTURES:
        convert(Path(sys.argv[1]).resolve(), name, ROOT / "gguf" / f"{name}-{kind}.gguf", kind)


if __name__ == "__main__":
    main()
