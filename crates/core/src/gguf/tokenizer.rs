//! From the metadata to a `tokenizer.json`, which is then read like any other.
//!
//! A file lists tokens, their types and merges, and names by one word (`tokenizer.ggml.pre`) how text is cut before it is merged:
//! what that word stands for is llama.cpp's `src/llama-vocab.cpp` and the `tokenizer.json` of the models that were converted.

mod pre_tokenizer;

use std::collections::HashMap;

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use self::pre_tokenizer::PreTokenizer;
use super::Gguf;
use super::reader::shown;
use crate::error::{Error, Result};
use crate::primitives::TokenId;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// What `tokenizer.ggml.token_type` says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for no text.
    Control,
    /// Text that is one token wherever it stands.
    UserDefined,
    /// Fills a place.
    Unused,
}

/// A token of the list, whose place is its id.
pub(super) struct Token<'g> {
    pub(super) id: TokenId,
    pub(super) text: &'g str,
    pub(super) kind: TokenKind,
}

#[derive(Serialize)]
struct File<'g> {
    version: &'static str,
    added_tokens: Vec<Added<'g>>,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Model<'g>,
}

#[derive(Serialize)]
struct Added<'g> {
    id: TokenId,
    content: &'g str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Model<'g> {
    #[serde(rename = "type")]
    kind: &'static str,
    ignore_merges: bool,
    #[serde(serialize_with = "vocabulary")]
    vocab: &'g [Token<'g>],
    merges: Vec<(&'g str, &'g str)>,
}

impl<'g> Added<'g> {
    fn of(token: &Token<'g>) -> Self {
        Self {
            id: token.id,
            content: token.text,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: token.kind == TokenKind::Control,
        }
    }
}

impl Gguf {
    /// The `tokenizer.json` that says the same.
    pub(super) fn tokenizer_json(&self) -> Result<Vec<u8>> {
        const MODEL: &str = "tokenizer.ggml.model";
        let tokens = self.tokens()?.ok_or_else(|| self.no_tokenizer("it holds none".into()))?;
        match self.string(MODEL)? {
            Some("gpt2") => {}
            Some(other) => {
                let kind = shown(other.as_bytes());
                return Err(self
                    .no_tokenizer(format!("it is of the kind `{kind}` (`{MODEL}`), and only `gpt2`, merges of bytes, is read")));
            }
            None => return Err(self.missing(MODEL)),
        }
        let pre_tokenizer = self.pre_tokenizer()?;
        let kept: Vec<Token<'_>> =
            tokens.into_iter().filter(|token| token.kind != TokenKind::Unused && !token.text.is_empty()).collect();
        self.check_unique(&kept)?;
        let is_added = |token: &&Token<'_>| matches!(token.kind, TokenKind::Control | TokenKind::UserDefined);
        let file = File {
            version: "1.0",
            added_tokens: kept.iter().filter(is_added).map(Added::of).collect(),
            normalizer: pre_tokenizer.normalizer(),
            pre_tokenizer: pre_tokenizer.pre_tokenizer(),
            post_processor: self.post_processor(&kept, pre_tokenizer)?,
            decoder: json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}),
            // An added token keeps its id by being in the vocabulary as well; no merge leads to it.
            model: Model { kind: "BPE", ignore_merges: pre_tokenizer.ignores_merges(), vocab: &kept, merges: self.merges()? },
        };
        serde_json::to_vec(&file).map_err(|error| Error::bad_file(self.file(), "its tokenizer cannot be written as JSON", error))
    }

    /// The tokens in the order of their ids; `None` when the file lists none.
    pub(super) fn tokens(&self) -> Result<Option<Vec<Token<'_>>>> {
        let Some(texts) = self.strings(TOKENS)? else { return Ok(None) };
        let kinds = self.integers(TYPES)?;
        if let Some(kinds) = &kinds
            && kinds.len() != texts.len()
        {
            return Err(self.bad(TYPES, format!("has {} entries for {} tokens", kinds.len(), texts.len())));
        }
        if TokenId::try_from(texts.len()).is_err() {
            return Err(self.bad(TOKENS, "has more tokens than ids of 32 bits"));
        }
        // `llama_token_type` of llama.cpp.
        let kind = |i: usize| match kinds.as_ref().map_or(1, |kinds| kinds[i]) {
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            _ => TokenKind::Normal,
        };
        Ok(Some(texts.into_iter().enumerate().map(|(i, text)| Token { id: i as TokenId, text, kind: kind(i) }).collect()))
    }

    /// The error for a file whose tokenizer cannot be made, with what helps.
    fn no_tokenizer(&self, reason: String) -> Error {
        Error::Unsupported {
            what: format!("the tokenizer of `{}`", self.file()),
            reason,
            hint: Some("put the `tokenizer.json` of the checkpoint that it was made from beside the file".into()),
        }
    }

    fn pre_tokenizer(&self) -> Result<PreTokenizer> {
        const KEY: &str = "tokenizer.ggml.pre";
        let Some(name) = self.string(KEY)? else {
            return Err(self.no_tokenizer(format!("the file does not say how text is cut into words (`{KEY}`)")));
        };
        PreTokenizer::named(name).ok_or_else(|| {
            let known = PreTokenizer::names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            self.no_tokenizer(format!("`{KEY}` is `{}`; known: {known}", shown(name.as_bytes())))
        })
    }

    fn check_unique(&self, tokens: &[Token<'_>]) -> Result<()> {
        let mut ids = HashMap::with_capacity(tokens.len());
        for token in tokens {
            if let Some(first) = ids.insert(token.text, token.id) {
                let text = shown(token.text.as_bytes());
                return Err(self.bad(TOKENS, format!("has `{text}` twice, as {first} and as {}", token.id)));
            }
        }
        Ok(())
    }

    fn merges<'g>(&'g self) -> Result<Vec<(&'g str, &'g str)>> {
        let merges = self.strings(MERGES)?.ok_or_else(|| self.missing(MERGES))?;
        // In the alphabet of bytes a space is another character: the one between the halves is the only one.
        let halves = |(i, merge): (usize, &'g str)| {
            let halves = merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty());
            halves.ok_or_else(|| self.bad(&format!("{MERGES}[{i}]"), format!("is `{}`, not two tokens", shown(merge.as_bytes()))))
        };
        merges.into_iter().enumerate().map(halves).collect()
    }

    /// The tokens that are put around a text.
    fn post_processor(&self, tokens: &[Token<'_>], pre_tokenizer: PreTokenizer) -> Result<Json> {
        let begins = self.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(pre_tokenizer.begins_text());
        let ends = self.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let special = |wanted: bool, key: &str| -> Result<Option<&Token<'_>>> {
            let id = if wanted { self.integer(key)? } else { None };
            let Some(id) = id else { return Ok(None) };
            let token = tokens.iter().find(|token| u64::from(token.id) == id);
            token.map(Some).ok_or_else(|| self.bad(key, format!("is {id}, which is not a token")))
        };
        let first = special(begins, "tokenizer.ggml.bos_token_id")?;
        let last = special(ends, "tokenizer.ggml.eos_token_id")?;
        if first.is_none() && last.is_none() {
            return Ok(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}));
        }
        let piece = |token: &Token<'_>| json!({"SpecialToken": {"id": token.text, "type_id": 0}});
        let sequence = |id: &str| {
            let text = json!({"Sequence": {"id": id, "type_id": 0}});
            first.map(piece).into_iter().chain([text]).chain(last.map(piece)).collect::<Vec<_>>()
        };
        let named: serde_json::Map<String, Json> = first
            .into_iter()
            .chain(last)
            .map(|token| (token.text.to_owned(), json!({"id": token.text, "ids": [token.id], "tokens": [token.text]})))
            .collect();
        let pair = [sequence("A"), sequence("B")].concat();
        Ok(json!({"type": "TemplateProcessing", "single": sequence("A"), "pair": pair, "special_tokens": named}))
    }
}

fn vocabulary<S: Serializer>(tokens: &&[Token<'_>], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().map(|token| (token.text, token.id)))
}
