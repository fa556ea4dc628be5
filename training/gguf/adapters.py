"""Makes `goldens/adapters/*/gguf*/`: golden adapters as llama.cpp's own converter writes them.

usage: adapters.py LLAMA_CPP

LLAMA_CPP is a checkout of llama.cpp. The files are small, and the tests read them (`crates/core/tests/it/adapters.rs`). Beside an adapter in
Q8_0 is what its values stand for, decoded by llama.cpp's own Python, as an adapter of PEFT.
"""

import json
import subprocess
import sys

import numpy as np
from safetensors.numpy import save_file

from check import ROOT

sys.path.append(str(ROOT.parent / "training" / "goldens"))
from adapter_specs import SPECS  # noqa: E402

# What GGUF calls a projection, and what checkpoints do.
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(llama_cpp, directory, kind, target):
    base = ROOT / json.loads((directory / "golden.json").read_text(encoding="utf-8"))["base"]
    target.parent.mkdir(exist_ok=True)
    command = [sys.executable, f"{llama_cpp}/convert_lora_to_gguf.py", str(directory), "--base", str(base)]
    done = subprocess.run(
        [*command, "--outfile", str(target), "--outtype", kind], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{directory.name}: the converter failed\n{done.stderr}")


def in_published_order(rows, n_heads):
    """The inverse of the converter's `LlamaModel.permute`."""
    return rows.reshape(n_heads, rows.shape[0] // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def decode(llama_cpp, directory, source):
    """The adapter in `source` as PEFT has it, in f32."""
    sys.path.insert(1, f"{llama_cpp}/gguf-py")
    import gguf

    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    base = json.loads((directory / "golden.json").read_text(encoding="utf-8"))["base"]
    base = json.loads((ROOT / base / "config.json").read_text(encoding="utf-8"))
    heads = {"attn_q": base["num_attention_heads"], "attn_k": base["num_key_value_heads"]}
    tensors, kinds = {}, set()
    for tensor in gguf.GGUFReader(str(source)).tensors:
        _, layer, name, _, factor = tensor.name.split(".")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kinds.add(tensor.tensor_type.name)
        if base["model_type"] == "llama" and factor == "lora_b" and name in heads:
            values = in_published_order(values, heads[name])
        factor = {"lora_a": "lora_A", "lora_b": "lora_B"}[factor]
        module = f"base_model.model.model.layers.{layer}.{MODULES[name]}"
        tensors[f"{module}.{factor}.weight"] = np.ascontiguousarray(values)
    assert "Q8_0" in kinds, kinds
    target = source.parent / "decoded"
    target.mkdir(exist_ok=True)
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, spec in SPECS.items():
        directory = ROOT / "adapters" / name
        if "gguf" in spec["also"]:
            convert(sys.argv[1], directory, "f32", directory / "gguf" / "adapter.gguf")
        if "gguf-q8_0" in spec["also"]:
            target = directory / "gguf-q8_0" / "adapter.gguf"
            convert(sys.argv[1], directory, "q8_0", target)
            decode(sys.argv[1], directory, target)


if __name__ == "__main__":
    main()
