//! How text is split into words before bytes are merged, by the name that a GGUF gives it.

use serde_json::{Value as Json, json};

/// A way to split text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// Qwen2 to 3: digits one by one; text is brought to NFC first.
    Qwen2,
    /// Llama 3: digits by threes; a word that is a token is not merged.
    Llama3,
    /// GPT-2.
    Gpt2,
    /// SmolLM: digits one by one, then as GPT-2.
    SmolLm,
    /// Mistral's Tekken: words end where small letters are followed by capitals.
    Tekken,
}

/// The names that llama.cpp's converter gives them.
const NAMES: [(&str, PreTokenizer); 8] = [
    ("qwen2", PreTokenizer::Qwen2),
    ("deepseek-r1-qwen", PreTokenizer::Qwen2),
    ("llama-bpe", PreTokenizer::Llama3),
    ("llama3", PreTokenizer::Llama3),
    ("llama-v3", PreTokenizer::Llama3),
    ("gpt-2", PreTokenizer::Gpt2),
    ("smollm", PreTokenizer::SmolLm),
    ("tekken", PreTokenizer::Tekken),
];

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    /// The one called `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, pre_tokenizer)| *pre_tokenizer)
    }

    /// Every name that is known.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// What is done to text first.
    pub(super) fn normalizer(self) -> Json {
        if self == Self::Qwen2 { json!({"type": "NFC"}) } else { Json::Null }
    }

    /// The cuts, then GPT-2's alphabet of bytes.
    pub(super) fn pre_tokenizer(self) -> Json {
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let parts = match self {
            Self::Qwen2 => vec![split(QWEN2), bytes(false)],
            Self::Llama3 => vec![split(LLAMA3), bytes(false)],
            Self::Tekken => vec![split(TEKKEN), bytes(false)],
            Self::Gpt2 => vec![bytes(true)],
            Self::SmolLm => vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)],
        };
        json!({"type": "Sequence", "pretokenizers": parts})
    }

    /// Whether a word that is a token stays one, whatever its merges are.
    pub(super) fn ignores_merges(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Whether a text begins with a token of its own where the file does not say.
    pub(super) fn begins_text(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }
}
