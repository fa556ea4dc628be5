"""What each directory of `goldens/embedders/` is: checkpoint, modules, prompts, and the cases that are recorded."""

from embedder_checkpoints import (
    BERT,
    DISTILBERT,
    GEMMA3,
    LLAMA,
    MISTRAL,
    MODERNBERT,
    MPNET,
    QWEN2,
    QWEN3,
    ROBERTA,
    XLM_ROBERTA,
)
from embedder_texts import ALL, SOME, SPELLED, TEXTS

WIDTH = 32
# As tokenizers without a limit of their own say it.
VERY_LARGE = 1000000000000000019884624838656
PLAIN = {"texts": ALL}
# Byte-level BPE without special tokens makes no token of an empty text, for which sentence-transformers has no answer.
NOT_EMPTY = [text for text in ALL if text]
EXPLICIT = {"texts": SOME, "prompt": "Find this: "}
ROLES = [{"texts": SOME, "role": "query"}, {"texts": SOME, "role": "document"}]
SHORTER = [{"texts": SOME, "dimensions": 12}, {"texts": SOME, "dimensions": 12, "normalize": True}]


def old_pooling(*modes):
    """The arguments of sentence-transformers before 5.4."""
    return ["Pooling", {"word_embedding_dimension": WIDTH, **{f"pooling_mode_{mode}": mode in modes for mode in OLD_MODES}}]


OLD_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def pooling(*modes, include_prompt=True):
    mode = modes[0] if len(modes) == 1 else list(modes)
    return ["Pooling", {"embedding_dimension": WIDTH, "pooling_mode": mode, "include_prompt": include_prompt}]


def dense(in_features, out_features, bias, activation):
    return ["Dense", {"in_features": in_features, "out_features": out_features, "bias": bias, "activation": activation}]


NORMALIZE = ["Normalize", {}]

SPECS = {
    "bert-mean": {
        "why": "as all-MiniLM-L6-v2: mean, Normalize, old form of the files; three lengths, of which that of "
        "sentence_bert_config.json counts; the author's truncation and padding in tokenizer.json",
        "seed": 1,
        "architecture": "BertModel",
        "config": BERT,
        "tokenizer": "bert",
        "model_max_length": 96,
        "form": "old",
        "max_seq_length": 64,
        "modules": [old_pooling("mean_tokens"), NORMALIZE],
        "edited": {"tokenizer_config.json": {"model_max_length": 80}},
        "author_settings": True,
        "cases": [
            PLAIN,
            {"texts": [SPELLED]},
            EXPLICIT,
            *SHORTER,
            {"texts": [dict(TEXTS)[name] for name in ("word", "near duplicate 1", "emoji")], "token_embeddings": True},
        ],
    },
    "qwen3": {
        "why": "as Qwen3-Embedding: causal, last token, Normalize, a prompt for queries alone, an end token that the "
        "tokenizer's template appends and that truncation spares; a chat template that embedding does not use",
        "seed": 2,
        "architecture": "Qwen3Model",
        "config": QWEN3 | {"eos_token_id": "<|endoftext|>", "bos_token_id": "<|endoftext|>"},
        "tokenizer": "qwen-appending",
        "model_max_length": 64,
        "form": "new",
        "modules": [pooling("lasttoken"), NORMALIZE],
        "prompts": {
            "query": "Instruct: Given a question, retrieve passages that answer it\nQuery:",
            "document": "",
        },
        "cases": [PLAIN, *ROLES, EXPLICIT, {"texts": SOME, "prompt_name": "query"}, *SHORTER, {"texts": [SPELLED]}],
    },
    "qwen3-no-end": {
        "why": "as the first revisions of Qwen3-Embedding: the tokenizer appends nothing, and there is no "
        "sentence_bert_config.json; old form. What sentence-transformers makes of that, and of texts with the end token",
        "seed": 3,
        "architecture": "Qwen3Model",
        "config": QWEN3 | {"eos_token_id": "<|endoftext|>", "bos_token_id": "<|endoftext|>"},
        "tokenizer": "qwen",
        "model_max_length": 64,
        "form": "old",
        "modules": [old_pooling("lasttoken"), NORMALIZE],
        "removed": ["sentence_bert_config.json"],
        "prompts": {
            "query": "Instruct: Given a question, retrieve passages that answer it\nQuery:",
            "document": "",
        },
        "cases": [
            {"texts": NOT_EMPTY},
            {"texts": ALL, "appended": "<|endoftext|>"},
            {"texts": SOME, "role": "query"},
            {"texts": SOME, "role": "query", "appended": "<|endoftext|>"},
        ],
    },
    "bert-cls": {
        "why": "as bge-*-en: first token, a prompt for queries; not normalised; truncate_dim 24 in "
        "config_sentence_transformers.json; the length is in tokenizer_config.json alone",
        "seed": 4,
        "architecture": "BertModel",
        "config": BERT,
        "tokenizer": "bert",
        "model_max_length": 64,
        "form": "new",
        "modules": [pooling("cls")],
        "truncate_dim": 24,
        "prompts": {"query": "Find passages for this question: ", "document": ""},
        "author_settings": True,
        "cases": [PLAIN, *ROLES, *SHORTER, {"texts": SOME, "normalize": True}],
    },
    "bert-poolings": {
        "why": "all poolings one after another, in the order of the list in 1_Pooling/config.json; new form; a prompt that "
        "is not pooled, under the name that is the default",
        "seed": 5,
        "architecture": "BertModel",
        "config": BERT,
        "tokenizer": "bert",
        "model_max_length": 64,
        "form": "new",
        "modules": [
            pooling("weightedmean", "max", "cls", "mean_sqrt_len_tokens", "mean", "lasttoken", include_prompt=False)
        ],
        "prompts": {"question": "The question is: ", "document": "The river:"},
        "default_prompt_name": "question",
        "cases": [
            PLAIN,
            {"texts": SOME, "prompt": ""},
            *ROLES,
            EXPLICIT,
        ],
    },
    "bert-concatenated": {
        "why": "two poolings as booleans: first token, then maximum, whatever the order of the keys; old form; "
        "max_seq_length is null, so that max_position_embeddings counts; texts in lower case for a tokenizer that has both",
        "seed": 6,
        "architecture": "BertModel",
        "config": BERT | {"max_position_embeddings": 64},
        "tokenizer": "bert-cased",
        "model_max_length": VERY_LARGE,
        "form": "old",
        "modules": [old_pooling("max_tokens", "cls_token")],
        "do_lower_case": True,
        "edited": {"sentence_bert_config.json": {"max_seq_length": None}},
        "cases": [PLAIN, EXPLICIT],
    },
    "bert-dense": {
        "why": "mean, Dense with Tanh, Dense without activation and bias, Normalize; new form",
        "seed": 7,
        "architecture": "BertModel",
        "config": BERT,
        "tokenizer": "bert",
        "model_max_length": 64,
        "form": "new",
        "modules": [
            pooling("mean"),
            dense(WIDTH, 48, True, "Tanh"),
            dense(48, 40, False, "Identity"),
            NORMALIZE,
        ],
        "cases": [PLAIN, *SHORTER],
    },
    "bert-plain": {
        "why": "no modules.json: mean, not normalised. The weights are those of a masked language model, with its head, the "
        "prefix `bert.`, `gamma` and `beta`, and `position_ids`; the tokenizer has no limit of its own",
        "seed": 8,
        "architecture": "BertForMaskedLM",
        "config": BERT | {"max_position_embeddings": 64},
        "tokenizer": "bert",
        "model_max_length": VERY_LARGE,
        "form": "plain",
        "modules": None,
        "old_weight_names": True,
        "cases": [PLAIN, EXPLICIT],
    },
    "roberta": {
        "why": "positions from 2; mean and Normalize; old form; the length is in sentence_bert_config.json alone",
        "seed": 9,
        "architecture": "RobertaModel",
        "config": ROBERTA,
        "tokenizer": "roberta",
        "model_max_length": VERY_LARGE,
        "form": "old",
        "max_seq_length": 64,
        "modules": [old_pooling("mean_tokens"), NORMALIZE],
        # transformers 4 writes the length that it was given.
        "edited": {"tokenizer_config.json": {"model_max_length": VERY_LARGE}},
        "cases": [PLAIN, EXPLICIT],
    },
    "xlm-roberta": {
        "why": "as multilingual-e5: positions from 2, Unigram, prompts `query` and `passage`; mean and Normalize; the "
        "author's truncation and padding in tokenizer.json",
        "seed": 10,
        "architecture": "XLMRobertaModel",
        "config": XLM_ROBERTA,
        "tokenizer": "xlm-roberta",
        "model_max_length": 64,
        "form": "new",
        "modules": [pooling("mean"), NORMALIZE],
        "prompts": {"query": "query: ", "passage": "passage: "},
        "author_settings": True,
        "cases": [PLAIN, *ROLES, *SHORTER],
    },
    "mpnet": {
        "why": "as all-mpnet-base-v2: a bias of the scores by relative position, shared by all layers; positions from 2, no "
        "types; mean and Normalize; old form",
        "seed": 11,
        "architecture": "MPNetModel",
        "config": MPNET,
        "tokenizer": "mpnet",
        "model_max_length": 96,
        "form": "old",
        "max_seq_length": 64,
        "modules": [old_pooling("mean_tokens"), NORMALIZE],
        "edited": {"tokenizer_config.json": {"model_max_length": 80}},
        "cases": [PLAIN, EXPLICIT],
    },
    "distilbert": {
        "why": "names and config keys of its own, no types; mean",
        "seed": 12,
        "architecture": "DistilBertModel",
        "config": DISTILBERT,
        "tokenizer": "bert",
        "tokenizer_config": {"tokenizer_class": "DistilBertTokenizer"},
        "model_max_length": 64,
        "form": "new",
        "modules": [pooling("mean")],
        "cases": [PLAIN, EXPLICIT],
    },
    "modernbert": {
        "why": "as modernbert-embed: layers 0 and 3 see everything, the others four tokens to each side with a rotary base "
        "of their own; unused rows of the embedding; config form 4; mean and Normalize; old form",
        "seed": 13,
        "architecture": "ModernBertModel",
        "config": MODERNBERT,
        "tokenizer": "modernbert",
        "unused_rows": 8,
        "model_max_length": 64,
        "form": "old",
        "max_seq_length": 64,
        "modules": [old_pooling("mean_tokens"), NORMALIZE],
        "prompts": {"query": "search_query: ", "document": "search_document: "},
        "cases": [PLAIN, *ROLES],
    },
    "qwen2": {
        "why": "causal; biases on q, k and v; last token, not normalised",
        "seed": 14,
        "architecture": "Qwen2Model",
        "config": QWEN2,
        "tokenizer": "qwen-appending",
        "model_max_length": 64,
        "form": "new",
        "modules": [pooling("lasttoken")],
        "cases": [PLAIN],
    },
    "qwen2-bidirectional": {
        "why": "as gte-Qwen2: `is_causal` is false in config.json, so every token sees all; last token and Normalize",
        "seed": 15,
        "architecture": "Qwen2Model",
        "config": QWEN2 | {"is_causal": False},
        "tokenizer": "qwen-appending",
        "model_max_length": 64,
        "form": "new",
        "modules": [pooling("lasttoken"), NORMALIZE],
        "prompts": {"query": "Instruct: Given a question, retrieve passages that answer it\nQuery: "},
        "cases": [PLAIN, *ROLES],
    },
    "llama": {
        "why": "causal; `<|begin_of_text|>` in front; mean with weights that grow with the position, as SGPT",
        "seed": 16,
        "architecture": "LlamaModel",
        "config": LLAMA,
        "tokenizer": "llama3",
        "model_max_length": 64,
        "form": "new",
        "modules": [pooling("weightedmean")],
        "cases": [PLAIN, EXPLICIT],
    },
    "mistral": {
        "why": "as e5-mistral: causal; a token at both ends; last token and Normalize; old form; config form 4",
        "seed": 17,
        "architecture": "MistralModel",
        "config": MISTRAL,
        "tokenizer": "mistral",
        "model_max_length": 64,
        "form": "old",
        "max_seq_length": 64,
        "modules": [old_pooling("lasttoken"), NORMALIZE],
        "prompts": {"web": "Instruct: Given a question, retrieve passages that answer it\nQuery: "},
        "cases": [PLAIN, {"texts": SOME, "prompt_name": "web"}],
    },
    "gemma3": {
        "why": "as EmbeddingGemma: every token sees all, in two of three layers four tokens to each side; mean, two Dense "
        "without bias and activation, Normalize; prompts for both roles",
        "seed": 18,
        "architecture": "Gemma3TextModel",
        "config": GEMMA3,
        "tokenizer": "gemma",
        "model_max_length": 64,
        "form": "new",
        "modules": [
            pooling("mean"),
            dense(WIDTH, 64, False, "Identity"),
            dense(64, WIDTH, False, "Identity"),
            NORMALIZE,
        ],
        "prompts": {"query": "task: search result | query: ", "document": "title: none | text: "},
        "cases": [PLAIN, *ROLES, EXPLICIT, *SHORTER],
    },
}
