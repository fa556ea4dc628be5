"""Makes the `cross-*` directories of `goldens/embedders/`: tiny rerankers, and what CrossEncoder answers for them.

usage: rerankers.py [--only NAME]...

See goldens/README.md.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

# Before torch is loaded: it sets how sums are made.
import embedders  # isort: skip

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore

from checkpoints import n_bytes, write_json
from embedder_checkpoints import BERT, MODERNBERT, QWEN3, XLM_ROBERTA, write_checkpoint
from embedder_texts import DOCUMENTS, QUERIES

ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
# The roles are those that sentence-transformers has for a pair; the words are our own.
TEMPLATE = (
    "<|im_start|>system\nSay whether the Document answers the Query: yes or no.<|im_end|>\n<|im_start|>user\n"
    '<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first | '
    'default("Given a question, retrieve passages that answer it") }}\n'
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    '<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>\n'
    # Jinja drops the last line break of a template.
    "<|im_start|>assistant\n<think>\n\n</think>\n\n\n"
)
# What follows the part that may be cut.
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN3_RERANKER = {
    "seed": 24,
    "config": QWEN3 | {"eos_token_id": "<|im_end|>", "bos_token_id": "<|endoftext|>"},
    "tokenizer": "qwen",
    "tokenizer_config": {"chat_template": TEMPLATE},
    "model_max_length": 160,
}

SPECS = {
    "cross-bert": {
        "why": "as ms-marco-MiniLM: no modules.json, the activation Identity in config.json, pooler and classifier, types "
        "0 and 1; the author's truncation and padding in tokenizer.json",
        "seed": 29,
        "architecture": "BertForSequenceClassification",
        "config": BERT
        | ONE_LABEL
        | {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}},
        "tokenizer": "bert",
        "model_max_length": 64,
        "form": "plain",
        "author_settings": True,
    },
    "cross-xlm-roberta": {
        "why": "as bge-reranker: no modules.json, no activation named, so sigmoid; a head of two matrices; two separators",
        "seed": 53,
        "architecture": "XLMRobertaForSequenceClassification",
        "config": XLM_ROBERTA | ONE_LABEL,
        "tokenizer": "xlm-roberta",
        "model_max_length": 64,
        "form": "plain",
    },
    "cross-modernbert": {
        "why": "as gte-reranker-modernbert: mean pooling in the head; saved by CrossEncoder in the new form, with "
        "modules.json and the activation in config_sentence_transformers.json",
        "seed": 29,
        "architecture": "ModernBertForSequenceClassification",
        "config": MODERNBERT | ONE_LABEL,
        "tokenizer": "modernbert",
        "model_max_length": 64,
        "form": "new",
    },
    "cross-qwen3": QWEN3_RERANKER
    | {
        "why": "as Qwen3-Reranker: a causal language model, LogitScore of two tokens, and a chat template with the roles "
        "query and document, of which the end is never cut",
        "architecture": "Qwen3ForCausalLM",
        "form": "new",
        "true_token": "yes",
        "false_token": "no",
    },
    "cross-qwen3-seq-cls": QWEN3_RERANKER
    | {
        "why": "cross-qwen3 converted: score.weight is the row of `yes` less the row of `no`; no modules.json",
        "architecture": "Qwen3ForCausalLM",
        "form": "seq-cls",
        "true_token": "yes",
        "false_token": "no",
    },
}


def save(directory, spec):
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        write_checkpoint(checkpoint, spec)
        if spec["form"] == "seq-cls":
            convert(checkpoint, spec)
        if spec["form"] != "new":
            shutil.copytree(checkpoint, directory)
            return
        model = CrossEncoder(modules=modules(str(checkpoint), spec), device="cpu")
        model.save_pretrained(str(directory), create_model_card=False)


def modules(checkpoint, spec):
    if "true_token" not in spec:
        return [Transformer(checkpoint, transformer_task="sequence-classification")]
    model = Transformer(checkpoint, transformer_task="text-generation")
    ids = [model.tokenizer.convert_tokens_to_ids(spec[key]) for key in ("true_token", "false_token")]
    return [model, LogitScore(*ids)]


def convert(checkpoint, spec):
    """The head as one vector: the difference of two rows of the tied embeddings."""
    weights = load_file(checkpoint / "model.safetensors")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    yes, no = (tokenizer.convert_tokens_to_ids(spec[key]) for key in ("true_token", "false_token"))
    rows = weights["model.embed_tokens.weight"]
    weights["score.weight"] = (rows[yes] - rows[no])[None].contiguous()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    embedders.edit(
        checkpoint,
        {"edited": {"config.json": {"architectures": ["Qwen3ForSequenceClassification"], **ONE_LABEL}}},
    )


def load(directory):
    return CrossEncoder(
        str(directory), device="cpu", local_files_only=True, model_kwargs={"attn_implementation": "eager"}
    )


def answer(model, query, documents, prompt=None):
    """One query against its documents, cut as sentence-transformers does.

    Of a pair the longer text loses tokens first; of a rendered template, what is before its fixed end.
    """
    pairs = [(query, document) for document in documents]
    features = [model.preprocess([pair], prompt=prompt) for pair in pairs]
    logits = model.predict(pairs, prompt=prompt, activation_fn=torch.nn.Identity(), batch_size=1)
    scores = model.predict(pairs, prompt=prompt, batch_size=1)
    lengths = [whole_length(model, pair, prompt) for pair in pairs]
    truncation = "end_of_content" if "message" in model[0].modality_config else "longest_first"
    return record(query, documents, prompt, truncation, features, lengths, model, logits, scores)


def whole_length(model, pair, prompt):
    limit, model.max_seq_length = model.max_seq_length, 100_000
    length = model.preprocess([pair], prompt=prompt)["input_ids"].shape[1]
    model.max_seq_length = limit
    return length


def record(query, documents, prompt, truncation, features, lengths, model, logits, scores):
    result = {
        "query": query,
        "documents": documents,
        "prompt": prompt,
        "truncation": truncation,
        "token_ids": [f["input_ids"][0].tolist() for f in features],
        "truncated": [length > model.max_seq_length for length in lengths],
        "logits": [embedders.number(value) for value in logits],
        "scores": [embedders.number(value) for value in scores],
    }
    if "token_type_ids" in features[0]:
        result["token_type_ids"] = [f["token_type_ids"][0].tolist() for f in features]
    return result


@torch.inference_mode()
def answer_only_second(model, query, documents):
    """The same when only documents are cut."""
    tokenizer = model.tokenizer
    features = [
        # A list: transformers takes a single empty document for none at all.
        tokenizer([query], [document], truncation="only_second", max_length=model.max_seq_length, return_tensors="pt")
        for document in documents
    ]
    logits = torch.cat([model.transformers_model(**f).logits[:, 0] for f in features])
    lengths = [len(tokenizer([query], [document])["input_ids"][0]) for document in documents]
    scores = model.activation_fn(logits)
    return record(query, documents, None, "only_second", features, lengths, model, logits.numpy(), scores.numpy())


def make(name, spec):
    directory = embedders.ROOT / name
    save(directory, spec)
    embedders.edit(directory, spec)
    model = load(directory)
    cases = [answer(model, query, DOCUMENTS) for query in QUERIES]
    if "true_token" in spec:
        cases.append(answer(model, QUERIES[0], DOCUMENTS, prompt="Find the passage"))
    else:
        cases.append(answer_only_second(model, QUERIES[0], DOCUMENTS))
    result = {
        "why": spec["why"],
        "made_with": embedders.MADE_WITH,
        "seed": spec["seed"],
        "max_seq_length": model.max_seq_length,
        "modules": [type(module).__name__ for module in model],
        "activation": type(model.activation_fn).__name__,
        "cases": cases,
    }
    if "true_token" in spec:
        result["never_cut"] = SUFFIX
    write_json(directory / "expected.json", result)
    size = n_bytes(directory)
    print(f"{name}: {result['modules']}, {result['activation']}, length {result['max_seq_length']}, {size} bytes")
    for case in cases:
        print(f"  {case['logits']} {case['truncated']} {[len(row) for row in case['token_ids']]}")
    assert size <= embedders.LIMIT_BYTES, f"`{name}` is larger than {embedders.LIMIT_BYTES} bytes"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", choices=SPECS)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in arguments.only or SPECS:
        make(name, SPECS[name])


if __name__ == "__main__":
    main()
