"""Tiny tokenizers that can encode any text: byte-level BPE, and BPE with byte fallback.

Each has the parts of the family it stands for (normalizer, split, post-processor, decoder), because
those parts, and not the size of the vocabulary, are where tokenizers differ.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from prompts import TRAINING_TEXT

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def byte_level(split, vocab_size, normalizer=None, text=TRAINING_TEXT):
    """A byte-level BPE: all 256 bytes, and as many merges, learned from `text`, as `vocab_size` leaves room for."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=False))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    return tokenizer


def special(content):
    return AddedToken(content, special=True, normalized=False)


def qwen(vocab_size, text=TRAINING_TEXT):
    """Qwen2 and Qwen3: NFC, digits one by one, no token added at the front, ChatML specials at the end."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(QWEN_SPLIT, vocab_size - len(specials), normalizers.NFC(), text)
    tokenizer.add_special_tokens([special(s) for s in specials])
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "chat_template": (
            "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
            "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
        ),
    }
    return tokenizer, config


def llama3(vocab_size, text=TRAINING_TEXT):
    """Llama 3: digits in threes, `<|begin_of_text|>` put in front when special tokens are asked for."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_level(LLAMA_SPLIT, vocab_size - len(specials), text=text)
    tokenizer.add_special_tokens([special(s) for s in specials])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", begin)],
            ),
        ]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "chat_template": (
            "{{- bos_token }}{%- for message in messages %}"
            "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}"
            "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
        ),
    }
    return tokenizer, config


def mistral(vocab_size, text=TRAINING_TEXT):
    """Mistral: pieces with `▁` for space, and one `<0xXX>` token a byte for all that has no piece."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned = Tokenizer(models.BPE())
    learned.normalizer = spaces
    # Merges within words only, and from ASCII only: the rest shall go through byte fallback.
    learned.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+"), behavior="isolated")
    text = [t for t in text if t.isascii()]
    head = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(head), show_progress=False)
    learned.train_from_iterator(text, trainer)

    model = json.loads(learned.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    vocab = {piece: index for index, piece in enumerate(head + pieces)}
    assert len(vocab) == vocab_size
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([special(s) for s in head[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "chat_template": (
            "{{- bos_token }}{%- for message in messages %}{%- if message.role == 'user' %}"
            "{{- '[INST] ' + message.content + ' [/INST]' }}{%- else %}{{- ' ' + message.content + eos_token }}"
            "{%- endif %}{%- endfor %}"
        ),
    }
    return tokenizer, config


FAMILIES = {"qwen": qwen, "llama3": llama3, "mistral": mistral}
