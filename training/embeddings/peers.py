"""What a user would embed with instead of Tandem, measured for `tandem bench`.

`tandem bench` runs this program once for each turn of each peer: a request as JSON on standard input, an answer as JSON in the last line
of standard output. Texts come as token ids, the same that Tandem is given; vectors are pooled as the model's files say. README.md says
which kinds there are and what they need.
"""

import importlib.util
import json
import os
import resource
import sys
import time
from pathlib import Path

# Before any of the libraries is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

# Tokens that a group of texts of equal length has at most.
GROUP_TOKENS = 2048

# What fastembed embeds at once, in the order of arrival.
ARRIVAL_BATCH = 256

# What sentence-transformers embeds at once, sorted by length.
SORTED_BATCH = 32

# The packages of each kind.
KINDS = {
    "sentence-transformers": ["sentence_transformers", "torch"],
    "onnxruntime": ["onnxruntime", "sentence_transformers", "onnxscript"],
    "onnxruntime-padded": ["onnxruntime", "sentence_transformers", "onnxscript"],
    "onnxruntime-int8": ["onnxruntime", "onnx", "sentence_transformers", "onnxscript"],
    "openvino": ["openvino", "sentence_transformers", "onnxscript"],
    "openvino-bf16": ["openvino", "sentence_transformers", "onnxscript"],
}


def main():
    request = json.load(sys.stdin)
    if request.get("list"):
        found = lambda packages: all(importlib.util.find_spec(package) for package in packages)
        return {"kinds": [kind for kind, packages in KINDS.items() if found(packages)]}
    started = time.perf_counter()
    peer = make(request)
    load_ms = (time.perf_counter() - started) * 1e3
    answer = {"engine": peer.engine, "version": peer.version, "dtype": peer.dtype, "load_ms": load_ms}
    if request.get("probe"):
        vectors = peer.embed(request["probe"]["texts"])
        np.ascontiguousarray(vectors, dtype="<f4").tofile(request["probe"]["answer"])
    if request.get("work"):
        answer |= measure(peer, request["work"])
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return answer | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def measure(peer, work):
    """The same work as `measure/embedding.rs` does, by the same rules."""
    for _ in range(3):
        peer.embed([work["queries"][0]])
    query_ms, started = [], time.perf_counter()
    for query in work["queries"][1:]:
        begun = time.perf_counter()
        peer.embed([query])
        now = time.perf_counter()
        query_ms.append((now - begun) * 1e3)
        if len(query_ms) >= work["least_queries"] and (now - started) * 1e3 > work["most_queries_ms"]:
            break
    embedded = []
    for batch in work["batches"]:
        texts = batch["texts"]
        n_tokens = sum(map(len, texts))
        if n_tokens <= work["warm_tokens"]:
            peer.embed(texts)
        runs, started = 0, time.perf_counter()
        while True:
            peer.embed(texts)
            runs += 1
            ms = (time.perf_counter() - started) * 1e3
            if ms >= work["least_ms"]:
                break
        embedded.append({"n_texts": len(texts), "length": batch["length"], "n_tokens": n_tokens, "ms": ms / runs})
    return {"query_ms": query_ms, "embedded": embedded}


def make(request):
    kind, directory, threads = request["kind"], Path(request["directory"]), request["threads"]
    if kind == "sentence-transformers":
        return Torch(directory, threads)
    graph = exported(directory, Path(request["cache"]))
    if kind.startswith("openvino"):
        return OpenVino(directory, graph, threads, "bf16" if kind.endswith("bf16") else "f32")
    if kind == "onnxruntime-int8":
        graph = quantized(graph)
    return OnnxRuntime(directory, graph, threads, kind)


class Torch:
    """sentence-transformers: texts sorted by length, batches of 32, padded."""

    engine, dtype = "sentence-transformers", "f32"

    def __init__(self, directory, threads):
        import sentence_transformers
        import torch

        torch.set_num_threads(threads)
        self.torch, self.version = torch, f"{sentence_transformers.__version__}, torch {torch.__version__}"
        self.model = opened(directory)
        self.pad = self.model.tokenizer.pad_token_id or 0

    def embed(self, texts):
        torch = self.torch
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = [None] * len(texts)
        with torch.inference_mode():
            for first in range(0, len(order), SORTED_BATCH):
                which = order[first : first + SORTED_BATCH]
                ids, mask = padded([texts[i] for i in which], self.pad)
                features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
                found = self.model(features)["sentence_embedding"].float().numpy()
                for i, vector in zip(which, found):
                    vectors[i] = vector
        return np.stack(vectors)


class Graph:
    """An exported graph that gives hidden states; pooling is done here."""

    def __init__(self, directory, is_padded):
        self.is_padded, self.pooling = is_padded, Pooling(directory)

    def embed(self, texts):
        vectors = [None] * len(texts)
        for which in self.batches(texts):
            ids, mask = padded([texts[i] for i in which], 0)
            for i, vector in zip(which, self.pooling(self.run(ids, mask), mask)):
                vectors[i] = vector
        return np.stack(vectors)

    def batches(self, texts):
        """The texts that are embedded at once: as they arrive, or those of one length."""
        if self.is_padded:
            return [range(len(texts))[first : first + ARRIVAL_BATCH] for first in range(0, len(texts), ARRIVAL_BATCH)]
        groups = {}
        for i, text in enumerate(texts):
            groups.setdefault(len(text), []).append(i)
        parts = []
        for length, group in groups.items():
            n = max(1, GROUP_TOKENS // length)
            parts += [group[first : first + n] for first in range(0, len(group), n)]
        return parts


class OnnxRuntime(Graph):
    def __init__(self, directory, graph, threads, kind):
        super().__init__(directory, kind == "onnxruntime-padded")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.engine, self.version = "onnxruntime", onnxruntime.__version__
        self.dtype = "int8" if kind == "onnxruntime-int8" else "f32"
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, ids, mask):
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


class OpenVino(Graph):
    def __init__(self, directory, graph, threads, dtype):
        super().__init__(directory, False)
        import openvino

        hint = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": dtype}
        compiled = openvino.Core().compile_model(str(graph), "CPU", hint)
        self.engine, self.version, self.dtype = "openvino", openvino.__version__, dtype
        self.request = compiled.create_infer_request()

    def run(self, ids, mask):
        return self.request.infer({"input_ids": ids, "attention_mask": mask})[0]


class Pooling:
    """What `1_Pooling` and `modules.json` say, in numpy: `[texts, tokens, width]` to `[texts, width]`."""

    def __init__(self, directory):
        modules = json.loads((directory / "modules.json").read_text())
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        if unknown := set(kinds) - {"Transformer", "Pooling", "Normalize"}:
            raise SystemExit(f"the module {unknown.pop()} is not measured on graphs")
        self.normalize = "Normalize" in kinds
        config = json.loads((directory / modules[kinds.index("Pooling")]["path"] / "config.json").read_text())
        old = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken"}
        named = config.get("pooling_mode") or [new for name, new in old.items() if config.get(f"pooling_mode_{name}")]
        self.mode = named if isinstance(named, str) else "+".join(named)
        if self.mode not in ("cls", "mean", "lasttoken"):
            raise SystemExit(f"the pooling {self.mode} is not measured on graphs")

    def __call__(self, states, mask):
        if self.mode == "cls":
            vectors = states[:, 0]
        elif self.mode == "lasttoken":
            vectors = states[np.arange(len(states)), mask.sum(axis=1) - 1]
        else:
            weights = mask[:, :, None].astype(np.float32)
            vectors = (states * weights).sum(axis=1) / weights.sum(axis=1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12) if self.normalize else vectors


def padded(texts, pad):
    """Ids and mask, `[texts, longest]`, padded at the end."""
    ids = np.full((len(texts), max(map(len, texts))), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def opened(directory):
    """The checkpoint in f32, whatever it is published in."""
    import torch
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(directory), device="cpu", model_kwargs={"dtype": torch.float32})


def exported(directory, cache):
    """A graph of the checkpoint, made once for each content of it into `cache`."""
    weights = sorted(directory.glob("*.safetensors"))
    key = "-".join(f"{file.stat().st_size:x}-{file.stat().st_mtime_ns:x}" for file in weights)
    graph = cache / f"{directory.name}-{key}" / "model.onnx"
    if graph.is_file():
        return graph
    import torch

    class Body(torch.nn.Module):
        """Hidden states of ids and mask."""

        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]

    body = opened(directory)[0].auto_model.eval()
    body.config.use_cache = False
    graph.parent.mkdir(parents=True, exist_ok=True)
    # Two tensors: of one given twice, the exporter would make a graph that reads one input for both.
    ids, mask = torch.full((2, 24), 7), torch.ones((2, 24), dtype=torch.int64)
    shape = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    partial = graph.with_name("partial.onnx")
    torch.onnx.export(
        Body(body), (ids, mask), str(partial), input_names=["input_ids", "attention_mask"], output_names=["last_hidden_state"],
        dynamic_shapes=(shape, shape), dynamo=True, external_data=False, verbose=False,
    )
    # Whole or not there.
    partial.rename(graph)
    return graph


def quantized(graph):
    """Dynamic int8, with a scale for each channel of the weights."""
    target = graph.with_name("model_int8.onnx")
    if not target.is_file():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        partial = graph.with_name("partial_int8.onnx")
        quantize_dynamic(str(graph), str(partial), per_channel=True, weight_type=QuantType.QInt8)
        partial.rename(target)
    return target


if __name__ == "__main__":
    # What libraries print goes elsewhere: the answer is alone on standard output.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(main()), file=out, flush=True)
