"""Probabilities after transformers' logits processors: writes goldens/sampler.json.

The processors and their order are those that `generate` itself builds from a GenerationConfig; nothing is
re-implemented here. Vectors are f64, so that a sampler in f32 can be compared without a second rounding.

usage: sampler.py
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from checkpoints import write_json

ROOT = Path(__file__).resolve().parents[2] / "goldens"
N_VECTORS = 8


def vectors(seed=20261120):
    """Logit vectors of different sizes and shapes, each with a history of token ids."""
    generator = np.random.default_rng(seed)
    result = []
    for index in range(N_VECTORS):
        size = int(generator.integers(32, 65))
        logits = generator.standard_normal(size) * (0.5, 1, 2, 4)[index % 4] + (0, -3, 5, 0)[index // 2]
        if index == 5:
            # Ties, and a vector that is flat apart from them.
            logits[:] = 0.0
            logits[[3, 11, 17]] = 1.0
        if index == 6:
            # One token holds nearly all.
            logits[9] = 30.0
        history = generator.integers(0, size, 12).tolist()
        # 1024ths: f32 and f64 hold the same number.
        logits = np.rint(logits * 1024) / 1024
        result.append({"logits": logits.tolist(), "history": history})
    return result


SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.8},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.1},
    {"top_p": 0.9},
    {"min_p": 0.1},
    {"min_p": 0.5},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.5, "min_p": 0.05, "top_p": 0.95},
    {"repetition_penalty": 1.1, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    {"repetition_penalty": 1.2, "temperature": 1.2, "top_k": 16, "top_p": 0.9, "min_p": 0.03, "typical_p": 0.9},
]
# What the last settings must give: the order is transformers' own, and stated so that a change is seen.
ORDER = {
    "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
    "temperature": "TemperatureLogitsWarper",
    "top_k": "TopKLogitsWarper",
    "top_p": "TopPLogitsWarper",
    "min_p": "MinPLogitsWarper",
    "typical_p": "TypicalLogitsWarper",
}
# All off, whatever the library's defaults are.
OFF = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
}


def any_model():
    """`generate`'s list of processors is a method of a model; this one is never run."""
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    return LlamaForCausalLM(LlamaConfig(**sizes))


def processors(model, settings):
    config = GenerationConfig(**{**OFF, **settings})
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device="cpu")
    return model._get_logits_processor(generation_config=config, input_ids_seq_length=12, device="cpu")


def probabilities(chain, vector):
    """The distribution that would be sampled from; removed tokens have exactly 0."""
    scores = torch.tensor([vector["logits"]], dtype=torch.float64)
    history = torch.tensor([vector["history"]])
    return torch.softmax(chain(history, scores), dim=-1)[0].tolist()


def is_tied_cut(vector, wanted):
    """Whether of two tokens that nothing tells apart one was kept and one removed: which one, no one may rely on."""
    seen = set(vector["history"])
    kept = {(logit, token in seen) for token, (logit, p) in enumerate(zip(vector["logits"], wanted)) if p > 0}
    removed = {(logit, token in seen) for token, (logit, p) in enumerate(zip(vector["logits"], wanted)) if p == 0}
    return bool(kept & removed)


def main():
    torch.manual_seed(0)
    model, cases = any_model(), []
    inputs = vectors()
    for settings in SETTINGS:
        chain = processors(model, settings)
        order = [type(processor).__name__ for processor in chain]
        for index, vector in enumerate(inputs):
            wanted = probabilities(chain, vector)
            cases.append(
                {
                    "vector": index,
                    "settings": settings,
                    "order": order,
                    "tied_cut": is_tied_cut(vector, wanted),
                    "probabilities": wanted,
                }
            )
    record = {
        "about": (
            "probabilities in f64 after transformers' processors in the order of `generate`; a token that was removed has "
            "exactly 0; settings that are not named are off; `history` is what repetition_penalty looks at (each id once); "
            "where `tied_cut` is true the cut goes through equal tokens, and only the sorted probabilities count"
        ),
        "order": list(ORDER),
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]},
        "vectors": inputs,
        "cases": cases,
    }
    assert cases[-1]["order"] == list(ORDER.values()), cases[-1]["order"]
    write_json(ROOT / "sampler.json", record)
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
