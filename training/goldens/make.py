"""Makes `goldens/`: tiny checkpoints, what transformers answers for them, and their ONNX exports.

usage: make.py [--optimum-python PYTHON] [--only NAME]... [--search]

Everything is decided by the seeds in checkpoints.py and by the versions in requirements.txt. See goldens/README.md.
"""

import argparse
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_genai
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import community
import exports
from checkpoints import SPECS, load, n_bytes, write_configs, write_json, write_weights
from graphs import Decoder, largest_weight_error, measure
from prompts import PROMPTS
from reference import (
    N_GREEDY,
    encode_prompts,
    forward,
    greedy,
    influence,
    relative_difference,
    search_seed,
    stored_positions,
)

ROOT = Path(__file__).resolve().parents[2] / "goldens"
LIMIT_BYTES = 1_000_000
F32_TOLERANCE = 1e-4

EXACT_WEIGHTS = (
    "the checkpoint's weights lie on a grid that the quantised weights hold exactly, so all of the difference is the "
    "rounding of activations"
)
OTHER_MACHINES = "1.5 times what was measured, for the kernels of other instruction sets"
REASONS = {
    "f32": "the project's bar for f32; what was measured is rounding of another order of summation",
    "int4": f"{EXACT_WEIGHTS}, to 8 bits in blocks of 32 (accuracy_level 4); {OTHER_MACHINES}",
    "int8": (
        f"{EXACT_WEIGHTS}, to 8 bits with one scale for a whole tensor, so that it also depends on how many tokens one "
        f"call holds; {OTHER_MACHINES}"
    ),
    "f16": (
        "weights are exact in f16, activations and caches are rounded to it; 3 times what was measured, because this "
        "machine sums in f32 and others may sum in f16"
    ),
    "q4": (
        "weights are exact in 4 bits, and without accuracy_level activations stay f32: the bar for f32. Where a loader "
        "sets accuracy_level 4, `tolerance_accuracy_level_4` counts: that of genai_int4"
    ),
}
# Times what was measured, rounded up to two digits.
HEADROOM = {"int4": 1.5, "int8": 1.5, "f16": 3.0}


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
        generated = model.generate(torch.tensor([ids]), max_new_tokens=N_GREEDY, do_sample=False)[
            0, len(ids) :
        ].tolist()
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
            "tokenizers": tokenizers.__version__,
            "onnxruntime": onnxruntime.__version__,
            "onnxruntime-genai": onnxruntime_genai.__version__,
            "optimum-onnx": "0.1.0",
        },
        "largest_logit": max(float(np.abs(tensors[f"prompt.{i}"]).max()) for i in range(len(prompts))),
        "float32_noise": noise,
        "least_margin": min(p["least_margin"] for p in prompts),
        "influence": influences(directory, prompts),
        "prompts": prompts,
    }
    return record, tensors


def influences(directory, prompts):
    """For the ASCII prompt, which is shorter than any rope is scaled for, and for the long one."""
    measured = {p["name"]: influence(directory, p["ids"]) for p in prompts if p["name"] in ("ascii", "long")}
    for name, parts in measured.items():
        assert min(parts.values()) > 100 * F32_TOLERANCE, f"{directory.name}, {name}: {parts}"
    return measured


def kv_dims(config):
    heads = config["num_attention_heads"]
    return config["num_key_value_heads"], config.get("head_dim") or config["hidden_size"] // heads


def round_up(value, headroom):
    """`headroom` times `value`, to two significant digits, upwards."""
    scale = 10.0 ** (np.floor(np.log10(value * headroom)) - 1)
    return float(f"{np.ceil(value * headroom / scale) * scale:.2g}")


def check_export(path, kind, dims, record, tensors):
    """One graph against the reference; an f32 graph that fails its bar stops the making."""
    prompts = record["prompts"]
    decoder = Decoder(path, dims)
    ids = [p["ids"] for p in prompts]
    logits = [tensors[f"prompt.{i}"] for i in range(len(prompts))]
    measured = measure(decoder, ids, logits, [p["greedy_tokens"] for p in prompts])
    check_num_logits_to_keep(decoder, ids[0])
    worst, worst_rms = max(*measured["relative"], measured["relative_chunked"]), max(measured["rms"])
    print(
        f"  {path.parent.name}/{path.name}: relative {max(measured['relative']):.2g}, "
        f"chunked {measured['relative_chunked']:.2g}, rms {worst_rms:.2g}, greedy {measured['equal_greedy_prefix']}"
    )
    headroom = HEADROOM.get(kind)
    greedy_equal = set(measured["equal_greedy_prefix"]) == {N_GREEDY}
    if headroom is None:
        assert worst < F32_TOLERANCE and greedy_equal, f"{path} is not equal to transformers: {measured}"
    return {
        "tolerance": F32_TOLERANCE if headroom is None else round_up(worst, headroom),
        "tolerance_rms": F32_TOLERANCE if headroom is None else round_up(worst_rms, headroom),
        "greedy_equal": headroom is None,
        "reason": REASONS[kind],
        "measured": measured,
        **decoder.signature(),
    }


def check_num_logits_to_keep(decoder, ids):
    """Where the graph has that input: 1 and 3 keep the last rows of what 0 gives."""
    if "num_logits_to_keep" not in decoder.inputs:
        return
    decoder.reset()
    full = decoder.append(ids)
    for n_kept in (1, 3):
        decoder.reset()
        kept = decoder.append(ids, n_kept)
        assert kept.shape[0] == n_kept and relative_difference(kept, full[-n_kept:]) < 0.05


def finish(directory, record):
    """Writes the record, and refuses a directory that has grown too large."""
    write_json(directory / "golden.json", record)
    size = n_bytes(directory)
    print(f"{directory.name}: seed {record['seed']}, {size} bytes, least margin {record['least_margin']:.3g}")
    assert size <= LIMIT_BYTES, f"`{directory.name}` is larger than {LIMIT_BYTES} bytes"


def make_checkpoint(name, optimum_python, search):
    """One directory of `goldens/`, from nothing."""
    spec, directory = SPECS[name], ROOT / name
    shutil.rmtree(directory, ignore_errors=True)
    write_configs(directory, spec, spec["config_form"])
    seed = search_seed(directory, spec) if search else spec["seed"]
    write_weights(directory, spec, seed)
    record, tensors = reference(directory, spec, seed)
    if not spec.get("exports", True):
        record["exports"] = {"made": {"tolerance": F32_TOLERANCE, "greedy_equal": True, "reason": REASONS["f32"]}}
        finish(directory, record)
        return
    exports.export_all(directory, spec, optimum_python)
    for family, quantized in (("genai", "int4"), ("optimum", "int8")):
        graphs = [directory / "onnx" / f"{family}_{kind}" / "model.onnx" for kind in ("f32", quantized)]
        assert largest_weight_error(*graphs) == 0.0, f"{graphs[1]} has other weights than the checkpoint"
    record["exports"] = {
        export: check_export(
            directory / "onnx" / export / "model.onnx", export.split("_")[1], kv_dims(spec["config"]), record, tensors
        )
        for export in exports.EXPORTS
    }
    finish(directory, record)


COMMUNITY_KINDS = {"model": "f32", "model_fp16": "f16", "model_q4": "q4", "model_q4f16": "f16", "model_int8": "int8"}


def make_community():
    """`onnx-community`: the checkpoint `qwen2-tied` with graphs as transformers.js loads them."""
    source, directory = ROOT / "qwen2-tied", ROOT / "onnx-community"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.name != "golden.json":
            shutil.copy(file, directory)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    # How these repositories say which file has how many files of external data.
    config["transformers.js_config"] = {"use_external_data_format": {"model.onnx": 2, "model_q4f16.onnx": 1}}
    write_json(directory / "config.json", config)
    record = json.loads((source / "golden.json").read_text(encoding="utf-8"))
    record["why"] = "the checkpoint qwen2-tied with graphs as onnx-community publishes them"
    int4 = record.pop("exports")["genai_int4"]
    tensors = load_file(directory / "golden.safetensors")
    names = community.write_all(source / "onnx" / "genai_f32" / "model.onnx", directory / "onnx")
    record["exports"] = {
        name: check_export(directory / "onnx" / f"{name}.onnx", COMMUNITY_KINDS[name], kv_dims(config), record, tensors)
        for name in names
    }
    record["exports"]["model_q4"]["tolerance_accuracy_level_4"] = int4["tolerance"]
    record["exports"]["model_q4"]["tolerance_rms_accuracy_level_4"] = int4["tolerance_rms"]
    finish(directory, record)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimum-python", default=os.environ.get("OPTIMUM_PYTHON"))
    parser.add_argument("--only", action="append", choices=[*SPECS, "onnx-community"])
    parser.add_argument("--search", action="store_true", help="search the seeds again")
    arguments = parser.parse_args()
    if arguments.optimum_python is None:
        parser.error("`--optimum-python` (or OPTIMUM_PYTHON) names the python of the optimum environment")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # One thread: the order of sums is then the same everywhere.
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for name in arguments.only or [*SPECS, "onnx-community"]:
        if name == "onnx-community":
            make_community()
        else:
            make_checkpoint(name, arguments.optimum_python, arguments.search)


if __name__ == "__main__":
    main()
