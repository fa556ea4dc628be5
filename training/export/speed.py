"""How fast graphs of the same shapes decode and prefill, in turns within one run.

usage: speed.py NAME=GRAPH[:all]... [--rounds N] [--threads N] [--prefill N]

The first is what the others are compared with: figures beside the speeds are medians of each round's ratio to it, which a busy
machine disturbs least. Each graph runs over a cache that is bound in place; in prefill it computes the last token's logits if
it can do without the others and is not told `:all`. A graph is an ONNX file, or a directory with a `model.onnx`.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # noqa: E402

DEPTH = 512
DECODED = 32
CAPACITY = 1024
PHASES = ["decode at 0", f"decode at {DEPTH}", "prefill"]


class Decoder:
    """A graph with one cache, which is rewound by the length that the mask says."""

    def __init__(self, graph, threads, prefill):
        wants_all = graph.endswith(":all")
        path = Path(graph.removesuffix(":all"))
        self.path = path / "model.onnx" if path.is_dir() else path
        self.n_prefill = prefill
        directory = self.path.parent
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        inputs = [*self.session.get_inputs(), *self.session.get_overridable_initializers()]
        self.keeps = any(value.name == "num_logits_to_keep" for value in inputs)
        self.kept = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(0 if wants_all else 1, np.int64))
        config = json.loads((directory / "genai_config.json").read_text()) if (directory / "genai_config.json").exists() else None
        self.caches = {}
        for value in inputs:
            if value.name.startswith("past_key_values."):
                head_dim = value.shape[3] if isinstance(value.shape[3], int) else config["model"]["decoder"]["head_size"]
                zeros = np.zeros((1, value.shape[1], CAPACITY, head_dim), np.float32)
                self.caches[value.name] = onnxruntime.OrtValue.ortvalue_from_numpy(zeros)

    def append(self, ids, n_past):
        """Runs `ids` after `n_past` tokens; the logits stay where the engine puts them."""
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, n_past + len(ids)), np.int64))
        if self.keeps:
            # The input is optional, which `bind_cpu_input` does not know.
            binding.bind_ortvalue_input("num_logits_to_keep", self.kept)
        for name, cache in self.caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)

    def decode(self, depth):
        started = time.perf_counter()
        for n_past in range(depth, depth + DECODED):
            self.append([n_past % 1000], n_past)
        return DECODED / (time.perf_counter() - started)

    def prefill(self):
        started = time.perf_counter()
        self.append([(index * 7919 + 13) % 1000 for index in range(self.n_prefill)], 0)
        return self.n_prefill / (time.perf_counter() - started)


def measure(decoders, rounds):
    """`[phase][graph][round]` tokens a second; the first round warms and is left out."""
    speeds = [[[] for _ in decoders] for _ in PHASES]
    for turn in range(rounds + 1):
        order = list(range(len(decoders)))
        order = order[turn % len(order) :] + order[: turn % len(order)]
        # One phase at a time, so that what is compared is nearest in time. Prefill comes before the decode that needs its cache.
        for phase, run in [(2, Decoder.prefill), (1, lambda d: d.decode(DEPTH)), (0, lambda d: d.decode(0))]:
            for index in order:
                speed = run(decoders[index])
                if turn > 0:
                    speeds[phase][index].append(speed)
    return speeds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="+", metavar="NAME=GRAPH")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=DEPTH, help="tokens of a prompt")
    arguments = parser.parse_args()
    names, graphs = zip(*(graph.split("=", 1) for graph in arguments.graphs))
    decoders = [Decoder(graph, arguments.threads, arguments.prefill) for graph in graphs]
    speeds = measure(decoders, arguments.rounds)
    print(f"{arguments.rounds} rounds, {arguments.threads} threads; tokens a second (median) and ratio to {names[0]}\n")
    print("| graph | MB | " + " | ".join(PHASES) + " |\n|---|---|" + "---|" * len(PHASES))
    for index, (name, decoder) in enumerate(zip(names, decoders)):
        size = sum(file.stat().st_size for file in decoder.path.parent.glob("model.onnx*")) / 1e6
        cells = []
        for phase in range(len(PHASES)):
            own, first = np.array(speeds[phase][index]), np.array(speeds[phase][0])
            cells.append(f"{np.median(own):.1f} ({np.median(own / first):.3f})")
        print(f"| {name} | {size:.1f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
