//! Reads a `tokenizer.json` that may be damaged or hostile.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;
use tokenizers::tokenizer::Tokenizer as Inner;

use crate::error::{Error, Result};
use crate::primitives::TokenId;

/// The largest published files are about 35 MiB (Gemma, a vocabulary of 262 144).
const MAX_BYTES: usize = 64 << 20;

/// What is read before the tokenizer is built. The small parts are parsed in full, which bounds their nesting and their numbers:
/// the readers of `tokenizers` take that for granted.
#[derive(Deserialize)]
pub(super) struct Outline {
    model: Option<ModelOutline>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(rename = "normalizer")]
    _normalizer: Option<Value>,
    #[serde(rename = "pre_tokenizer")]
    _pre_tokenizer: Option<Value>,
    #[serde(rename = "post_processor")]
    _post_processor: Option<Value>,
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
}

#[derive(Deserialize)]
struct ModelOutline {
    vocab: Option<LastId>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: TokenId,
    content: String,
}

/// The highest id of a vocabulary: a map of ids (BPE, WordPiece, WordLevel), or a list (Unigram).
struct LastId(Option<TokenId>);

impl Outline {
    /// # Errors
    /// [`Error::BadFile`] when the file is too large, is not JSON or has no model.
    pub(super) fn read(bytes: &[u8], file: &str) -> Result<Self> {
        if bytes.len() > MAX_BYTES {
            let problem = format!("{} bytes are more than the {MAX_BYTES} that a tokenizer may have", bytes.len());
            return Err(Error::BadFile { file: file.into(), problem, hint: None, source: None });
        }
        let outline: Self = serde_json::from_slice(bytes).map_err(|e| {
            let problem = match e.classify() {
                Category::Eof => "the file is truncated",
                Category::Syntax | Category::Io => "the file is not JSON",
                Category::Data => "the file is not a tokenizer",
            };
            Error::bad_file(file, problem, e)
        })?;
        match outline.model {
            Some(ModelOutline { vocab: Some(_) }) => Ok(outline),
            Some(_) => Err(Error::bad_field(file, "model.vocab", "is missing: the file is not a tokenizer")),
            None => Err(Error::bad_field(file, "model", "is missing: the file is not a tokenizer")),
        }
    }

    /// The highest id of the model's vocabulary, without added tokens.
    pub(super) fn last_id(&self) -> Option<TokenId> {
        self.model.as_ref()?.vocab.as_ref()?.0
    }

    /// `tokenizers` numbers added tokens itself and only logs where the file says otherwise. Ids that are not the file's would
    /// be wrong tokens, silently.
    ///
    /// # Errors
    /// [`Error::BadField`] with the first token whose id differs.
    pub(super) fn check_added_tokens(&self, inner: &Inner, file: &str) -> Result<()> {
        let differs = |token: &&AddedToken| !token.content.is_empty() && inner.token_to_id(&token.content) != Some(token.id);
        match self.added_tokens.iter().find(differs) {
            None => Ok(()),
            Some(AddedToken { id, content }) => {
                let got = inner.token_to_id(content).map_or_else(|| "no id".into(), |id| format!("id {id}"));
                Err(Error::bad_field(
                    file,
                    "added_tokens",
                    format!("`{content}` has id {id}, but {got} is next in the vocabulary"),
                ))
            }
        }
    }
}

/// Builds the tokenizer.
///
/// # Errors
/// [`Error::BadFile`] with the reader's own words.
pub(super) fn load(bytes: &[u8], file: &str) -> Result<Inner> {
    // Some of its readers panic on a damaged part (`Precompiled`) where others return an error; a template of special tokens that are not
    // defined panics when it is applied, which it is to an empty text as well.
    let read = || Inner::from_bytes(bytes).inspect(|inner| drop(inner.encode("", true)));
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(inner)) => Ok(inner),
        Ok(Err(e)) => Err(Error::bad_file(file, "the file is not a tokenizer", e)),
        Err(_) => Err(Error::BadFile {
            file: file.into(),
            problem: "the file is not a tokenizer: its reader gave up on a damaged part".into(),
            hint: None,
            source: None,
        }),
    }
}

impl<'de> Deserialize<'de> for LastId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(LastIdVisitor)
    }
}

struct LastIdVisitor;

impl<'de> Visitor<'de> for LastIdVisitor {
    type Value = LastId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<LastId, A::Error> {
        let mut last = None;
        while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, TokenId>()? {
            last = last.max(Some(id));
        }
        Ok(LastId(last))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<LastId, A::Error> {
        let mut n_tokens: TokenId = 0;
        while let Some(IgnoredAny) = seq.next_element()? {
            n_tokens = n_tokens.saturating_add(1);
        }
        Ok(LastId(n_tokens.checked_sub(1)))
    }
}
