//! Prompts: what is put before a text, so that a query finds what a document says.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::named::named;

/// What a text is for. Many models put another prompt before a query than before a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It is looked for.
    Query,
    /// It is found.
    Document,
}

named!(Role, "role", { Query: "query", Document: "document" });

/// The prompts of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// By name.
    pub by_name: BTreeMap<String, String>,
    /// The name of the one that is used where none is asked for.
    pub default_name: Option<String>,
}

/// Which prompt is put before texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prompt {
    /// The default one of the model's files, which few have.
    #[default]
    Default,
    /// The one for a role.
    Role(Role),
    /// The one of this name.
    Named(String),
    /// This text.
    Text(String),
}

/// The ends of repositories' names, and the prompts of those models by name.
type KnownPrompts = (&'static [&'static str], &'static [(&'static str, &'static str)]);

/// The prompts of models whose own files lack them, by the end of the repository's name.
///
/// E5: the cards of `intfloat/e5-*` and `intfloat/multilingual-e5-*`. BGE (English, 1.5), mxbai and Arctic: theirs, for queries only. nomic:
/// its card. EmbeddingGemma and Qwen3-Embedding have them in their files.
const KNOWN: [KnownPrompts; 4] = [
    (
        &[
            "e5-small",
            "e5-base",
            "e5-large",
            "e5-small-v2",
            "e5-base-v2",
            "e5-large-v2",
            "multilingual-e5-small",
            "multilingual-e5-base",
            "multilingual-e5-large",
        ],
        &[("query", "query: "), ("document", "passage: ")],
    ),
    (
        &[
            "bge-small-en-v1.5",
            "bge-base-en-v1.5",
            "bge-large-en-v1.5",
            "bge-small-en",
            "bge-base-en",
            "bge-large-en",
            "mxbai-embed-large-v1",
        ],
        &[("query", "Represent this sentence for searching relevant passages: ")],
    ),
    (
        &["snowflake-arctic-embed-xs", "snowflake-arctic-embed-s", "snowflake-arctic-embed-m", "snowflake-arctic-embed-l"],
        &[("query", "Represent this sentence for searching relevant passages: ")],
    ),
    (
        &["nomic-embed-text-v1", "nomic-embed-text-v1.5"],
        &[
            ("query", "search_query: "),
            ("document", "search_document: "),
            ("clustering", "clustering: "),
            ("classification", "classification: "),
        ],
    ),
];

/// The names under which a prompt for documents may stand, the first that is there counts.
const DOCUMENT_NAMES: [&str; 3] = ["document", "passage", "corpus"];

impl Prompts {
    /// Those that the card of the model called `name` has, for a model whose files have none.
    pub(super) fn known(name: &str) -> Option<Self> {
        let last = name.trim_end_matches('/').rsplit(['/', '\\']).next()?.to_lowercase();
        let (_, prompts) = KNOWN.into_iter().find(|(names, _)| names.contains(&last.as_str()))?;
        let by_name = prompts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Some(Self { by_name, default_name: None })
    }

    /// The text that `prompt` stands for; none is the empty text.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a name that there is not.
    pub fn text<'p>(&'p self, prompt: &'p Prompt) -> Result<&'p str> {
        let default = || self.default_name.as_ref().and_then(|name| self.by_name.get(name));
        let found = match prompt {
            Prompt::Text(text) => return Ok(text),
            Prompt::Default => default(),
            Prompt::Role(Role::Query) => self.by_name.get("query").or_else(default),
            Prompt::Role(Role::Document) => DOCUMENT_NAMES.iter().find_map(|name| self.by_name.get(*name)).or_else(default),
            Prompt::Named(name) => return self.by_name.get(name).map(String::as_str).ok_or_else(|| self.unknown(name)),
        };
        Ok(found.map_or("", String::as_str))
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<String> = self.by_name.keys().map(|name| format!("`{name}`")).collect();
        let problem = match names.is_empty() {
            true => "names a prompt, and the model has none".to_owned(),
            false => format!("is not among the model's prompts: {}", names.join(", ")),
        };
        Error::invalid_option("prompt name", name, problem)
    }
}
