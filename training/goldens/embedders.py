"""Makes `goldens/embedders/`: tiny embedders as sentence-transformers saves them, and what it answers for them.

usage: embedders.py --old-python PYTHON [--only NAME]...

`PYTHON` is that of the environment with optimum, which also has sentence-transformers 5.1 (requirements-embedders.txt).
Everything is decided by the seeds in embedder_specs.py and by the versions. See goldens/README.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Sums come out the same wherever the memory lies; to be set before torch is loaded.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

import embedder_modules
from checkpoints import n_bytes, write_json
from embedder_checkpoints import write_checkpoint
from embedder_specs import SPECS
from embedder_texts import ALL

ROOT = Path(__file__).resolve().parents[2] / "goldens" / "embedders"
HERE = Path(__file__).resolve().parent
LIMIT_BYTES = 400_000
MADE_WITH = {
    "sentence-transformers": sentence_transformers.__version__,
    "transformers": transformers.__version__,
    "torch": torch.__version__.split("+")[0],
    "tokenizers": tokenizers.__version__,
}
OLD_VERSIONS = {"sentence-transformers": "5.1.2", "transformers": "4.57.6"}


def save(directory, spec, old_python, form):
    """The directory as sentence-transformers writes it, or as transformers alone does where there are no modules."""
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        write_checkpoint(checkpoint, spec)
        if spec["modules"] is None:
            shutil.copytree(checkpoint, directory)
            return
        recipe = {"checkpoint": str(checkpoint), "output": str(directory), "seed": spec["seed"]}
        recipe |= {key: spec[key] for key in RECIPE_KEYS if key in spec}
        if form == "new":
            embedder_modules.save(**recipe)
        else:
            path = Path(scratch) / "recipe.json"
            write_json(path, recipe)
            subprocess.run([old_python, HERE / "embedder_modules.py", path], check=True)


RECIPE_KEYS = (
    "modules",
    "max_seq_length",
    "do_lower_case",
    "prompts",
    "default_prompt_name",
    "truncate_dim",
)


def edit(directory, spec):
    """What published directories have that no tool writes by itself."""
    for name in spec.get("removed", []):
        (directory / name).unlink()
    for name, changes in spec.get("edited", {}).items():
        value = json.loads((directory / name).read_text(encoding="utf-8"))
        write_json(directory / name, {key: v for key, v in (value | changes).items() if v is not ABSENT})
    if spec.get("author_settings"):
        write_author_settings(directory)
    assert not any("/tmp" in path.read_text(errors="ignore") for path in directory.rglob("*.json"))


ABSENT = object()


def write_author_settings(directory):
    """Truncation and padding with which the author once saved `tokenizer.json`, and which sentence-transformers ignores."""
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    pad_token = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))["pad_token"]
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=tokenizer.token_to_id(pad_token), pad_token=pad_token)
    path.write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")


def load(directory, dtype=torch.float32):
    return SentenceTransformer(
        str(directory),
        device="cpu",
        local_files_only=True,
        model_kwargs={"attn_implementation": "eager", "dtype": dtype},
    )


def number(value):
    """Nine digits tell every f32 apart."""
    return float(f"{value:.9g}")


def rows(matrix):
    return [[number(value) for value in row] for row in matrix]


def resolved_prompt(model, role, prompt, prompt_name):
    """The prompt that sentence-transformers puts in front."""
    if prompt is None and prompt_name is None:
        names = {"query": ["query"], "document": ["document", "passage", "corpus"], None: []}[role]
        prompt_name = next((name for name in names if name in model.prompts), None)
        # A role without a prompt of its own falls back to the default one.
        prompt_name = prompt_name or model.default_prompt_name
    return prompt if prompt is not None else model.prompts[prompt_name] if prompt_name else None


def answer(model, case):
    """One case of expected.json."""
    texts = case["texts"]
    role, prompt, prompt_name = (case.get(key) for key in ("role", "prompt", "prompt_name"))
    encode = {None: model.encode, "query": model.encode_query, "document": model.encode_document}[role]
    used = resolved_prompt(model, role, prompt, prompt_name)
    ids = [model.preprocess([text], prompt=used)["input_ids"][0].tolist() for text in texts]
    record = {
        "texts": texts,
        "role": role,
        "prompt": prompt,
        "prompt_name": prompt_name,
        "used_prompt": used,
        "dimensions": case.get("dimensions"),
        "normalize": case.get("normalize"),
        "token_ids": ids,
        "truncated": [is_truncated(model, (used or "") + text) for text in texts],
    }
    if "appended" in case:
        record |= appended(model, case["appended"], record)
    else:
        arguments = {"truncate_dim": case.get("dimensions"), "normalize_embeddings": bool(case.get("normalize"))}
        # One by one: nothing is padded.
        vectors = encode(texts, prompt=prompt, prompt_name=prompt_name, batch_size=1, **arguments)
        record["embeddings"] = rows(vectors)
    if case.get("token_embeddings"):
        states = [model.encode([text], output_value="token_embeddings")[0] for text in texts]
        record["token_embeddings"] = [rows(state.numpy()) for state in states]
    return record


def is_truncated(model, text):
    return len(model.tokenizer(text)["input_ids"]) > model.max_seq_length


def appended(model, token, record):
    """The same texts with a token at the end that the tokenizer does not put there; it is never cut."""
    end = model.tokenizer.convert_tokens_to_ids(token)
    whole = [model.tokenizer((record["used_prompt"] or "") + text)["input_ids"] for text in record["texts"]]
    ids = [part[: model.max_seq_length - 1] + [end] for part in whole]
    vectors = []
    for row in ids:
        features = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.int64)}
        with torch.inference_mode():
            vectors.append(model(features)["sentence_embedding"][0].numpy())
    truncated = [len(part) >= model.max_seq_length for part in whole]
    return {"appended_token": token, "token_ids": ids, "truncated": truncated, "embeddings": rows(vectors)}


def noise(directory, texts, prompt):
    """How far f32 is from f64, in units of the largest value. One by one: windows of padding alone are NaN in f64."""
    models = [load(directory, dtype) for dtype in (torch.float32, torch.float64)]
    single, double = (model.encode(texts, prompt=prompt, batch_size=1) for model in models)
    return float(f"{np.abs(single - double).max() / np.abs(double).max():.1g}")


def make(name, spec, old_python):
    directory = ROOT / name
    save(directory, spec, old_python, spec["form"])
    edit(directory, spec)
    model = load(directory)
    modules = [type(module).__name__ for module in model]
    modes = model[1].pooling_mode
    cases = [answer(model, case) for case in spec["cases"]]
    first = cases[0]
    record = {
        "why": spec["why"],
        "made_with": MADE_WITH,
        "saved_with": None if spec["modules"] is None else OLD_VERSIONS if spec["form"] == "old" else MADE_WITH,
        "seed": spec["seed"],
        "max_seq_length": model.max_seq_length,
        "modules": modules,
        "pooling": [modes] if isinstance(modes, str) else list(modes),
        "include_prompt": model[1].include_prompt,
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "truncate_dim": model.truncate_dim,
        "float32_noise": noise(directory, [text for text in first["texts"] if text], first["used_prompt"]),
        "cases": cases,
    }
    write_json(directory / "expected.json", record)
    spread(name, cases[0])
    size = n_bytes(directory)
    print(f"{name}: {modules}, length {model.max_seq_length}, noise {record['float32_noise']}, {size} bytes")
    assert size <= LIMIT_BYTES, f"`{name}` is larger than {LIMIT_BYTES} bytes"


def spread(name, case):
    """Texts shall differ: their vectors are neither equal nor all in one direction."""
    vectors = np.array(case["embeddings"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    print(f"  cosines {cosines.min():.2f} to {cosines.max():.5f}, mean {cosines.mean():.2f}")
    if case["texts"] == ALL:
        assert cosines.max() < 0.9999 and cosines.mean() < 0.9, f"the texts of `{name}` are too much alike"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--old-python", default=os.environ.get("OPTIMUM_PYTHON"))
    parser.add_argument("--only", action="append", choices=SPECS)
    arguments = parser.parse_args()
    if arguments.old_python is None:
        parser.error("`--old-python` (or OPTIMUM_PYTHON) names the python with sentence-transformers 5.1")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # One thread: the order of sums is then the same everywhere.
    torch.set_num_threads(1)
    for name in arguments.only or SPECS:
        make(name, SPECS[name], arguments.old_python)


if __name__ == "__main__":
    main()
