//! The one error that users of Tandem see: what is wrong, in which file or option, and what to do about it.
//!
//! A message is lower case, without a final period, and never repeats its source; [`Error::hint`] says what to do.

use std::error::Error as StdError;
use std::path::PathBuf;

use crate::named::ParseNameError;
use crate::primitives::{BackendKind, DType, Device, KvDType, TokenId};
use crate::remedy::{Remedies, Remedy};

/// A result with Tandem's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause beneath an error, kept whole.
pub type Source = Box<dyn StdError + Send + Sync>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model reference that names nothing.
    #[error("no model `{reference}`: {reason}")]
    ModelNotFound {
        /// What was asked for.
        reference: String,
        /// Where it was looked for.
        reason: String,
        /// What to do: names that are near, or the command to list them.
        hint: Remedies,
    },

    /// A file that is missing, truncated or not what it should be.
    #[error("`{file}`: {problem}")]
    BadFile {
        /// The path, or the name of an embedded file.
        file: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: Option<Remedies>,
        /// The reader's own error.
        source: Option<Source>,
    },

    /// A field of a file with a value that cannot be.
    #[error("`{file}`: field `{field}`: {problem}")]
    BadField {
        /// The path, or the name of an embedded file.
        file: String,
        /// The field, dotted from the root.
        field: String,
        /// What is wrong, with the value.
        problem: String,
        /// What to do.
        hint: Option<Remedies>,
    },

    /// An engine that this build does not have.
    #[error("backend `{backend}` is not part of this build")]
    BackendNotCompiled {
        /// The engine.
        backend: BackendKind,
        /// The feature to build with, and what this build has.
        hint: Remedies,
    },

    /// A device that was asked for and cannot be used.
    #[error("device `{device}` cannot be used by backend `{backend}`: {reason}")]
    DeviceUnavailable {
        /// The engine.
        backend: BackendKind,
        /// The device.
        device: Device,
        /// The engine's own reason.
        reason: String,
        /// What to do.
        hint: Remedies,
    },

    /// Something that the model or the engine cannot do.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had.
        reason: String,
        /// The way that works.
        hint: Option<Remedies>,
    },

    /// The engine's library is missing or cannot be used.
    #[error("{problem}")]
    EngineLibrary {
        /// What was looked for, where, and what was found.
        problem: String,
        /// How to fix it.
        hint: Remedies,
        /// The loader's own error.
        source: Option<Source>,
    },

    /// The engine failed.
    #[error("backend `{backend}` failed {doing}")]
    Engine {
        /// The engine.
        backend: BackendKind,
        /// What it was doing, such as `to run the graph`.
        doing: String,
        /// Its own error.
        source: Source,
    },

    /// A model that a limit of memory does not let load.
    #[error("`{model}` does not fit: it needs {needed} of memory, and {limit} leaves {left}")]
    OutOfMemory {
        /// The reference that it was asked for by.
        model: String,
        /// What it needs at the least, in words.
        needed: String,
        /// What sets the limit.
        limit: String,
        /// What is left of it, in words.
        left: String,
        /// The sum, and what would fit.
        hint: Remedies,
    },

    /// More tokens than the context holds.
    #[error("the context is full: {held} tokens are held, {asked} more were to be added, and {max} fit")]
    ContextFull {
        /// Tokens in the session.
        held: usize,
        /// Tokens that were to be added.
        asked: usize,
        /// What fits.
        max: usize,
    },

    /// A request of more keys and values than all requests together may hold.
    #[error(
        "the request may come to hold {n_tokens} tokens, whose keys and values take {} MB, and all requests together may take {} MB",
        needed.div_ceil(1_000_000),
        limit / 1_000_000
    )]
    KvLimit {
        /// Tokens that it may come to hold.
        n_tokens: usize,
        /// Their bytes.
        needed: u64,
        /// Bytes.
        limit: u64,
    },

    /// A token outside the vocabulary.
    #[error("token {token} is outside the model's vocabulary of {vocab_size}")]
    InvalidToken {
        /// The token.
        token: TokenId,
        /// Rows of the embedding.
        vocab_size: usize,
    },

    /// A prompt of no tokens.
    #[error("the prompt has no tokens")]
    EmptyPrompt,

    /// A text of no tokens, neither its own nor those of a prompt or a template.
    #[error("the text has no tokens")]
    EmptyText,

    /// A text of more tokens than the model takes, where it is not to be cut.
    #[error("the {what} has {n_tokens} tokens, and {max} fit")]
    LongText {
        /// What it is: a text, or the query of a pair.
        what: &'static str,
        /// Its tokens, those that the tokenizer adds included.
        n_tokens: usize,
        /// What fits.
        max: usize,
    },

    /// One of the texts that were given together cannot be used; its source says why.
    #[error("text {} cannot be used", .index + 1)]
    BadText {
        /// The text, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: Box<Self>,
    },

    /// An option whose value cannot be.
    #[error("option `{option}`: `{value}` {problem}")]
    InvalidOption {
        /// The option's name.
        option: String,
        /// The value as given.
        value: String,
        /// What is wrong, as a predicate: `is less than 0`.
        problem: String,
        /// What to do.
        hint: Option<Remedies>,
    },

    /// A request that finds no place among those that wait, or waited too long.
    #[error("the model is busy: {problem}")]
    Busy {
        /// What is full or over.
        problem: String,
    },

    /// Logits that are not finite; a token drawn from them would mean nothing.
    #[error("the logit of token {token} is {value} after {n_tokens} tokens")]
    BadLogits {
        /// The first token at fault.
        token: TokenId,
        /// NaN or an infinity.
        value: f32,
        /// Tokens in the session.
        n_tokens: usize,
    },

    /// A key or a value that the dtype of the KV cache cannot hold; attention to it would mean nothing.
    #[error("a key or a value of {value} does not fit into a KV cache of `{dtype}`")]
    BadKv {
        /// Its magnitude, which is finite.
        value: f32,
        /// That of the cache.
        dtype: KvDType,
    },

    /// An embedding that is not finite; a vector like that is near to nothing.
    #[error("the embedding has {value} in dimension {dimension}")]
    BadEmbedding {
        /// The first dimension at fault.
        dimension: usize,
        /// NaN or an infinity.
        value: f32,
    },

    /// A training run that left the numbers.
    #[error("the {what} of update {step} is not finite")]
    BadTraining {
        /// The update, counted from 1.
        step: usize,
        /// What of it.
        what: &'static str,
    },

    /// A chat template that is wrong or refuses the messages.
    #[error("chat template of `{file}`: {problem}")]
    Template {
        /// Where the template stands.
        file: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: Option<Remedies>,
        /// The engine's own error.
        source: Option<Source>,
    },

    /// The hub or the network failed.
    #[error("{doing} failed: {problem}")]
    Hub {
        /// What was being done, such as "downloading `config.json` from `owner/name`".
        doing: String,
        /// What went wrong.
        problem: String,
        /// What to do.
        hint: Option<Remedies>,
        /// The transport's own error.
        source: Option<Source>,
    },

    /// The caller ended the work.
    #[error("cancelled")]
    Cancelled,
}

impl From<ParseNameError> for Error {
    fn from(ParseNameError { option, value, problem }: ParseNameError) -> Self {
        Self::InvalidOption { option: option.into(), value, problem, hint: None }
    }
}

impl Error {
    /// What to do about it, when there is something.
    pub fn hint(&self) -> Option<Remedies> {
        match self {
            Self::ModelNotFound { hint, .. }
            | Self::BackendNotCompiled { hint, .. }
            | Self::DeviceUnavailable { hint, .. }
            | Self::OutOfMemory { hint, .. }
            | Self::EngineLibrary { hint, .. } => Some(hint.clone()),
            Self::BadFile { hint, .. }
            | Self::BadField { hint, .. }
            | Self::Unsupported { hint, .. }
            | Self::Hub { hint, .. }
            | Self::InvalidOption { hint, .. }
            | Self::Template { hint, .. } => hint.clone(),
            Self::ContextFull { .. } => Some("shorten the prompt, or start a new session".into()),
            Self::KvLimit { .. } => Some("shorten the prompt, ask for fewer tokens, or run it where more memory is free".into()),
            Self::Busy { .. } => Some("ask again later, or let more requests wait".into()),
            Self::EmptyPrompt => Some("give a prompt of at least one character".into()),
            Self::EmptyText => Some("leave it out".into()),
            Self::LongText { .. } => Some("shorten it, or let it be cut".into()),
            Self::BadText { source, .. } => source.hint(),
            Self::BadLogits { .. } | Self::BadEmbedding { .. } => Some(
                [
                    Remedy::UseDType(vec![DType::F32]),
                    "obtain the model again: either its dtype overflows, or the weights or the graph are damaged".into(),
                ]
                .into(),
            ),
            Self::BadKv { .. } => Some(Remedy::UseKvDType(KvDType::F32).into()),
            Self::BadTraining { .. } => Some("lower the learning rate, or look for damaged weights or texts".into()),
            Self::InvalidToken { .. } => Some("the tokenizer and the model do not belong together".into()),
            Self::Engine { .. } | Self::Cancelled => None,
        }
    }

    /// The same error with `remedies` for its hint, where it has a place for one.
    #[must_use]
    pub fn with_hint(mut self, remedies: impl Into<Remedies>) -> Self {
        match &mut self {
            Self::ModelNotFound { hint, .. }
            | Self::BackendNotCompiled { hint, .. }
            | Self::DeviceUnavailable { hint, .. }
            | Self::OutOfMemory { hint, .. }
            | Self::EngineLibrary { hint, .. } => *hint = remedies.into(),
            Self::BadFile { hint, .. }
            | Self::BadField { hint, .. }
            | Self::Unsupported { hint, .. }
            | Self::Hub { hint, .. }
            | Self::InvalidOption { hint, .. }
            | Self::Template { hint, .. } => *hint = Some(remedies.into()),
            _ => {}
        }
        self
    }

    /// A [`BadFile`](Self::BadFile) with the reader's own error.
    pub fn bad_file(file: impl Into<String>, problem: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::BadFile { file: file.into(), problem: problem.into(), hint: None, source: Some(source.into()) }
    }

    /// A [`BadField`](Self::BadField) without a hint.
    pub fn bad_field(file: impl Into<String>, field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::BadField { file: file.into(), field: field.into(), problem: problem.into(), hint: None }
    }

    /// An [`InvalidOption`](Self::InvalidOption).
    pub fn invalid_option(option: &str, value: impl ToString, problem: impl Into<String>) -> Self {
        Self::InvalidOption { option: option.into(), value: value.to_string(), problem: problem.into(), hint: None }
    }

    /// An [`Engine`](Self::Engine) failure while `doing` something, such as `to run the graph`.
    pub fn engine(backend: BackendKind, doing: &str, source: impl Into<Source>) -> Self {
        Self::Engine { backend, doing: doing.into(), source: source.into() }
    }

    /// The same, of the text numbered `index` of those that were given together. What is not about one of them stays as it is.
    pub(crate) fn of_text(self, index: usize) -> Self {
        match self {
            Self::Cancelled | Self::BadText { .. } => self,
            error => Self::BadText { index, source: Box::new(error) },
        }
    }

    /// An [`Unsupported`](Self::Unsupported) for an optional ability that a session does not have.
    pub(crate) fn missing_capability(what: &str) -> Self {
        Self::Unsupported { what: what.into(), reason: "this session cannot do it".into(), hint: None }
    }

    /// The path of a missing file, with what it is for.
    pub fn missing_file(path: PathBuf, needed_for: &str) -> Self {
        Self::BadFile {
            file: path.display().to_string(),
            problem: format!("there is no such file, and it is needed for {needed_for}"),
            hint: Some(
                "a checkpoint has config.json, tokenizer.json and model.safetensors; a directory of graphs has config.json, \
                 tokenizer.json and model.onnx or onnx/model*.onnx; one by onnxruntime-genai has genai_config.json, tokenizer.json \
                 and the graph that it names; a GGUF file needs nothing else"
                    .into(),
            ),
            source: None,
        }
    }
}
