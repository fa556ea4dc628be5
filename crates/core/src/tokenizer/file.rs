//! Reads a `tokenizer.json` that may be damaged or hostile.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;
use tokenizers::tokenizer::Tokenizer as Inner;

use crate::error::{Error, Result, Source};
use crate::primitives::TokenId;

/// The largest published files are about 35 MiB (Gemma, a vocabulary of 262 144).
const MAX_BYTES: usize = 64 << 20;

/// Ids below this may be sparse: four times as many as the largest published vocabulary (262,144) has.
const ALWAYS_POSSIBLE: usize = 1 << 20;

/// Beyond, an id may be so many times the number of entries. Ids are rows of an embedding, so that gaps cost memory in the model, and
/// published vocabularies have hardly any; one that was pruned for a language keeps a tenth of its entries at least.
const IDS_PER_ENTRY: usize = 16;

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
    post_processor: Option<Value>,
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
}

#[derive(Deserialize)]
struct ModelOutline {
    vocab: Option<Ids>,
    continuing_subword_prefix: Option<String>,
}

/// The merges of a model, which are read only where they could contradict its prefix.
#[derive(Deserialize)]
struct MergesOutline {
    model: Merges,
}

#[derive(Deserialize)]
struct Merges {
    #[serde(default)]
    merges: Vec<Merge>,
}

/// A merge as it is written now, and in one string, as it was.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(IgnoredAny, String),
    Line(String),
}

#[derive(Deserialize)]
struct AddedToken {
    id: TokenId,
    content: String,
}

/// The highest id of a vocabulary and the number of its entries: a map of ids (BPE, WordPiece, WordLevel), or a list (Unigram).
struct Ids {
    last: Option<TokenId>,
    n_entries: usize,
}

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
            damaged(file, problem, Some(e.into()))
        })?;
        match &outline.model {
            Some(ModelOutline { vocab: Some(vocab), continuing_subword_prefix: prefix }) => {
                outline.check_ids(vocab, file)?;
                if let Some(prefix) = prefix.as_ref().filter(|prefix| !prefix.is_empty()) {
                    check_merges(bytes, prefix, file)?;
                }
                if let Some(undefined) = outline.post_processor.as_ref().and_then(undefined_token) {
                    let problem = format!("its template has `{undefined}`, which is not among its `special_tokens`");
                    return Err(Error::bad_field(file, "post_processor", problem));
                }
                Ok(outline)
            }
            Some(ModelOutline { vocab: None, .. }) => {
                Err(Error::bad_field(file, "model.vocab", "is missing: the file is not a tokenizer"))
            }
            None => Err(Error::bad_field(file, "model", "is missing: the file is not a tokenizer")),
        }
    }

    /// The highest id of the model's vocabulary, without added tokens.
    pub(super) fn last_id(&self) -> Option<TokenId> {
        self.model.as_ref()?.vocab.as_ref()?.last
    }

    /// Refuses ids that no vocabulary of so few entries has: tables and loops go up to the highest.
    fn check_ids(&self, vocab: &Ids, file: &str) -> Result<()> {
        let n_entries = vocab.n_entries.saturating_add(self.added_tokens.len());
        let bound = n_entries.saturating_mul(IDS_PER_ENTRY).max(ALWAYS_POSSIBLE);
        let highest = [("model.vocab", vocab.last), ("added_tokens", self.added_tokens.iter().map(|token| token.id).max())];
        match highest.into_iter().find_map(|(field, id)| Some((field, id.filter(|id| *id as usize >= bound)?))) {
            None => Ok(()),
            Some((field, id)) => Err(Error::bad_field(
                file,
                field,
                format!("an id is {id}; with {n_entries} entries the highest that is possible is {}", bound - 1),
            )),
        }
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

/// Refuses a merge whose second part lacks the prefix of continued words: `tokenizers` cuts that many bytes off without looking.
fn check_merges(bytes: &[u8], prefix: &str, file: &str) -> Result<()> {
    let merges = serde_json::from_slice::<MergesOutline>(bytes)
        .map_err(|e| Error::bad_file(file, "the merges of the tokenizer cannot be read", e))?
        .model
        .merges;
    let is_continued = |merge: &Merge| match merge {
        Merge::Pair(_, second) => second.starts_with(prefix),
        Merge::Line(line) => line.split_once(' ').is_none_or(|(_, second)| second.starts_with(prefix)),
    };
    match merges.iter().position(|merge| !is_continued(merge)) {
        None => Ok(()),
        Some(index) => {
            let problem = "the second part does not begin with `continuing_subword_prefix`";
            Err(Error::bad_field(file, format!("model.merges[{index}]"), problem))
        }
    }
}

/// A token of a template that the template does not define: `tokenizers` panics when it applies it.
fn undefined_token(post_processor: &Value) -> Option<&str> {
    let parts = |name: &str| post_processor.get(name).and_then(Value::as_array).into_iter().flatten();
    let defined = post_processor.get("special_tokens");
    let mut tokens = parts("single").chain(parts("pair")).filter_map(|piece| piece.get("SpecialToken")?.get("id")?.as_str());
    tokens
        .find(|token| defined.is_none_or(|defined| defined.get(token).is_none()))
        .or_else(|| parts("processors").find_map(undefined_token))
}

/// Builds the tokenizer.
///
/// # Errors
/// [`Error::BadFile`] with the reader's own words.
pub(super) fn load(bytes: &[u8], file: &str) -> Result<Inner> {
    // Some of its readers panic on a damaged part (`Precompiled`) where others return an error, and a part may panic when it is applied, which
    // it is to an empty text as well.
    let read = || {
        let inner = super::bpe::read(bytes).map_or_else(|| Inner::from_bytes(bytes), Ok);
        inner.inspect(|inner| drop(inner.encode("", true)))
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(inner)) => Ok(inner),
        Ok(Err(e)) => Err(damaged(file, "the file is not a tokenizer", Some(e))),
        Err(_) => Err(damaged(file, "the file is not a tokenizer: its reader gave up on a damaged part", None)),
    }
}

/// What is wrong with a file that was not published so.
fn damaged(file: &str, problem: &str, source: Option<Source>) -> Error {
    let hint = Some("obtain the file again from where the model was published".into());
    Error::BadFile { file: file.into(), problem: problem.into(), hint, source }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(IdsVisitor)
    }
}

struct IdsVisitor;

impl<'de> Visitor<'de> for IdsVisitor {
    type Value = Ids;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Ids, A::Error> {
        let mut ids = Ids { last: None, n_entries: 0 };
        while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, TokenId>()? {
            ids = Ids { last: ids.last.max(Some(id)), n_entries: ids.n_entries + 1 };
        }
        Ok(ids)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Ids, A::Error> {
        let mut n_entries = 0;
        while let Some(IgnoredAny) = seq.next_element()? {
            n_entries += 1;
        }
        Ok(Ids { last: TokenId::try_from(n_entries).unwrap_or(TokenId::MAX).checked_sub(1), n_entries })
    }
}
