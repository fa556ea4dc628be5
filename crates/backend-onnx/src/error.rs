//! What goes wrong in this backend, before it becomes the error that users see.

use std::fmt::Display;

use tandem_core::{BackendKind, Error};

/// A failure with what was being done, such as `to run the graph`.
#[derive(Debug)]
pub(crate) struct EngineError {
    doing: &'static str,
    source: ort::Error,
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        Self::Engine { backend: BackendKind::Onnx, doing: error.doing.into(), source: Box::new(error.source) }
    }
}

/// The error that users see of `error`, which came while `doing`.
pub(crate) fn failed(doing: &'static str, source: ort::Error) -> Error {
    EngineError { doing, source }.into()
}

/// Says what was being done when ONNX Runtime failed.
pub(crate) trait Doing<T> {
    /// Completes `backend onnx failed …`.
    fn doing(self, doing: &'static str) -> Result<T, EngineError>;
}

impl<T, R> Doing<T> for Result<T, ort::Error<R>>
where
    ort::Error<()>: From<ort::Error<R>>,
{
    fn doing(self, doing: &'static str) -> Result<T, EngineError> {
        self.map_err(|error| EngineError { doing, source: error.into() })
    }
}

/// A graph that is not what a decoder looks like.
pub(crate) fn not_a_decoder(file: &str, problem: impl Display) -> Error {
    Error::BadFile {
        file: file.into(),
        problem: format!("the graph is no decoder: {problem}"),
        hint: Some("a decoder graph has `input_ids`, a KV cache (`past_key_values.N.key` and `.value`) and `logits`; export the model for text generation with past".into()),
        source: None,
    }
}
