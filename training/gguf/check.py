"""Converts the goldens with llama.cpp's own converter and has Tandem continue every prompt of them from the GGUF files.

usage: check.py LLAMA_CPP TANDEM [NAME]...

LLAMA_CPP is a checkout of llama.cpp, TANDEM a program that was built with the feature `candle`. Tokens of the prompt and the 48 greedy
tokens after it must be those that transformers gave (`golden.json`): the first hold the tokenizer, the others the weights, their order
and the rotation. Where the prompt begins with a special token, the answer must be that of the checkpoint.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "goldens"
NAMES = ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "llama-yarn", "llama-linear"]


def convert(llama_cpp, name, target, kind):
    """The converter knows a tokenizer by a hash of what it makes of a text; ours are no published ones, so it is told."""
    word = "llama-bpe" if name.startswith("llama") else "qwen2"
    code = (
        "import sys; sys.path[:0] = [sys.argv[1] + '/gguf-py', sys.argv[1]]; llama_cpp, word = sys.argv[1:3]; del sys.argv[1:3];"
        "from conversion.base import TextModel; TextModel.get_vocab_base_pre = lambda self, tokenizer: word;"
        "import runpy; runpy.run_path(llama_cpp + '/convert_hf_to_gguf.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(llama_cpp), word, str(ROOT / name), "--outfile", str(target), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{name} {kind}: the converter failed\n{done.stderr}")


def run(tandem, model, prompt):
    """What `tandem run --json` prints; its message where it fails."""
    command = [tandem, "run", str(model), prompt["text"], "--backend", "candle", "--raw", "--temperature", "0", "--json"]
    done = subprocess.run([*command, "--max-tokens", "48"], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip()


def check(tandem, name, path, prompt):
    """What is wrong with the answer, if anything is."""
    answer = run(tandem, path, prompt)
    if isinstance(answer, str):
        return answer
    if answer["prompt_tokens"] != prompt["ids_with_special_tokens"]:
        return f"the prompt is {answer['prompt_tokens']}, not {prompt['ids_with_special_tokens']}"
    # Greedy tokens were recorded for prompts without special tokens. Where there are some, the checkpoint itself answers.
    plain = prompt["ids"] == prompt["ids_with_special_tokens"]
    expected = prompt["greedy_tokens"] if plain else run(tandem, ROOT / name, prompt)["tokens"]
    return None if answer["tokens"] == expected else f"the answer is {answer['tokens']}, not {expected}"


def main():
    llama_cpp, tandem = Path(sys.argv[1]).resolve(), sys.argv[2]
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        for name in sys.argv[3:] or NAMES:
            prompts = json.loads((ROOT / name / "golden.json").read_text(encoding="utf-8"))["prompts"]
            for kind in ["f32", "f16", "bf16"]:
                path = Path(directory) / f"{name}-{kind}.gguf"
                convert(llama_cpp, name, path, kind)
                problems = [problem for prompt in prompts if (problem := check(tandem, name, path, prompt))]
                failed += len(problems)
                print("ok  " if not problems else "FAIL", name, kind, *problems, sep=" ")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
