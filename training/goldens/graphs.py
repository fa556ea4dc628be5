"""Runs a decoder graph in ONNX Runtime and compares it with the reference."""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from reference import relative_difference, rms_difference

NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class Decoder:
    """A graph with `past_key_values.{i}.key/value` in and `present.{i}.key/value` out."""

    def __init__(self, path, dims):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.kv_heads, self.head_dim = dims
        self.reset()

    def reset(self):
        self.n_past = 0
        self.past = {
            name: np.zeros((1, self.kv_heads, 0, self.head_dim), NUMPY[value.type])
            for name, value in self.inputs.items()
            if name.startswith("past_key_values.")
        }

    def append(self, ids, num_logits_to_keep=0):
        """Logits `[tokens, vocab_size]` of `ids` after what came before."""
        total = self.n_past + len(ids)
        feeds = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, total), np.int64), **self.past}
        if "position_ids" in self.inputs:
            feeds["position_ids"] = np.arange(self.n_past, total, dtype=np.int64)[None]
        if "num_logits_to_keep" in self.inputs:
            feeds["num_logits_to_keep"] = np.array(num_logits_to_keep, np.int64)
        results = dict(zip(self.outputs, self.session.run(None, feeds)))
        self.past = {name: results[name.replace("past_key_values", "present")] for name in self.past}
        self.n_past = total
        return results["logits"][0].astype(np.float32)

    def greedy(self, ids, n_tokens):
        self.reset()
        tokens = [int(self.append(ids)[-1].argmax())]
        while len(tokens) < n_tokens:
            tokens.append(int(self.append(tokens[-1:])[-1].argmax()))
        return tokens

    def signature(self):
        """Every input and output as `name dtype [shape]`."""

        def line(value):
            return f"{value.name} {value.type[7:-1]} {value.shape}"

        return {
            "inputs": [line(i) for i in self.session.get_inputs()],
            "outputs": [line(o) for o in self.session.get_outputs()],
        }


def measure(decoder, prompts, logits, greedy):
    """How far a graph is from the reference: in logits of the prompt, and in greedy tokens.

    `logits[i]` are the reference's last rows of prompt `i`. Beside one-shot prefill, the prompt is also
    fed in two chunks and its last row compared, so that the cache takes part.
    """
    n_tokens = len(greedy[0])
    largest, rms, chunked, equal = [], [], [], []
    for ids, wanted, tokens in zip(prompts, logits, greedy):
        decoder.reset()
        got = decoder.append(ids)[-len(wanted) :]
        largest.append(relative_difference(got, wanted))
        rms.append(rms_difference(got, wanted))
        if len(ids) > 1:
            decoder.reset()
            decoder.append(ids[: len(ids) // 2])
            chunked.append(relative_difference(decoder.append(ids[len(ids) // 2 :])[-1], wanted[-1]))
        same = [a == b for a, b in zip(decoder.greedy(ids, n_tokens), tokens)] + [False]
        equal.append(same.index(False))
    return {
        "relative": largest,
        "relative_chunked": max(chunked),
        "rms": rms,
        "equal_greedy_prefix": equal,
    }


def largest_weight_error(f32_path, quantized_path):
    """The largest difference between the weights of an f32 graph and those of a quantised one made from it.

    It is 0 for these checkpoints (see `checkpoints.grid`), and at least two weights must have been compared.
    """
    exact, quantized = initializers(f32_path), initializers(quantized_path)
    errors = []
    for name, weight in exact.items():
        if f"{name}_Q4" in quantized:
            # [outputs, blocks, 16]: two weights a byte, low nibble first, 8 is zero.
            packed = quantized[f"{name}_Q4"]
            nibbles = (
                np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float32) - 8
            )
            scales = quantized[f"{name}_scales"].reshape(*packed.shape[:2], 1)
            errors.append(np.abs((nibbles * scales).reshape(len(packed), -1).T - weight).max())
        elif f"{name}_quantized" in quantized:
            got = quantized[f"{name}_quantized"].astype(np.float32) * quantized[f"{name}_scale"]
            errors.append(np.abs(got - weight).max())
    assert len(errors) > 2, f"{quantized_path}: {len(errors)} quantised weights"
    return float(max(errors))


def initializers(path):
    graph = onnx.load(path).graph
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer}
