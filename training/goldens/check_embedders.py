"""Checks the committed goldens of embedders and rerankers by other means than sentence-transformers; makes nothing.

usage: check_embedders.py [NAME]...

Token ids come from `tokenizers` alone, poolings and what follows them from numpy over the hidden states of transformers.
And a golden must be able to fail: each part of a model moves its vectors, and so does each rule that a reader may forget.
"""

import json
import re
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from embedders import ROOT
from graphs_of_embedders import check_graphs

TOLERANCE = 1e-6
LEAST_INFLUENCE = 1e-3
# Without these a key has the same share of every query's score, and softmax takes it out again.
WITHOUT_INFLUENCE = re.compile(r"\.(key|k|k_lin)\.bias|pooler|^cls\.|^head|^classifier|^lm_head")
WITHOUT_ROTATION = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def raw_tokenizer(directory, max_length=None, strategy="longest_first"):
    """`tokenizer.json` without its author's settings."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_length is not None:
        tokenizer.enable_truncation(max_length, strategy=strategy)
    return tokenizer


def relative(got, wanted):
    return float(np.abs(np.asarray(got) - np.asarray(wanted)).max() / np.abs(wanted).max())


def load(directory, kind=transformers.AutoModel, **changes):
    """The model, of which every parameter is in the file (but the pooler of BERT, which no embedder uses)."""
    config = transformers.AutoConfig.from_pretrained(directory)
    for key, value in changes.items():
        setattr(config, key, value)
    model, info = kind.from_pretrained(
        directory, config=config, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    missing = {name for name in info["missing_keys"] if "pooler" not in name}
    assert not missing and not info["mismatched_keys"], f"{directory.name}: {info}"
    return model.eval()


@torch.inference_mode()
def hidden_states(model, ids):
    return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


# --- embedders


POOLINGS = {
    "cls": lambda states, positions: states[0],
    "max": lambda states, positions: states.max(axis=0),
    "mean": lambda states, positions: states.mean(axis=0),
    "mean_sqrt_len_tokens": lambda states, positions: states.sum(axis=0) / np.sqrt(len(states)),
    "weightedmean": lambda states, positions: (states * positions[:, None]).sum(axis=0) / positions.sum(),
    "lasttoken": lambda states, positions: states[-1],
}
ACTIVATIONS = {"Tanh": np.tanh, "Identity": lambda values: values}


def normalized(vector):
    return vector / max(np.linalg.norm(vector), 1e-12)


def dense_layers(directory):
    layers = []
    for path in sorted(directory.glob("*_Dense")):
        config, weights = read(path / "config.json"), load_file(path / "model.safetensors")
        activation = config["activation_function"].rsplit(".", 1)[1]
        layers.append((weights["linear.weight"], weights.get("linear.bias", 0.0), ACTIVATIONS[activation]))
    return layers


def embed(states, expected, layers, n_skipped=0, dimensions=None, normalize=None):
    """Hidden states of one text `[tokens, hidden_size]` to its vector."""
    positions = np.arange(1, len(states) + 1, dtype=np.float64)[n_skipped:]
    states = states.astype(np.float64)[n_skipped:]
    vector = np.concatenate([POOLINGS[mode](states, positions) for mode in expected["pooling"]])
    for weight, bias, activation in layers:
        vector = activation(weight @ vector + bias)
    if "Normalize" in expected["modules"]:
        vector = normalized(vector)
    dimensions = dimensions or expected["truncate_dim"]
    if dimensions is not None:
        vector = vector[:dimensions]
    return normalized(vector) if normalize else vector


def n_skipped(directory, expected, case):
    """How many tokens of the prompt are not pooled: those in front of the text, with the first special token."""
    if expected["include_prompt"] or not case["used_prompt"]:
        return 0
    encoding = raw_tokenizer(directory).encode(case["used_prompt"])
    return len(encoding.ids) - encoding.special_tokens_mask[-1]


def lower_cased(directory):
    path = directory / "sentence_bert_config.json"
    return path.exists() and read(path).get("do_lower_case", False)


def check_ids(directory, expected, case):
    tokenizer = raw_tokenizer(directory, expected["max_seq_length"])
    whole = raw_tokenizer(directory)
    for text, ids, truncated in zip(case["texts"], case["token_ids"], case["truncated"], strict=True):
        text = (case["used_prompt"] or "") + text
        text = text.lower() if lower_cased(directory) else text
        if "appended_token" in case:
            end = tokenizer.token_to_id(case["appended_token"])
            assert ids == whole.encode(text).ids[: expected["max_seq_length"] - 1] + [end]
        else:
            assert ids == tokenizer.encode(text).ids, f"{directory.name}: {text!r}"
            assert truncated == (len(whole.encode(text).ids) > expected["max_seq_length"])


def check_embedder(directory):
    expected = read(directory / "expected.json")
    model, layers, worst = load(directory), dense_layers(directory), 0.0
    for case in expected["cases"]:
        check_ids(directory, expected, case)
        skipped = n_skipped(directory, expected, case)
        states = [hidden_states(model, ids) for ids in case["token_ids"]]
        vectors = [embed(s, expected, layers, skipped, case["dimensions"], case["normalize"]) for s in states]
        worst = max(worst, relative(vectors, case["embeddings"]))
        for state, wanted in zip(states, case.get("token_embeddings", [])):
            worst = max(worst, relative(state, wanted))
    assert worst < TOLERANCE, f"{directory.name}: {worst}"
    least = check_influences(directory, expected, model, layers)
    check_graphs(directory, expected)
    print(f"ok {directory.name}: {worst:.1g}; what moves it least: {least}")


# --- that a golden can fail


def check_influences(directory, expected, model, layers):
    """How far the vectors move without each part of the model, and with each rule broken; gives back the least."""
    case = expected["cases"][0]
    rows = [(ids, v) for ids, v in zip(case["token_ids"], case["embeddings"]) if len(ids) > 8]
    skipped = n_skipped(directory, expected, case)

    def moved(model):
        vectors = [embed(hidden_states(model, ids), expected, layers, skipped) for ids, _ in rows]
        return relative(vectors, [v for _, v in rows])

    influences = {
        f"without {kind}": moved_without(model, names, moved) for kind, names in parameter_kinds(model).items()
    }
    for what, changes in broken_rules(model.config).items():
        influences[what] = moved(load(directory, **changes))
    if model.config.model_type in ("roberta", "xlm-roberta", "mpnet"):
        influences["positions from 0"] = moved_positions(model, moved)
    least = min(influences, key=influences.get)
    bound = 1e-4 if least == "gelu by tanh" else LEAST_INFLUENCE
    assert influences[least] > bound, f"{directory.name}: {least} moves it by {influences[least]:.2g}"
    return f"{least}, by {influences[least]:.2g}"


def parameter_kinds(model):
    kinds = {}
    for name, _ in model.named_parameters():
        if model.config.model_type in WITHOUT_ROTATION and WITHOUT_INFLUENCE.search(name) or "pooler" in name:
            continue
        kinds.setdefault(re.sub(r"\.\d+\.", ".N.", name), []).append(name)
    return kinds


@torch.no_grad()
def moved_without(model, names, moved):
    """Matrices and biases are zero, norms multiply by one."""
    parameters = dict(model.named_parameters())
    kept = {name: parameters[name].clone() for name in names}
    is_added_to_one = model.config.model_type == "gemma3_text"
    for name in names:
        is_norm = parameters[name].ndim == 1 and name.endswith("weight") and not is_added_to_one
        parameters[name].fill_(1.0 if is_norm else 0.0)
    result = moved(model)
    for name in names:
        parameters[name].copy_(kept[name])
    return result


@torch.no_grad()
def moved_positions(model, moved):
    table = model.embeddings.position_embeddings.weight
    kept = table.clone()
    table[2:] = kept[:-2]
    result = moved(model)
    table.copy_(kept)
    return result


def broken_rules(config):
    """What a reader may forget, as changes of the config."""
    rules = {
        "bert": {"gelu by tanh": {"hidden_act": "gelu_pytorch_tanh"}},
        "modernbert": {
            "no window": {"local_attention": 1000},
            "a window of one more": {"local_attention": 10},
            "one rotary base": one_base(config),
            "all layers local": {"layer_types": ["sliding_attention"] * config.num_hidden_layers},
        },
        "gemma3_text": {
            "causal": {"use_bidirectional_attention": False, "sliding_window": 5},
            "no window": {"sliding_window": 1000},
            "a window of one more": {"sliding_window": 6},
            "the window of a causal model": {"sliding_window": 8},
            "one rotary base": one_base(config),
        },
        "qwen2": {"the other mask": {"is_causal": not getattr(config, "is_causal", True)}},
        "qwen3": {"every token sees all": {"is_causal": False}},
        "llama": {"every token sees all": {"is_causal": False}},
        "mistral": {"every token sees all": {"is_causal": False}},
    }
    return rules.get(config.model_type, {})


def one_base(config):
    if not isinstance((getattr(config, "rope_parameters", None) or {}).get("full_attention"), dict):
        return {}
    return {"rope_parameters": dict.fromkeys(config.layer_types, config.rope_parameters["full_attention"])}


# --- rerankers


def check_reranker(directory):
    expected = read(directory / "expected.json")
    is_causal = "LogitScore" in expected["modules"]
    kind = transformers.AutoModelForCausalLM if is_causal else transformers.AutoModelForSequenceClassification
    model, worst = load(directory, kind), 0.0
    for case in expected["cases"]:
        check_pairs(directory, expected, case)
        logits = [logit(directory, model, case, n, is_causal) for n in range(len(case["documents"]))]
        worst = max(worst, relative(logits, case["logits"]))
        scores = 1 / (1 + np.exp(-np.array(logits))) if expected["activation"] == "Sigmoid" else logits
        worst = max(worst, relative(scores, case["scores"]))
    # The difference of two logits loses digits.
    assert worst < (5 if is_causal else 1) * TOLERANCE, f"{directory.name}: {worst}"
    check_graphs(directory, expected)
    print(f"ok {directory.name}: {worst:.1g}")


@torch.inference_mode()
def logit(directory, model, case, n, is_causal):
    inputs = {"input_ids": torch.tensor([case["token_ids"][n]])}
    if "token_type_ids" in case:
        inputs["token_type_ids"] = torch.tensor([case["token_type_ids"][n]])
    logits = model(**inputs).logits[0].double()
    if not is_causal:
        return float(logits[0])
    ids = read(directory / "1_LogitScore" / "config.json")
    return float(logits[-1, ids["true_token_id"]] - logits[-1, ids["false_token_id"]])


def check_pairs(directory, expected, case):
    length = expected["max_seq_length"]
    if case["truncation"] == "end_of_content":
        return check_rendered(directory, expected, case)
    tokenizer = raw_tokenizer(directory, length, case["truncation"])
    for n, document in enumerate(case["documents"]):
        encoding = tokenizer.encode(case["query"], document)
        assert case["token_ids"][n] == encoding.ids, f"{directory.name}: {document!r}"
        assert case.get("token_type_ids", {n: encoding.type_ids})[n] == encoding.type_ids
        whole = raw_tokenizer(directory).encode(case["query"], document)
        assert case["truncated"][n] == (len(whole.ids) > length)


def check_rendered(directory, expected, case):
    """Beginning and content are cut to what the fixed end leaves of the length."""
    tokenizer = raw_tokenizer(directory)
    instruction = case["prompt"] or "Given a question, retrieve passages that answer it"
    end = tokenizer.encode(expected["never_cut"]).ids
    for n, document in enumerate(case["documents"]):
        text = (
            "<|im_start|>system\nSay whether the Document answers the Query: yes or no.<|im_end|>\n<|im_start|>user\n"
            f"<Instruct>: {instruction}\n<Query>: {case['query']}\n<Document>: {document}"
        )
        ids = tokenizer.encode(text).ids
        wanted = ids[: expected["max_seq_length"] - len(end)] + end
        assert case["token_ids"][n] == wanted, f"{directory.name}: {document!r}"
        assert case["truncated"][n] == (len(ids) + len(end) > expected["max_seq_length"])


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or sorted(path.parent.name for path in ROOT.glob("*/expected.json")):
        (check_reranker if name.startswith("cross-") else check_embedder)(ROOT / name)


if __name__ == "__main__":
    main()
