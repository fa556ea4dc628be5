"""Makes a checkpoint of random weights in the exact shapes of a published model, to measure speed with.

usage: make.py SHAPE DIRECTORY [--dtype bf16|f32] [--seed N] [--genai int4|fp32 GRAPH_DIRECTORY]...

Speed does not depend on what the weights say, so nothing has to be downloaded. What it generates is noise.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "transformers_version": "4.57.6",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SHAPES = {
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 21,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
    },
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
    },
}
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
# Where the published vocabularies have their special tokens.
SPECIALS = {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"}
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# For ONNX Runtime and the hub's library: nothing is looked for or reported.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1"}


def training_text():
    """Sources of two of Python's own modules: English and code that are always at hand (the same for one Python)."""
    return [Path(module.__file__).read_text(encoding="utf-8") for module in (argparse, textwrap)]


def tokenizer():
    """A byte-level BPE, padded with tokens no text encodes to, so that every id below the specials decodes."""
    tokens = Tokenizer(models.BPE())
    tokens.normalizer = normalizers.NFC()
    tokens.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokens.decoder = decoders.ByteLevel()
    tokens.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False)
    tokens.train_from_iterator(training_text(), trainer)
    state = json.loads(tokens.to_str())
    vocab = state["model"]["vocab"]
    for index in range(len(vocab), min(SPECIALS)):
        # `Ġ` is a space: the padding decodes to text that a person can tell from words.
        vocab[f"Ġ#{index}"] = index
    tokens = Tokenizer.from_str(json.dumps(state))
    tokens.add_special_tokens([AddedToken(SPECIALS[i], special=True, normalized=False) for i in sorted(SPECIALS)])
    assert all(tokens.token_to_id(token) == index for index, token in SPECIALS.items())
    return tokens


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_configs(directory, shape, dtype):
    """Everything of the checkpoint but the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    name = str(DTYPES[dtype]).removeprefix("torch.")
    write_json(directory / "config.json", dict(sorted({**COMMON, **SHAPES[shape], "torch_dtype": name}.items())))
    write_json(
        directory / "generation_config.json", {"bos_token_id": 151643, "eos_token_id": 151645, "do_sample": False}
    )
    (directory / "tokenizer.json").write_text(tokenizer().to_str() + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": SHAPES[shape]["max_position_embeddings"],
        "pad_token": "<|endoftext|>",
        "unk_token": None,
    }
    write_json(directory / "tokenizer_config.json", config)


def write_weights(directory, dtype, seed):
    """Normal weights of the published initial size, in the order of their names; norms are one."""
    config = transformers.AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in sorted(model.named_parameters()):
        # The head is tied and, as in the published checkpoints, not stored.
        if name == "lm_head.weight":
            continue
        if name.endswith("norm.weight"):
            value = torch.ones(parameter.shape)
        else:
            value = 0.02 * torch.randn(parameter.shape, generator=generator)
        weights[name] = value.to(DTYPES[dtype])
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def export(directory, precision, output):
    """The builder's graph beside a copy of the configs and the tokenizer, so that the directory loads by itself."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", directory, "-o", output]
        command += ["-p", precision, "-e", "cpu", "-c", scratch]
        if precision == "int4":
            command += ["--extra_options", "int4_block_size=32", "int4_accuracy_level=4"]
        subprocess.run(command, env={**os.environ, **OFFLINE}, check=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directory / name, output)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--genai", nargs=2, action="append", default=[], metavar=("PRECISION", "GRAPH_DIRECTORY"))
    arguments = parser.parse_args()
    write_configs(arguments.directory, arguments.shape, arguments.dtype)
    write_weights(arguments.directory, arguments.dtype, arguments.seed)
    for precision, output in arguments.genai:
        export(arguments.directory, precision, Path(output))


if __name__ == "__main__":
    main()
