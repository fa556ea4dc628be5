"""The tiny checkpoints: their shapes, and their weights by seed.

transformers initialises biases with zero and norm weights with one, which would hide a backend that
forgets them; here every parameter is random, and large enough that greedy output is lively.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from tiny_tokenizers import FAMILIES

# What the shapes are for is said in `why`; it goes into golden.json.
# `seed` is the first that `make.py --search` finds lively (see reference.py).
# `config_form` 4 is config.json as transformers 4 writes it (`rope_theta` and `rope_scaling` beside each
# other), 5 as transformers 5 does (`rope_parameters`).
SPECS = {
    "qwen2-tied": {
        "why": "biases on q, k and v; tied head; config without head_dim; stored as f32",
        "seed": 168,
        "architecture": "Qwen2ForCausalLM",
        "tokenizer": "qwen",
        "config_form": 4,
        "dtype": "float32",
        "config": {
            "model_type": "qwen2",
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 256,
            "max_window_layers": 2,
            "eos_token_id": "<|im_end|>",
            "bos_token_id": "<|endoftext|>",
        },
    },
    "qwen2-untied": {
        "why": "biases on q, k and v; head_dim 16 where hidden_size / heads is 8; a head of its own; two end tokens",
        "seed": 8,
        "architecture": "Qwen2ForCausalLM",
        "tokenizer": "qwen",
        "config_form": 5,
        "dtype": "bfloat16",
        "config": {
            "model_type": "qwen2",
            "vocab_size": 288,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": 2,
            "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
            "bos_token_id": "<|endoftext|>",
        },
    },
    "qwen3": {
        "why": "norms on q and k, six heads on three kv heads of head_dim 16 with hidden_size 32, no biases, tied",
        "seed": 999,
        "architecture": "Qwen3ForCausalLM",
        "tokenizer": "qwen",
        "config_form": 4,
        "dtype": "bfloat16",
        "config": {
            "model_type": "qwen3",
            "vocab_size": 304,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 16,
            "attention_bias": False,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": 2,
            "eos_token_id": "<|im_end|>",
            "bos_token_id": "<|endoftext|>",
        },
    },
    "llama3-rope": {
        "why": "llama3 rope scaling that acts from the first tokens (kept, blended and divided frequencies), four heads on one kv head",
        "seed": 355,
        "architecture": "LlamaForCausalLM",
        "tokenizer": "llama3",
        "config_form": 5,
        "dtype": "bfloat16",
        "config": {
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "attention_bias": False,
            "mlp_bias": False,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            "tie_word_embeddings": True,
            "eos_token_id": ["<|end_of_text|>", "<|eot_id|>"],
            "bos_token_id": "<|begin_of_text|>",
        },
    },
    "llama-yarn": {
        "why": "yarn rope scaling, with its factor on attention; no graphs: what is made from the weights is what it is for",
        "seed": 57,
        "architecture": "LlamaForCausalLM",
        "tokenizer": "llama3",
        "config_form": 4,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "attention_bias": False,
            "mlp_bias": False,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            "tie_word_embeddings": True,
            "eos_token_id": ["<|end_of_text|>", "<|eot_id|>"],
            "bos_token_id": "<|begin_of_text|>",
        },
    },
    "llama-linear": {
        "why": "linear rope scaling; no graphs: what is made from the weights is what it is for",
        "seed": 1800,
        "architecture": "LlamaForCausalLM",
        "tokenizer": "llama3",
        "config_form": 5,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "attention_bias": False,
            "mlp_bias": False,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "tie_word_embeddings": True,
            "eos_token_id": ["<|end_of_text|>", "<|eot_id|>"],
            "bos_token_id": "<|begin_of_text|>",
        },
    },
    # A head size that ONNX Runtime's attention operator does not take: it rotates multiples of 16.
    "llama-head24": {
        "why": "heads of 24, a multiple of 8 and not of 16; no graphs: what is made from the weights is what it is for",
        "seed": 61,
        "architecture": "LlamaForCausalLM",
        "tokenizer": "llama3",
        "config_form": 4,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "attention_bias": False,
            "mlp_bias": False,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "tie_word_embeddings": True,
            "eos_token_id": ["<|end_of_text|>", "<|eot_id|>"],
            "bos_token_id": "<|begin_of_text|>",
        },
    },
    "mistral": {
        "why": "head_dim null and sliding_window null in the config, byte-fallback tokenizer, untied",
        "seed": 1,
        "architecture": "MistralForCausalLM",
        "tokenizer": "mistral",
        "config_form": 4,
        "dtype": "bfloat16",
        "config": {
            "model_type": "mistral",
            "vocab_size": 340,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": None,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "eos_token_id": "</s>",
            "bos_token_id": "<s>",
        },
    },
    # Families that only the candle backend runs. A window that reaches as far as the context is one that such an engine need not
    # know; gemma3's is one that it must.
    "gemma2": {
        "why": "norms on both sides of each block, whose weights are added to 1; soft caps on scores and logits that bite; scores scaled by another number than head_dim; embeddings scaled",
        "seed": 712,
        "gains": {"embed_tokens": 2.0, "after a block": 10.0},
        "architecture": "Gemma2ForCausalLM",
        "tokenizer": "mistral",
        "config_form": 4,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "gemma2",
            "vocab_size": 340,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 10.0,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "sliding_window": 256,
            "tie_word_embeddings": True,
            "eos_token_id": "</s>",
            "bos_token_id": "<s>",
        },
    },
    "gemma3": {
        "why": "as gemma2 without soft caps, with norms on q and k, two layers with a window of 24 and a rotary base of their own, and one that sees all",
        "seed": 116,
        "gains": {"embed_tokens": 3.0, "after a block": 30.0},
        "architecture": "Gemma3ForCausalLM",
        "tokenizer": "mistral",
        "config_form": 5,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "gemma3_text",
            "vocab_size": 340,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "query_pre_attn_scalar": 20,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 100.0,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
            "eos_token_id": "</s>",
            "bos_token_id": "<s>",
        },
    },
    "phi3": {
        "why": "query, key and value stored as one weight, gate and up as another; a head of its own",
        "seed": 2,
        "architecture": "Phi3ForCausalLM",
        "tokenizer": "mistral",
        "config_form": 4,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "phi3",
            "vocab_size": 340,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 256,
            "tie_word_embeddings": False,
            "eos_token_id": "</s>",
            "bos_token_id": "<s>",
            "pad_token_id": None,
        },
    },
    # Heads, head sizes, windows and biases of published members that the ones above lack, a member each.
    "qwen3-head128": {
        "why": "heads of 128 whose widths together exceed hidden_size, two on each kv head, as Qwen3-0.6B; norms on q and k",
        "seed": 217,
        "architecture": "Qwen3ForCausalLM",
        "tokenizer": "qwen",
        "config_form": 5,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "qwen3",
            "vocab_size": 288,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "attention_bias": False,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": 2,
            "eos_token_id": "<|im_end|>",
            "bos_token_id": "<|endoftext|>",
        },
    },
    "mistral-window": {
        "why": "a window of 24 tokens in all layers, as Mistral 7B v0.1 has one of 4096; heads whose widths together are less than hidden_size, as Mistral Nemo",
        "seed": 26,
        "architecture": "MistralForCausalLM",
        "tokenizer": "mistral",
        "config_form": 4,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "mistral",
            "vocab_size": 340,
            "hidden_size": 96,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 24,
            "tie_word_embeddings": False,
            "eos_token_id": "</s>",
            "bos_token_id": "<s>",
        },
    },
    "gemma2-window": {
        "why": "a window of 24 tokens in every other layer, as published ones have one of 4096; heads of 64; scores scaled by hidden_size / heads, as the one of 27B",
        "seed": 199,
        "gains": {"embed_tokens": 2.0, "after a block": 10.0},
        "architecture": "Gemma2ForCausalLM",
        "tokenizer": "mistral",
        "config_form": 5,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "gemma2",
            "vocab_size": 340,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 10.0,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
            "eos_token_id": "</s>",
            "bos_token_id": "<s>",
        },
    },
    "phi3-window": {
        "why": "heads of 96 that share no keys and a window of 24 tokens, as Phi-3 mini has heads of 96 and a window of 2047",
        "seed": 27,
        "architecture": "Phi3ForCausalLM",
        "tokenizer": "mistral",
        "config_form": 4,
        "dtype": "bfloat16",
        "exports": False,
        "config": {
            "model_type": "phi3",
            "vocab_size": 340,
            "hidden_size": 192,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 24,
            "tie_word_embeddings": False,
            "eos_token_id": "</s>",
            "bos_token_id": "<s>",
            "pad_token_id": None,
        },
    },
}
# Their norms multiply by one more than their weight, and there are norms after each block. What a block adds must outweigh the
# embedding, which is scaled up and is the head as well: a model that adds little repeats its input.
ADDED_TO_ONE = ("gemma2", "gemma3_text")
AFTER_A_BLOCK = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")


def config_json(spec, tokenizer, form):
    """`config.json` in the form of transformers 4 or 5: they name the rope and the dtype differently."""

    def ids(token):
        return [ids(t) for t in token] if isinstance(token, list) else tokenizer.token_to_id(token)

    config = {"architectures": [spec["architecture"]], **spec["config"]}
    if "hidden_activation" not in config:
        config["hidden_act"] = "silu"
    config.update(attention_dropout=0.0, initializer_range=0.02, use_cache=True)
    config["eos_token_id"] = ids(config["eos_token_id"])
    config["bos_token_id"] = ids(config["bos_token_id"])
    if form == 5:
        scaling = config.pop("rope_scaling", None) or {"rope_type": "default"}
        rope = {**scaling, "rope_theta": config.pop("rope_theta")}
        if "rope_local_base_freq" in config:
            local = {"rope_type": "default", "rope_theta": config.pop("rope_local_base_freq")}
            rope = {"full_attention": rope, "sliding_attention": local}
        config["rope_parameters"] = rope
        config["dtype"] = spec["dtype"]
        config["transformers_version"] = transformers.__version__
    else:
        config.setdefault("rope_scaling", None)
        config["torch_dtype"] = spec["dtype"]
        config["transformers_version"] = "4.57.6"
    return dict(sorted(config.items()))


def write_json(path, value):
    """Indented JSON, with each list of numbers on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = re.sub(
        r"\[[-+.eE\d,\s]*\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    assert json.loads(text) == value, f"`{path.name}` would say something else"
    path.write_text(text + "\n", encoding="utf-8")


def write_configs(directory, spec, form):
    """Everything of a checkpoint but the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer, tokenizer_config = FAMILIES[spec["tokenizer"]](spec["config"]["vocab_size"])
    config = config_json(spec, tokenizer, form)
    write_json(directory / "config.json", config)
    generation = {k: config[k] for k in ("bos_token_id", "eos_token_id")}
    write_json(directory / "generation_config.json", {**generation, "do_sample": False})
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
    tokenizer_config = {
        **tokenizer_config,
        "clean_up_tokenization_spaces": False,
        "model_max_length": spec["config"]["max_position_embeddings"],
    }
    write_json(directory / "tokenizer_config.json", tokenizer_config)
    return tokenizer


LAYER_GAIN = 1.8
# Lower where a higher one makes the model chaotic (sharp attention, heavy tails before down_proj), so that the
# rounding of quantised activations stays small at the logits.
GAINS = {
    "embed_tokens": 1.0,
    "lm_head": 3.0,
    "q_proj": 1.4,
    "k_proj": 1.4,
    "gate_proj": 1.4,
    "up_proj": 1.4,
    "qkv_proj": 1.4,
    "gate_up_proj": 1.4,
}


def grid(generator, shape, size):
    """A matrix `[outputs, inputs]` of about `size` whose values 4 bits hold exactly.

    Each block of 32 inputs is a scale times integers in -8..8, with exactly one of magnitude 8, which is the one
    that round-to-nearest takes the scale from. So the int4 exports (and int8 with 7 bits a channel: 8 times the
    integer) have the very weights of the checkpoint, and what is left to compare is arithmetic, not luck.
    Scales differ between rows and blocks, so that one taken from the wrong place is seen.
    """
    outputs, inputs = shape
    blocks = generator.standard_normal((outputs, inputs // 32, 32))
    integers = np.clip(np.rint(3.0 * blocks), -7, 7)
    largest = np.abs(blocks).argmax(axis=-1)[..., None]
    sign = np.sign(np.take_along_axis(blocks, largest, axis=-1))
    np.put_along_axis(integers, largest, 8 * sign, axis=-1)
    scales = generator.choice([0.75, 1.0, 1.25], (outputs, 1, 1)) * generator.choice(
        [1.0, 0.5], (outputs, inputs // 32, 1)
    )
    # One block of each row has the row's full scale: int8 takes the scale of the row from it.
    scales[:, 0] = np.where(scales.max(axis=1) < 0.75, 2 * scales[:, 0], scales[:, 0])
    # A power of two or 1.5 times one: short enough that bf16 and f16 hold the products, too.
    unit = min((m * 2.0**e for m in (1.0, 1.5) for e in range(-12, 3)), key=lambda u: abs(np.log(3.0 * u / size)))
    return (unit * scales * integers).reshape(shape)


def neutral_norm(model_type):
    """The weight with which a norm multiplies by one."""
    return 0.0 if model_type in ADDED_TO_ONE else 1.0


def random_weights(shapes, seed, norm=1.0, gains=None):
    """A value for every parameter, in the order of their names so that only the seed decides.

    Matrices about keep the size of what passes through them (`gain / sqrt(inputs)`), so that layers, and not the
    token itself, decide what comes next.
    """
    generator = np.random.default_rng(seed)
    gains = GAINS | (gains or {})
    weights = {}
    for name in sorted(shapes):
        if len(shapes[name]) == 2:
            gain = gains.get(name.split(".")[-2], LAYER_GAIN)
            size = gain / np.sqrt(shapes[name][1])
            value = grid(generator, shapes[name], size)
        else:
            normal = generator.standard_normal(shapes[name])
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                value = norm + 0.3 * normal
            elif norm == 0.0 and name.endswith(AFTER_A_BLOCK):
                value = gains["after a block"] - 1.0 + 0.25 * normal
            elif name.endswith("norm.weight"):
                value = norm + 0.25 * normal
            else:
                value = 0.5 * normal
        weights[name] = torch.from_numpy(value.astype(np.float32))
    return weights


def parameter_shapes(directory):
    """Names and shapes of the parameters of the checkpoint whose config.json is in `directory`."""
    config = transformers.AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    tied = config.tie_word_embeddings
    # A tied head is not stored, as in published checkpoints.
    return {name: tuple(p.shape) for name, p in model.named_parameters() if not (tied and name == "lm_head.weight")}


def write_weights(directory, spec, seed):
    shapes = parameter_shapes(directory)
    weights = random_weights(shapes, seed, neutral_norm(spec["config"]["model_type"]), spec.get("gains"))
    dtype = getattr(torch, spec["dtype"])
    weights = {name: value.to(dtype).contiguous() for name, value in weights.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return weights


def load(directory, dtype=torch.float32):
    """The checkpoint as transformers loads it, computing in `dtype`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


def n_bytes(directory):
    return sum(f.stat().st_size for f in Path(directory).rglob("*") if f.is_file())
