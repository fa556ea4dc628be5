"""Makes GGUF files of a checkpoint, for llama.cpp as a peer to measure against.

usage: gguf_files.py CHECKPOINT OUTPUT_PREFIX [--type q4_0|q4_0-as-published|q8_0|f32]...

CHECKPOINT is a directory of a Qwen2 or Qwen3 model, such as make.py or `tandem bench --shape` makes. OUTPUT_PREFIX gets `.Q4_0.gguf` and so
on. Matrices are quantised by the `gguf` package, whose blocks are llama.cpp's own; norms and biases stay f32. `q4_0` is 4 bits throughout, as
Tandem's int4 is; `q4_0-as-published` leaves embedding and head at 8 bits, as `llama-quantize` does with matrices whose rows are no multiple of
256. The vocabulary is one of placeholders: speed does not depend on what tokens mean, and llama-bench draws its tokens at random.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

F32, Q8_0, Q4_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0
# Of matrices, of embedding and head, of the file.
TYPES = {
    "f32": (F32, F32, gguf.LlamaFileType.ALL_F32),
    "q8_0": (Q8_0, Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Q4_0, Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    "q4_0-as-published": (Q4_0, Q8_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
VOCABULARY = ("token_embd.weight", "output.weight")
ARCHITECTURES = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def tensors(path):
    """Name and f32 values of every tensor of a safetensors file, one at a time (https://huggingface.co/docs/safetensors)."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            raw = file.read(end - start)
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {"F16": np.float16, "F32": np.float32}[entry["dtype"]]).astype(np.float32)
            yield name, values.reshape(entry["shape"])


def add_vocabulary(writer, config):
    """As many tokens as the model has rows: bytes first, then placeholders, the last ones special."""
    size = config["vocab_size"]
    alphabet = [chr(c) for c in range(256)]
    specials = {config.get("bos_token_id"), config.get("eos_token_id")}
    names = [alphabet[i] if i < 256 else f"#{i}" for i in range(size)]
    kinds = [gguf.TokenType.CONTROL if i in specials else gguf.TokenType.NORMAL for i in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])


def write(checkpoint, output, type_name):
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    architecture = ARCHITECTURES[config["model_type"]]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    of_matrices, of_vocabulary, file_type = TYPES[type_name]
    writer = gguf.GGUFWriter(output, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(checkpoint.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(file_type)
    add_vocabulary(writer, config)
    for name, values in tensors(checkpoint / "model.safetensors"):
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        quantization = of_vocabulary if new in VOCABULARY else of_matrices
        if values.ndim == 2 and quantization != F32:
            writer.add_tensor(new, gguf.quants.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(new, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("prefix")
    parser.add_argument("--type", action="append", choices=list(TYPES), default=[])
    arguments = parser.parse_args()
    for type_name in arguments.type or ["q4_0", "q8_0"]:
        write(arguments.checkpoint, f"{arguments.prefix}.{type_name[0].upper()}{type_name[1:]}.gguf", type_name)


if __name__ == "__main__":
    main()
