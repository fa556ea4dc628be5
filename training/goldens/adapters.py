"""Makes `goldens/adapters/`: tiny adapters for the golden checkpoints, and what transformers and PEFT answer with them.

usage: adapters.py [--only NAME]... [--search]

The other forms of an adapter (`mlx/`, `onnx/`) are made from the same factors; training/gguf/adapters.py makes `gguf*/`. See goldens/README.md.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import peft
import torch
import transformers
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from adapter_specs import SPECS
from checkpoints import load, n_bytes, write_json
from prompts import PROMPTS
from reference import N_GREEDY, encode_prompts, forward, greedy, is_lively, relative_difference

ROOT = Path(__file__).resolve().parents[2] / "goldens"
LIMIT_BYTES = 250_000
F32_TOLERANCE = 1e-4
# The long prompts are for the base models' own goldens.
USED_PROMPTS = ("ascii", "single")
# Every row of this many is stored of a merged weight.
ROW_STEP = 5


def adapted(spec, seed):
    """The base with an adapter whose every parameter is random and matters, computing in f32."""
    model = peft.get_peft_model(load(ROOT / spec["base"]), peft.LoraConfig(task_type="CAUSAL_LM", **spec["lora"]))
    generator = np.random.default_rng(seed)
    dtype = getattr(torch, spec["dtype"])
    modules = {name: module for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in sorted(trained):
        parameter, shape = trained[name], tuple(trained[name].shape)
        normal = generator.standard_normal(shape)
        if "lora_A" in name:
            value = normal / np.sqrt(shape[1])
        elif "lora_B" in name:
            module = modules[name[: name.index(".lora_B")]]
            value = 0.7 * normal / np.sqrt(shape[1]) / module.scaling["default"]
        elif "lora_magnitude_vector" in name:
            value = parameter.detach().numpy() * (1.0 + 0.3 * normal)
        else:
            value = parameter.detach().numpy() + 0.3 * normal
        # What is stored is what is computed with.
        parameter.data = torch.from_numpy(value.astype(np.float32)).to(dtype).float()
    return model.eval()


def search_seed(spec, prompts, special_ids, tries=3000):
    """The first seed whose adapter is lively."""
    for seed in range(tries):
        if is_lively(adapted(spec, seed), prompts, special_ids):
            return seed
    raise SystemExit(f"no lively seed below {tries} for an adapter of `{spec['base']}`")


def save(model, directory, spec):
    """As PEFT saves it, in the dtype of the golden, with lists in order and the base by its name."""
    model.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_model.safetensors"
    tensors = {name: value.to(getattr(torch, spec["dtype"])).contiguous() for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config[name], list):
            config[name] = sorted(config[name])
    config["base_model_name_or_path"] = f"goldens/{spec['base']}"
    write_json(directory / "adapter_config.json", config)


def factors(model):
    """The modules that PEFT adapted, by the base's names: `A [rank, inputs]`, `B [outputs, rank]`, scale, magnitude."""
    found = {}
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            magnitude = module.lora_magnitude_vector
            found[name] = {
                "a": module.lora_A["default"].weight.detach().numpy(),
                "b": module.lora_B["default"].weight.detach().numpy(),
                "scale": float(module.scaling["default"]),
                "magnitude": magnitude["default"].weight.detach().numpy() if "default" in magnitude else None,
            }
    return dict(sorted(found.items()))


def merged_rows(directory, spec):
    """Rows of every weight that `merge_and_unload` changes, of the adapter as it is stored."""
    base = load(ROOT / spec["base"])
    before = {name: value.clone() for name, value in base.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(base, directory).merge_and_unload().state_dict()
    assert merged.keys() == before.keys()
    changed = [name for name in sorted(merged) if not torch.equal(merged[name], before[name])]
    return {f"merged.{name}": np.ascontiguousarray(merged[name].numpy()[::ROW_STEP]) for name in changed}


def reference(directory, spec, model):
    """golden.safetensors, and the prompts of golden.json."""
    base = ROOT / spec["base"]
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    plain, stored = load(base), peft.PeftModel.from_pretrained(load(base), directory).eval()
    exact = peft.PeftModel.from_pretrained(load(base, torch.float64), directory).double().eval()
    tensors, prompts, noise, influence = {}, [], 0.0, 1e9
    for (name, text), ids in zip(PROMPTS, encode_prompts(base)):
        if name not in USED_PROMPTS:
            continue
        logits = forward(stored, ids)[0]
        assert np.array_equal(logits, forward(model, ids)[0]), "the stored adapter is not the one in memory"
        noise = max(noise, relative_difference(logits, forward(exact, ids)[0]))
        influence = min(influence, relative_difference(forward(plain, ids)[0], logits))
        tensors[f"prompt.{len(prompts)}"] = np.ascontiguousarray(logits)
        tokens, margins = greedy(stored, ids)
        prompts.append(
            {
                "name": name,
                "text": text,
                "ids": ids,
                "stored_positions": [0, len(ids)],
                "greedy_tokens": tokens,
                "greedy_text": tokenizer.decode(tokens, skip_special_tokens=False),
                "least_margin": min(margins),
            }
        )
    assert influence > 100 * F32_TOLERANCE, f"{directory.name} moves the logits by {influence} only"
    return tensors, prompts, {"float32_noise": noise, "influence": influence}


def write_mlx(directory, spec, found):
    """The form of mlx-lm (mlx_lm/tuner/lora.py and dora.py, 0.28): factors transposed, one scale for all.

    Where scales differ, B takes their ratio. Where ranks do, the largest is written; mlx-lm takes the factors' shapes as they are.
    """
    directory.mkdir()
    rank, scale = max(f["a"].shape[0] for f in found.values()), max(f["scale"] for f in found.values())
    tensors = {}
    for name, f in found.items():
        b = f["b"] if f["scale"] == scale else (f["b"].astype(np.float64) * f["scale"] / scale).astype(np.float32)
        tensors[f"{name}.lora_a"] = np.ascontiguousarray(f["a"].T)
        tensors[f"{name}.lora_b"] = np.ascontiguousarray(b.T)
        if f["magnitude"] is not None:
            tensors[f"{name}.m"] = f["magnitude"]
    save_arrays(tensors, directory / "adapters.safetensors", metadata={"format": "mlx"})
    config = json.loads((ROOT / spec["base"] / "config.json").read_text(encoding="utf-8"))
    first = min(int(name.split(".")[2]) for name in found)
    dora = any(f["magnitude"] is not None for f in found.values())
    config = {
        "fine_tune_type": "dora" if dora else "lora",
        "lora_parameters": {
            "dropout": 0.0,
            "keys": sorted({name.split(".", 3)[3] for name in found}),
            "rank": rank,
            "scale": scale,
        },
        "model": f"goldens/{spec['base']}",
        "num_layers": config["num_hidden_layers"] - first,
    }
    write_json(directory / "adapter_config.json", config)


def write_onnx(directory, found):
    """`.onnx_adapter` by ONNX Runtime's own writer, with Olive's names: transposed, and B has the scale."""
    directory.mkdir()
    parameters = {}
    for name, f in found.items():
        b = (f["b"].astype(np.float64) * f["scale"]).astype(np.float32)
        for factor, value in (("A", f["a"]), ("B", b)):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value.T))
            parameters[f"{name}.lora_{factor}.weight"] = value
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters(parameters)
    adapter.export_adapter(str(directory / "adapter.onnx_adapter"))


def make(name, search):
    """One directory of `goldens/adapters/`, from nothing but for `gguf*/`."""
    spec, directory = SPECS[name], ROOT / "adapters" / name
    base = ROOT / spec["base"]
    for path in directory.iterdir() if directory.is_dir() else []:
        if not path.name.startswith("gguf"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    directory.mkdir(parents=True, exist_ok=True)
    ids = [ids for (prompt, _), ids in zip(PROMPTS, encode_prompts(base)) if prompt in USED_PROMPTS]
    special_ids = set(Tokenizer.from_file(str(base / "tokenizer.json")).get_added_tokens_decoder())
    seed = search_seed(spec, ids, special_ids) if search else spec["seed"]
    model = adapted(spec, seed)
    assert is_lively(model, ids, special_ids), f"seed {seed} of `{name}` is not lively: `--search` finds one that is"
    save(model, directory, spec)
    found = factors(model)
    tensors, prompts, measured = reference(directory, spec, model)
    save_arrays(tensors | merged_rows(directory, spec), directory / "golden.safetensors")
    if "mlx" in spec["also"]:
        write_mlx(directory / "mlx", spec, found)
    if "onnx" in spec["also"]:
        write_onnx(directory / "onnx", found)
    record = {
        "why": spec["why"],
        "base": spec["base"],
        "seed": seed,
        "made_with": {
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "torch": torch.__version__.split("+")[0],
            "onnxruntime": onnxruntime.__version__,
        },
        **measured,
        "least_margin": min(p["least_margin"] for p in prompts),
        "modules": {
            module: {
                "rank": f["a"].shape[0],
                "inputs": f["a"].shape[1],
                "outputs": f["b"].shape[0],
                "scale": f["scale"],
                "a_first": [float(value) for value in f["a"].reshape(-1)[:3]],
                "b_last": [float(value) for value in f["b"].reshape(-1)[-3:]],
                "magnitude": f["magnitude"] is not None,
            }
            for module, f in found.items()
        },
        "merged_row_step": ROW_STEP,
        "prompts": prompts,
        "exports": {
            "made": {
                "tolerance": F32_TOLERANCE,
                "greedy_equal": True,
                "reason": "the project's bar for f32; what was measured is rounding of another order of summation",
            }
        },
    }
    write_json(directory / "golden.json", record)
    size = n_bytes(directory)
    print(f"{name}: seed {seed}, {size} bytes, noise {measured['float32_noise']:.2g}, influence {measured['influence']:.2g}")
    assert size <= LIMIT_BYTES, f"`{name}` is larger than {LIMIT_BYTES} bytes"
    assert all(len(p["greedy_tokens"]) == N_GREEDY for p in prompts)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", choices=SPECS)
    parser.add_argument("--search", action="store_true", help="search the seeds again")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # One thread: the order of sums is then the same everywhere.
    torch.set_num_threads(1)
    for name in arguments.only or SPECS:
        make(name, arguments.search)


if __name__ == "__main__":
    main()
