//! Tokenizers for models of random weights: the special tokens of the published ones at their places, letters or bytes, and tokens
//! that no text has for the rest.

use serde_json::{Map, Value, json};

/// The last token of Qwen3's texts; those of its chats follow.
const END_OF_TEXT: usize = 151_643;

/// A kind of vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vocabulary {
    /// BERT's, of pieces of words.
    WordPiece,
    /// Qwen's, of bytes.
    Bytes,
}

impl Vocabulary {
    /// The content of `tokenizer.json` with `vocab_size` tokens.
    pub(super) fn tokenizer(self, vocab_size: usize) -> Value {
        match self {
            Self::WordPiece => word_piece(vocab_size),
            Self::Bytes => bytes(vocab_size),
        }
    }

    /// Its special tokens, as `tokenizer_config.json` names them.
    pub(super) fn special_tokens(self) -> Value {
        match self {
            Self::WordPiece => json!({"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
                "mask_token": "[MASK]"}),
            Self::Bytes => json!({"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
        }
    }
}

fn word_piece(vocab_size: usize) -> Value {
    let special = [(0, "[PAD]"), (100, "[UNK]"), (101, "[CLS]"), (102, "[SEP]"), (103, "[MASK]")];
    let letters: Vec<String> = (33_u8..127).map(|byte| char::from(byte).to_string()).collect();
    let pieces = letters.iter().cloned().chain(letters.iter().map(|letter| format!("##{letter}")));
    let vocab = numbered(vocab_size, &special, 104, pieces);
    let added: Vec<Value> = special.iter().map(|(id, token)| added(*id, token)).collect();
    let around = |token: &str, id: usize| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [special_piece("[CLS]"), sequence("A"), special_piece("[SEP]")],
            "pair": [special_piece("[CLS]"), sequence("A"), special_piece("[SEP]"), sequence("B"), special_piece("[SEP]")],
            "special_tokens": {"[CLS]": around("[CLS]", 101), "[SEP]": around("[SEP]", 102)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": vocab}})
}

fn bytes(vocab_size: usize) -> Value {
    let vocab = numbered(vocab_size.min(END_OF_TEXT), &[], 0, byte_letters().into_iter().map(String::from));
    let name = |id| if id == END_OF_TEXT { "<|endoftext|>".to_owned() } else { format!("<|special_{id}|>") };
    let added: Vec<Value> = (END_OF_TEXT..vocab_size).map(|id| added(id, &name(id))).collect();
    let end = json!({"id": "<|endoftext|>", "ids": [END_OF_TEXT], "tokens": ["<|endoftext|>"]});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [sequence("A"), special_piece("<|endoftext|>")],
            "pair": [sequence("A"), special_piece("<|endoftext|>"), sequence("B"), special_piece("<|endoftext|>")],
            "special_tokens": {"<|endoftext|>": end}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}})
}

/// The letters that GPT-2's byte-level tokenizers write bytes with, by byte.
fn byte_letters() -> Vec<char> {
    let is_letter = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256..;
    let mut letter = |byte: u32| if is_letter(byte) { Some(byte) } else { others.next() };
    (0..256).filter_map(|byte| char::from_u32(letter(byte)?)).collect()
}

/// `n` tokens with their ids: `special` ones at their places, `pieces` from `first` on, and names that no text has for the rest.
fn numbered(n: usize, special: &[(usize, &str)], first: usize, pieces: impl Iterator<Item = String>) -> Map<String, Value> {
    let mut tokens: Vec<String> = (0..n).map(|id| format!("[unused{id}]")).collect();
    for (token, piece) in tokens.iter_mut().skip(first).zip(pieces) {
        *token = piece;
    }
    for &(id, name) in special {
        if let Some(token) = tokens.get_mut(id) {
            name.clone_into(token);
        }
    }
    tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect()
}

fn added(id: usize, token: &str) -> Value {
    json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

fn special_piece(token: &str) -> Value {
    json!({"SpecialToken": {"id": token, "type_id": 0}})
}

fn sequence(id: &str) -> Value {
    json!({"Sequence": {"id": id, "type_id": 0}})
}

#[cfg(test)]
mod tests {
    use tandem_core::tokenizer::Tokenizer;

    use super::*;

    #[track_caller]
    fn check(vocabulary: Vocabulary, vocab_size: usize, n_tokens: usize, ends: (u32, u32)) {
        let json = vocabulary.tokenizer(vocab_size).to_string();
        let tokenizer = Tokenizer::from_json(json.as_bytes(), "tokenizer.json").unwrap();
        tokenizer.check_vocabulary(vocab_size, "config.json").unwrap();
        let ids = tokenizer.encode_with_template("A fox.").unwrap();
        assert_eq!((ids.len(), ids[0], ids[ids.len() - 1]), (n_tokens, ends.0, ends.1), "{ids:?}");
    }

    #[test]
    fn vocabularies_have_the_special_tokens_of_the_published_ones() {
        check(Vocabulary::WordPiece, 30_522, 7, (101, 102));
        check(Vocabulary::Bytes, 151_669, 7, (u32::from(b'A'), 151_643));
    }
}
