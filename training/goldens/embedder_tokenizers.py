"""Tiny tokenizers of encoders, and those of decoders with the token that their embedders append.

Each is built of the parts that the published ones of its family have, and `tokenizer_config.json` names the class that
transformers has for it: since version 5 transformers builds the parts anew from that class, and takes the vocabulary and
the post-processor from `tokenizer.json`.
"""

import math
from collections import Counter

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tiny_tokenizers
from embedder_texts import TRAINING_TEXT
from tiny_tokenizers import special


def template(tokenizer, single, pair):
    """A post-processor; tokens are those of the vocabulary that `single` and `pair` name."""
    tokens = {word.split(":")[0] for word in f"{single} {pair}".split()} - {"$A", "$B"}
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, tokenizer.token_to_id(token)) for token in sorted(tokens)]
    )


def word_piece(specials, lowercase):
    """WordPiece with `specials` first: letters, endings, and the words of the training text that are no such compound."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    normal = [tokenizer.normalizer.normalize_str(text) for text in TRAINING_TEXT]
    words = {word for text in normal for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    letters = {letter for word in words for letter in word}
    endings = ["s", "ed", "ing", "er", "es"]
    compounds = {word + ending for word in words for ending in endings}
    tokens = [*letters, *(f"##{part}" for part in [*letters, *endings]), *(words - compounds)]
    vocab = {token: index for index, token in enumerate([*specials, *sorted(set(tokens))])}
    tokenizer.model = models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    return tokenizer


def bert(lowercase=True):
    """`[CLS] A [SEP] B [SEP]`, the types of the second part are 1."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = word_piece(specials, lowercase)
    tokenizer.add_special_tokens([special(token) for token in specials])
    tokenizer.post_processor = template(tokenizer, "[CLS] $A [SEP]", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": lowercase,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    return tokenizer, config


def bert_cased():
    return bert(lowercase=False)


def mpnet():
    """WordPiece between `<s>` and `</s>`; the unknown token is still `[UNK]`."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]
    tokenizer = word_piece(specials, lowercase=True)
    tokenizer.add_special_tokens([special(token) for token in specials if token != "<mask>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    config = {
        "tokenizer_class": "MPNetTokenizer",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "[UNK]",
        "mask_token": "<mask>",
    }
    return tokenizer, config


def byte_bpe(vocab_size, specials):
    """GPT-2's byte-level BPE, with `specials` first."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learned.train_from_iterator(TRAINING_TEXT, trainer)
    assert learned.get_vocab_size() == vocab_size
    learned.decoder = decoders.ByteLevel()
    return learned


def roberta(vocab_size=512):
    """`<s> A </s></s> B </s>`."""
    tokenizer = byte_bpe(vocab_size, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", tokenizer.token_to_id("</s>")),
        cls_token=("<s>", tokenizer.token_to_id("<s>")),
        trim_offsets=True,
        add_prefix_space=False,
    )
    config = {
        "tokenizer_class": "RobertaTokenizer",
        "add_prefix_space": False,
        "trim_offsets": True,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return tokenizer, config


def modernbert(vocab_size=512):
    """Byte-level BPE with NFC between `[CLS]` and `[SEP]`."""
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = byte_bpe(vocab_size, specials)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    return tokenizer, config


def xlm_roberta():
    """Unigram with `▁` for blanks, `<s> A </s></s> B </s>`."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    words = [word for text in TRAINING_TEXT for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    # Whole words; single letters; and parts that often lead to more than one way to split a word.
    parts = [word[:4] for word in words] + [word[-2:] for word in words] + [word[-3:] for word in words]
    counts = Counter([*words, *parts, *(letter for word in words for letter in word)])
    likely = sorted(counts, key=lambda piece: (-counts[piece], piece))
    kept = [piece for n, piece in enumerate(likely) if n < 300 or len(piece) == 1]
    total = sum(counts.values())
    pieces = [(piece, round(math.log(counts[piece] / total), 4)) for piece in kept]
    vocab = [*((token, 0.0) for token in specials), *pieces, ("<mask>", 0.0)]
    tokenizer.model = models.Unigram(vocab=vocab, unk_id=3, byte_fallback=False)
    tokenizer.add_special_tokens([special(token) for token in specials])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    config = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return tokenizer, config


def qwen(vocab_size=512):
    """Nothing is appended, as in the first revisions of Qwen3-Embedding, and Qwen3-Reranker."""
    return tiny_tokenizers.qwen(vocab_size, TRAINING_TEXT)


def qwen_appending(vocab_size=512):
    """`<|endoftext|>`, the token for padding, is appended, and not `<|im_end|>`, which ends a text."""
    tokenizer, config = qwen(vocab_size)
    end = "<|endoftext|>"
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template(tokenizer, f"$A {end}", f"$A {end} $B:1 {end}:1")]
    )
    return tokenizer, config


def llama3(vocab_size=512):
    tokenizer, config = tiny_tokenizers.llama3(vocab_size, TRAINING_TEXT)
    config["pad_token"] = "<|end_of_text|>"
    return tokenizer, config


def mistral(vocab_size=512):
    """`<s> A </s>`, as e5-mistral."""
    tokenizer, config = tiny_tokenizers.mistral(vocab_size, TRAINING_TEXT)
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>", "<s> $A </s> <s>:1 $B:1 </s>:1")
    config.update(pad_token="</s>", add_eos_token=True)
    return tokenizer, config


def gemma(vocab_size=512):
    """No `▁` in front of the first word; a token at both ends."""
    tokenizer, config = mistral(vocab_size)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    config.update(tokenizer_class="PreTrainedTokenizerFast", pad_token="<unk>")
    del config["legacy"]
    return tokenizer, config


FAMILIES = {
    "bert": bert,
    "bert-cased": bert_cased,
    "mpnet": mpnet,
    "roberta": roberta,
    "modernbert": modernbert,
    "xlm-roberta": xlm_roberta,
    "qwen": qwen,
    "qwen-appending": qwen_appending,
    "llama3": llama3,
    "mistral": mistral,
    "gemma": gemma,
}
