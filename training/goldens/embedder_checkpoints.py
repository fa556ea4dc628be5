"""The tiny checkpoints under the embedders and rerankers: their configs, and their weights by seed."""

import re

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from checkpoints import write_json
from embedder_tokenizers import FAMILIES

# As config.json of the published ones has it (transformers 4); the tokens' numbers and the vocabulary come from the tokenizer.
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 96,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
}
# Positions are counted from pad_token_id + 1, so that two rows are never used.
ROBERTA = BERT | {
    "model_type": "roberta",
    "max_position_embeddings": 98,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
XLM_ROBERTA = ROBERTA | {"model_type": "xlm-roberta"}
MPNET = {
    "model_type": "mpnet",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 98,
    "relative_attention_num_buckets": 32,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
}
DISTILBERT = {
    "model_type": "distilbert",
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 96,
    "activation": "gelu",
    "sinusoidal_pos_embds": False,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
}
MODERNBERT = {
    "model_type": "modernbert",
    "bos_token_id": "[CLS]",
    "eos_token_id": "[SEP]",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_activation": "gelu",
    # Layers 0 and 3 see everything, the others four tokens to each side.
    "global_attn_every_n_layers": 3,
    "local_attention": 8,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 100.0,
    "classifier_pooling": "mean",
    "classifier_bias": False,
    "classifier_activation": "gelu",
    "decoder_bias": True,
}
DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_dropout": 0.0,
    "use_cache": True,
    "tie_word_embeddings": False,
}
QWEN2 = DECODER | {
    "model_type": "qwen2",
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 2,
}
QWEN3 = QWEN2 | {"model_type": "qwen3", "attention_bias": False, "tie_word_embeddings": True, "rope_theta": 1000000.0}
LLAMA = DECODER | {"model_type": "llama", "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False}
MISTRAL = DECODER | {
    "model_type": "mistral",
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "head_dim": None,
    "sliding_window": None,
}
GEMMA3 = {key: value for key, value in DECODER.items() if key not in ("hidden_act", "rope_scaling")} | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "query_pre_attn_scalar": 20,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 100.0,
    "use_bidirectional_attention": True,
    # Four tokens to each side.
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "tie_word_embeddings": True,
}
TOKENS = {
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "pad_token_id": "pad_token",
    "cls_token_id": "cls_token",
    "sep_token_id": "sep_token",
}
DECODERS = ("qwen2", "qwen3", "llama", "mistral", "gemma3_text")

# Attention is sharp enough to differ between texts, and adds little enough that tokens stay apart.
LAYER_GAIN = 1.2
GAINS = dict.fromkeys(["query", "key", "q", "k", "q_lin", "k_lin", "q_proj", "k_proj"], 1.8)
GAINS |= dict.fromkeys(["value", "v", "v_lin"], 0.7)
EMBEDDING_GAINS = {"position_embeddings": 0.4, "token_type_embeddings": 0.2}
BIAS = 0.1


def write_checkpoint(directory, spec):
    """What transformers alone would have: config.json, the tokenizer's files and the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer, tokenizer_config = FAMILIES[spec["tokenizer"]]()
    config = {"architectures": [spec["architecture"]], **spec["config"]}
    vocab_size = tokenizer.get_vocab_size() + spec.get("unused_rows", 0)
    config |= {"vocab_size": vocab_size, "initializer_range": 0.02, "torch_dtype": "float32"}
    for key, role in TOKENS.items():
        is_for_it = role in ("bos_token", "eos_token", "pad_token") or config["model_type"] == "modernbert"
        if is_for_it and tokenizer_config.get(role):
            config.setdefault(key, tokenizer.token_to_id(tokenizer_config[role]))
    # A name of a token is its number.
    config = {
        key: tokenizer.token_to_id(value) if key in TOKENS and isinstance(value, str) else value
        for key, value in config.items()
    }
    write_json(directory / "config.json", dict(sorted(config.items())))
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
    tokenizer_config = tokenizer_config | {
        "clean_up_tokenization_spaces": False,
        "model_max_length": spec["model_max_length"],
    }
    tokenizer_config |= spec.get("tokenizer_config", {})
    write_json(directory / "tokenizer_config.json", tokenizer_config)
    write_weights(directory, spec["architecture"], spec["seed"], spec.get("old_weight_names", False))


def write_weights(directory, architecture, seed, old_names=False):
    """A value for every parameter, in the order of their names so that only the seed decides."""
    config = transformers.AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = getattr(transformers, architecture)(config)
    generator = np.random.default_rng(seed)
    added_to_one = config.model_type == "gemma3_text"
    weights = {}
    for name, parameter in sorted(model.named_parameters()):
        value = random_value(generator, name, tuple(parameter.shape), added_to_one)
        weights[name] = torch.from_numpy(value.astype(np.float32)).contiguous()
    if getattr(config, "tie_word_embeddings", False):
        # A tied head is not stored, as in published checkpoints.
        weights.pop("lm_head.weight", None)
    if old_names:
        weights = {OLD_NAMES.sub(lambda found: OLD_ENDS[found[0]], name): value for name, value in weights.items()}
        weights["bert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


# What checkpoints of before 2020 call the parameters of a norm.
OLD_ENDS = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
OLD_NAMES = re.compile("|".join(OLD_ENDS))


def random_value(generator, name, shape, added_to_one):
    """Matrices about keep the size of what passes through them; biases and norms are never neutral."""
    normal = generator.standard_normal(shape)
    parts = name.split(".")
    if name.endswith("bias") and len(shape) == 1:
        return BIAS * normal
    if len(shape) == 1:
        return (0.0 if added_to_one else 1.0) + 0.25 * normal
    if "relative_attention_bias" in name:
        return normal
    if "embed" in name and parts[-1] == "weight" and "layers" not in name:
        return EMBEDDING_GAINS.get(parts[-2], 1.0) * normal
    # Activations have a mean; rows without one keep it from becoming a direction that all texts share.
    normal -= normal.mean(axis=1, keepdims=True)
    return GAINS.get(parts[-2], LAYER_GAIN) / np.sqrt(shape[1]) * normal
