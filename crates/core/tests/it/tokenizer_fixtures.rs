//! Small tokenizers as JSON, made by code: one with GPT-2's byte alphabet as Qwen and Llama 3 have it, one with byte fallback
//! as Llama 2 and Mistral have it.

use serde_json::{Map, Value, json};

/// The first added token of either.
pub(crate) const FIRST_ADDED: u32 = 270;

/// Byte-level BPE: 256 bytes, merges, then the added tokens `<|im_start|>`, `<|im_end|>`, `</think>` (not special) and
/// `<|endoftext|>`.
pub(crate) fn byte_level() -> Value {
    let merges = [
        ["h", "e"],
        ["l", "l"],
        ["he", "ll"],
        ["hell", "o"],
        ["Ġ", "w"],
        ["o", "r"],
        ["Ġw", "or"],
        ["l", "d"],
        ["Ġwor", "ld"],
        ["u", "s"],
        ["e", "r"],
        ["us", "er"],
        ["Ã", "©"],
        ["ð", "Ł"],
    ];
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        vocab.insert(alphabet(byte).to_string(), json!(byte));
    }
    for pair in &merges {
        let id = vocab.len();
        vocab.insert(pair.concat(), json!(id));
    }
    assert_eq!(vocab.len(), FIRST_ADDED as usize);
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let mut pre_tokenizer = decoder.clone();
    pre_tokenizer["use_regex"] = json!(true);
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 32}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
        "added_tokens": added(&[("<|im_start|>", true), ("<|im_end|>", true), ("</think>", false), ("<|endoftext|>", true)]),
        "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [FIRST_ADDED + 3], "tokens": ["<|endoftext|>"]}}},
        "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges},
    })
}

/// BPE with byte fallback: three special tokens in the vocabulary, 256 byte tokens, pieces, then `[INST]` (special) and
/// `<tool>` (not special).
pub(crate) fn byte_fallback() -> Value {
    let mut vocab = Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.into(), json!(vocab.len()));
    }
    for byte in 0..=255u8 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
    }
    for piece in ["▁", "h", "i", "▁h", "▁hi", "e", "<", "s", ">", "é", "/"] {
        vocab.insert(piece.into(), json!(vocab.len()));
    }
    assert_eq!(vocab.len(), FIRST_ADDED as usize);
    let mut tokens = added(&[("[INST]", true), ("<tool>", false)]);
    for (id, token) in ["<unk>", "<s>", "</s>"].iter().enumerate() {
        tokens.insert(id, added_token(id as u32, token, true));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab,
            "merges": [["▁", "h"], ["▁h", "i"]]},
    })
}

/// GPT-2's character for a byte.
pub(crate) fn alphabet(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = if printable(byte) { u32::from(byte) } else { 256 + (0..byte).filter(|&b| !printable(b)).count() as u32 };
    char::from_u32(code).unwrap()
}

fn added(tokens: &[(&str, bool)]) -> Vec<Value> {
    tokens.iter().zip(FIRST_ADDED..).map(|(&(content, special), id)| added_token(id, content, special)).collect()
}

fn added_token(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special})
}
