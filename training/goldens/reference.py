"""What transformers answers: logits and hidden states of every prompt position, and greedy tokens."""

import numpy as np
import torch
from tokenizers import Tokenizer

from checkpoints import load, neutral_norm, write_weights
from prompts import LONG_POSITIONS, PROMPTS

N_GREEDY = 48
# The greedy path of a golden shall not hang on rounding: the best token leads by at least this much.
LEAST_MARGIN = 0.008
# Nor shall it be a loop of a few tokens.
LEAST_DISTINCT = 14


def encode_prompts(directory):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return [tokenizer.encode(text, add_special_tokens=False).ids for _, text in PROMPTS]


@torch.no_grad()
def forward(model, ids):
    """Logits `[tokens, vocab_size]` and last hidden states after the final norm `[tokens, hidden_size]`."""
    output = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return output.logits[0].numpy(), output.hidden_states[-1][0].numpy()


@torch.no_grad()
def greedy(model, ids, n_tokens=N_GREEDY):
    """The greedy continuation with the KV cache, and the lead of each token over the second best."""
    tokens, margins = [], []
    output = model(torch.tensor([ids]), use_cache=True)
    while True:
        best = torch.topk(output.logits[0, -1].double(), 2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        if len(tokens) == n_tokens:
            return tokens, margins
        output = model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)


def is_lively(model, prompts, special_ids):
    """Whether these weights make a good golden: clear margins, few repetitions, no end token on the way."""
    for ids in prompts:
        tokens, margins = greedy(model, ids)
        if min(margins) < LEAST_MARGIN or len(set(tokens)) < LEAST_DISTINCT or special_ids & set(tokens):
            return False
    return True


def search_seed(directory, spec, first=0, tries=3000):
    """The first seed whose weights are lively; the weights are left in `directory`."""
    prompts = encode_prompts(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    special_ids = set(tokenizer.get_added_tokens_decoder())
    for seed in range(first, first + tries):
        write_weights(directory, spec, seed)
        if is_lively(load(directory), prompts, special_ids):
            return seed
    raise SystemExit(f"no lively seed in {first}..{first + tries} for `{directory.name}`")


@torch.no_grad()
def influence(directory, ids):
    """How far the logits of `ids` move when a part of the model is left out, relative to the largest.

    A part that moves them less than the tolerance of a golden is not tested by it.
    """
    complete = load(directory)
    config, logits = complete.config, forward(complete, ids)[0]
    neutral = neutral_norm(config.model_type)

    def without(change):
        model = load(directory)
        change(model)
        return relative_difference(forward(model, ids)[0], logits)

    def set_parameters(suffixes, value):
        def change(model):
            for name, parameter in model.named_parameters():
                if name.endswith(suffixes):
                    parameter.fill_(value)

        return change

    def plain_rope(model):
        model.model.rotary_emb.inv_freq.copy_(inverse_frequencies(model.config))

    def no_rope(model):
        for name, frequencies in model.model.rotary_emb.named_buffers():
            if name.endswith("inv_freq"):
                frequencies.zero_()

    def no_window(model):
        model.config.sliding_window = model.config.max_position_embeddings

    parts = {"positions": no_rope, "norm weights": set_parameters("layernorm.weight", neutral)}
    names = [name for name, _ in complete.named_parameters()]
    if any(name.endswith("proj.bias") for name in names):
        parts["biases of q, k, v"] = set_parameters("proj.bias", 0.0)
    if any(name.endswith("q_norm.weight") for name in names):
        parts["weights of the q and k norms"] = set_parameters(("q_norm.weight", "k_norm.weight"), neutral)
    if config.rope_parameters.get("rope_type", "default") != "default":
        parts["rope scaling"] = plain_rope
    if (getattr(config, "sliding_window", None) or len(ids)) < len(ids):
        parts["window"] = no_window
    if config.model_type.startswith("gemma"):
        parts.update(parts_of_gemma(config))
    return {name: without(change) for name, change in parts.items()}


def parts_of_gemma(config):
    """What Gemma 2 and 3 have beyond other decoders."""

    def set_of_layers(attribute, value):
        def change(model):
            for layer in model.model.layers:
                setattr(layer.self_attn, attribute, value)

        return change

    def no_cap_of_logits(model):
        model.config.final_logit_softcapping = None

    def one_rope(model):
        rotary = model.model.rotary_emb
        rotary.sliding_attention_inv_freq.copy_(rotary.full_attention_inv_freq)

    def unscaled_rope(model):
        rotary = model.model.rotary_emb
        rotary.full_attention_inv_freq.mul_(config.rope_parameters["full_attention"]["factor"])

    parts = {"scale of scores": set_of_layers("scaling", config.head_dim**-0.5)}
    if config.attn_logit_softcapping is not None:
        parts["soft cap of scores"] = set_of_layers("attn_logit_softcapping", None)
    if config.final_logit_softcapping is not None:
        parts["soft cap of logits"] = no_cap_of_logits
    if "full_attention" in config.rope_parameters:
        parts["rope of windows"] = one_rope
        if config.rope_parameters["full_attention"]["rope_type"] == "linear":
            parts["rope scaling"] = unscaled_rope
    return parts


def inverse_frequencies(config):
    """Those of a rope without scaling."""
    head_dim = config.head_dim
    return config.rope_parameters["rope_theta"] ** (-torch.arange(0, head_dim, 2).float() / head_dim)


def stored_positions(index, n_tokens):
    """Which positions of prompt `index` have their logits stored."""
    is_long = PROMPTS[index][0] == "long"
    return list(range(n_tokens - LONG_POSITIONS if is_long else 0, n_tokens))


def relative_difference(got, wanted):
    """The largest absolute difference over the largest absolute wanted value."""
    return float(np.abs(got.astype(np.float64) - wanted).max() / np.abs(wanted).max())


def rms_difference(got, wanted):
    """The root mean square of the difference over that of the wanted values: what a whole row is off by."""
    return float(
        np.sqrt(np.square(got.astype(np.float64) - wanted).mean() / np.square(wanted.astype(np.float64)).mean())
    )
