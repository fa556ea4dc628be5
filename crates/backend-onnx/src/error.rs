//! What goes wrong in this backend, as the error that users see.

use std::fmt::Display;

use tandem_core::backend::KvDType;
use tandem_core::{BackendKind, Error, Result};

use crate::operators::TOO_LARGE;

/// Says what was being done when ONNX Runtime failed.
pub(crate) trait Doing<T> {
    /// Completes `backend onnx failed …`, such as `to run the graph`.
    fn doing(self, doing: &str) -> Result<T>;
}

impl<T, R> Doing<T> for Result<T, ort::Error<R>>
where
    ort::Error<()>: From<ort::Error<R>>,
{
    fn doing(self, doing: &str) -> Result<T> {
        self.map_err(|error| {
            let error = ort::Error::<()>::from(error);
            too_large(&error.to_string()).unwrap_or_else(|| Error::engine(BackendKind::Onnx, doing, error))
        })
    }
}

/// The error of a kernel of ours whose cache cannot hold a value, which the engine passes on as text.
fn too_large(message: &str) -> Option<Error> {
    let (_, after) = message.split_once(TOO_LARGE)?;
    let value = after.split(|c: char| !(c.is_ascii_digit() || "+-.e".contains(c))).next()?;
    let value = value.trim_end_matches('.').parse().ok()?;
    Some(Error::BadKv { value, dtype: KvDType::F16 })
}

/// A graph that does not look like a decoder.
pub(crate) fn not_a_decoder(file: &str, problem: impl Display) -> Error {
    Error::BadFile {
        file: file.into(),
        problem: format!("the graph is not a decoder: {problem}"),
        hint: Some("a decoder graph has `input_ids`, a KV cache (`past_key_values.N.key` and `.value`) and `logits`; export the model for text generation with past".into()),
        source: None,
    }
}

/// The error of `tandem-onnx-graph` as the one that users see.
pub(crate) fn bad_graph(error: tandem_onnx_graph::Error) -> Error {
    let hint = Some(error.hint().unwrap_or("obtain or export the model again").into());
    match error {
        tandem_onnx_graph::Error::Io { file, done, source } => {
            Error::BadFile { file, problem: format!("cannot be {done}"), hint, source: Some(Box::new(source)) }
        }
        tandem_onnx_graph::Error::File { file, problem, .. } => Error::BadFile { file, problem, hint, source: None },
        tandem_onnx_graph::Error::Field { file, field, problem, .. } => Error::BadField { file, field, problem, hint },
        other => Error::BadFile {
            file: other.file().into(),
            problem: "is not a usable graph".into(),
            hint,
            source: Some(Box::new(other)),
        },
    }
}
