"""How far quantised graphs are from 32-bit floats: the mean Kullback-Leibler divergence of next-token distributions.

usage: kl.py CHECKPOINT [--text held-out|random] [--tokens N] [--only NAME]... [--work DIRECTORY]

`held-out` is text that the demo model has not seen (training/demo/corpus.py), for models/demo; `random` is token ids at random,
for a checkpoint of random weights. Divergences are in nats, KL(float || quantised), over every position of every sequence.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

import variants

SEED = 7


def held_out(checkpoint, n_tokens):
    """Stories and chats of the demo's held-out sets, one sequence each, in turns."""
    sys.path.insert(0, str(variants.ROOT / "training" / "demo"))
    from corpus import held_out_sets

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    documents = [document for pair in zip(*held_out_sets(400, SEED).values()) for document in pair]
    sequences = [tokenizer.encode(document.text, add_special_tokens=False).ids for document in documents]
    n_sequences = int(np.searchsorted(np.cumsum([len(ids) for ids in sequences]), n_tokens)) + 1
    return [np.array([ids], np.int64) for ids in sequences[:n_sequences]]


def random_ids(checkpoint, n_tokens):
    """Sequences of 64 token ids, each as likely as any other."""
    vocab_size = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    ids = np.random.default_rng(SEED).integers(0, vocab_size, (max(1, n_tokens // 64), 1, 64))
    return list(ids)


class Decoder:
    """A graph; `dims` are those of its caches, which not every graph says: kv heads and head size."""

    def __init__(self, graph, dims):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.n_kv_heads, self.head_dim = dims

    def logits(self, ids):
        """`[tokens, vocab_size]`"""
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if "num_logits_to_keep" in self.inputs:
            feeds["num_logits_to_keep"] = np.array(0, np.int64)
        empty = np.zeros((1, self.n_kv_heads, 0, self.head_dim), np.float32)
        feeds.update((name, empty) for name in self.inputs if name.startswith("past_key_values."))
        return self.session.run(["logits"], feeds)[0][0]


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergences(expected, got):
    """One for each row, a few rows at a time; and whether the most probable token is the same."""
    kl, same = [], []
    for start in range(0, len(expected), 16):
        p, q = log_softmax(expected[start : start + 16]), log_softmax(got[start : start + 16])
        kl.append((np.exp(p) * (p - q)).sum(axis=-1))
        same.append(p.argmax(axis=-1) == q.argmax(axis=-1))
    return np.concatenate(kl), np.concatenate(same)


def cache_dims(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    n_heads = config["num_attention_heads"]
    return config["num_key_value_heads"], config.get("head_dim") or config["hidden_size"] // n_heads


def measure(reference, graph, dims, sequences):
    """Mean divergence with its standard error, and the share of positions with the same most probable token."""
    reference, quantised = Decoder(reference, dims), Decoder(graph, dims)
    rows = [divergences(reference.logits(ids), quantised.logits(ids)) for ids in sequences]
    kl, same = (np.concatenate(part) for part in zip(*rows))
    return kl.mean(), kl.std() / np.sqrt(len(kl)), same.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--text", choices=["held-out", "random"], default="held-out")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--only", action="append", choices=variants.NAMES)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    texts = {"held-out": held_out, "random": random_ids}[arguments.text]
    sequences = texts(arguments.checkpoint, arguments.tokens)
    print(f"{arguments.checkpoint.name}, {sum(ids.size for ids in sequences)} tokens of {arguments.text} text")
    print("\n| graph | bytes | mean KL, nats | ± | of genai-int4-32 | same best token |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        reference = variants.build("f32", arguments.checkpoint, Path(scratch) / "reference")
        others = [name for name in variants.NAMES if name not in ("f32", "genai-int4-32")]
        plain = None
        for name in ["genai-int4-32", *(arguments.only or others)]:
            graph = variants.build(name, arguments.checkpoint, Path(scratch) / "graph")
            size = variants.n_bytes(graph)
            try:
                mean, error, same = measure(reference, graph, cache_dims(arguments.checkpoint), sequences)
            except onnxruntime.capi.onnxruntime_pybind11_state.Fail as refused:
                # The genai builder's graphs with zero points and a tied embedding, for one.
                print(f"| {name} | {size} | not loaded: {str(refused).splitlines()[0][:120]} | | | |", flush=True)
                continue
            plain = plain or mean
            print(f"| {name} | {size} | {mean:.6f} | {error:.6f} | {mean / plain:.3f} | {same:.3f} |", flush=True)


if __name__ == "__main__":
    main()
