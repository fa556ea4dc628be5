"""Makes `goldens/`: tiny checkpoints, what transformers answers for them, and their ONNX exports.

usage: make.py [--optimum-python PYTHON] [--only NAME]...

Everything is decided by the seeds found by search and by the versions in requirements.txt. See goldens/README.md.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_genai
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer

import exports
from checkpoints import SPECS, load, n_bytes, write_configs, write_json, write_weights
from graphs import Decoder, measure
from prompts import PROMPTS
from reference import N_GREEDY, encode_prompts, forward, greedy, relative_difference, search_seed, stored_positions

ROOT = Path(__file__).resolve().parents[2] / "goldens"
LIMIT_BYTES = 1_000_000
F32_TOLERANCE = 1e-4

REASONS = {
    "f32": "the project's bar for f32: 1e-4 of the largest logit; what was measured is rounding of another summation order",
    "int4": (
        "4-bit weights in blocks of 32 and 8-bit activations (accuracy_level 4); random weights have no redundancy, "
        "so the error is far above that of a trained model; 1.5 times what was measured, for other instruction sets"
    ),
    "int8": (
        "7-bit weights a channel and 8-bit activations a tensor, scaled at run time, so that it also depends on how "
        "many tokens one call holds; random weights have no redundancy; 1.5 times what was measured, for other "
        "instruction sets"
    ),
}


def reference(directory, spec, seed):
    """golden.safetensors, and the part of golden.json that transformers alone decides."""
    model, exact = load(directory), load(directory, torch.float64)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tensors, prompts, noise = {}, [], 0.0
    for index, ((name, text), ids) in enumerate(zip(PROMPTS, encode_prompts(directory))):
        logits, hidden = forward(model, ids)
        noise = max(noise, relative_difference(logits, forward(exact, ids)[0]))
        positions = stored_positions(index, len(ids))
        tensors[f"prompt.{index}"] = np.ascontiguousarray(logits[positions])
        tensors[f"hidden.{index}"] = np.ascontiguousarray(hidden[positions])
        tokens, margins = greedy(model, ids)
        generated = model.generate(torch.tensor([ids]), max_new_tokens=N_GREEDY, do_sample=False)[0, len(ids) :].tolist()
        assert generated == tokens, f"`generate` and the step-by-step loop differ for `{name}`"
        prompts.append(
            {
                "name": name,
                "text": text,
                "ids": ids,
                "ids_with_special_tokens": tokenizer.encode(text, add_special_tokens=True).ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "stored_positions": [positions[0], positions[-1] + 1],
                "greedy_tokens": tokens,
                "greedy_text": tokenizer.decode(tokens, skip_special_tokens=False),
                "least_margin": min(margins),
            }
        )
    save_file(tensors, directory / "golden.safetensors")
    record = {
        "why": spec["why"],
        "config_form": spec["config_form"],
        "seed": seed,
        "weights_dtype": spec["dtype"],
        "compute_dtype": "float32",
        "made_with": {
            "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0],
            "tokenizers": __import__("tokenizers").__version__,
            "onnxruntime": onnxruntime.__version__,
            "onnxruntime-genai": onnxruntime_genai.__version__,
            "optimum-onnx": "0.1.0",
        },
        "largest_logit": max(float(np.abs(tensors[f"prompt.{i}"]).max()) for i in range(len(prompts))),
        "float32_noise": noise,
        "least_margin": min(p["least_margin"] for p in prompts),
        "prompts": prompts,
    }
    return record, tensors


def kv_dims(config):
    heads = config["num_attention_heads"]
    return config["num_key_value_heads"], config.get("head_dim") or config["hidden_size"] // heads


def round_up(value):
    """1.5 times `value`, to two significant digits, upwards."""
    scale = 10.0 ** (np.floor(np.log10(value * 1.5)) - 1)
    return float(f"{np.ceil(value * 1.5 / scale) * scale:.2g}")


def check_export(path, kind, dims, record, tensors):
    """One graph against the reference; an f32 graph that fails its bar stops the making."""
    prompts = record["prompts"]
    decoder = Decoder(path, dims)
    ids = [p["ids"] for p in prompts]
    logits = [tensors[f"prompt.{i}"] for i in range(len(prompts))]
    measured = measure(decoder, ids, logits, [p["greedy_tokens"] for p in prompts])
    worst = max(*measured["relative"], measured["relative_chunked"])
    exact = kind == "f32"
    if exact:
        assert worst < F32_TOLERANCE, f"{path}: {worst}"
        assert set(measured["equal_greedy_prefix"]) == {N_GREEDY}, f"{path}: {measured['equal_greedy_prefix']}"
    return {
        "tolerance": F32_TOLERANCE if exact else round_up(worst),
        "tolerance_rms": F32_TOLERANCE if exact else round_up(max(measured["rms"])),
        "greedy_equal": exact,
        "reason": REASONS[kind],
        "measured": measured,
        **decoder.signature(),
    }


def make_checkpoint(name, optimum_python, seed=None):
    """One directory of `goldens/`, from nothing."""
    spec, directory = SPECS[name], ROOT / name
    shutil.rmtree(directory, ignore_errors=True)
    write_configs(directory, spec, spec["config_form"])
    if seed is None:
        seed = search_seed(directory, spec)
    write_weights(directory, spec, seed)
    record, tensors = reference(directory, spec, seed)
    exports.export_all(directory, spec, optimum_python)
    record["exports"] = {
        export: check_export(
            directory / "onnx" / export / "model.onnx", export.split("_")[1], kv_dims(spec["config"]), record, tensors
        )
        for export in exports.EXPORTS
    }
    write_json(directory / "golden.json", record)
    size = n_bytes(directory)
    print(f"{name}: seed {seed}, {size} bytes, least margin {record['least_margin']:.3g}")
    for export, result in record["exports"].items():
        measured = result["measured"]
        print(
            f"  {export}: relative {max(measured['relative']):.2g}, chunked {measured['relative_chunked']:.2g}, "
            f"rms {max(measured['rms']):.2g}, greedy {measured['equal_greedy_prefix']}"
        )
    assert size <= LIMIT_BYTES, f"`{name}` is larger than {LIMIT_BYTES} bytes"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimum-python", default=os.environ.get("OPTIMUM_PYTHON"))
    parser.add_argument("--only", action="append", choices=list(SPECS))
    arguments = parser.parse_args()
    if arguments.optimum_python is None:
        parser.error("`--optimum-python` (or OPTIMUM_PYTHON) names the python of the optimum environment")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # One thread: the order of sums is then the same everywhere.
    torch.set_num_threads(1)
    for name in arguments.only or SPECS:
        make_checkpoint(name, arguments.optimum_python)


if __name__ == "__main__":
    main()
