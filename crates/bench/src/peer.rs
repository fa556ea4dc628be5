//! What a user would pick instead, doing the same work in the same rounds.

mod genai;
mod llama_bench;
mod python;

pub use self::genai::Genai;
pub use self::llama_bench::LlamaBench;
pub use self::python::{PythonPeer, PythonWorker};

use tandem_core::Error;

/// The error of a peer that cannot be measured.
fn refused(peer: &str, reason: impl Into<String>, hint: Option<&str>) -> Error {
    Error::Unsupported { what: format!("peer `{peer}`"), reason: reason.into(), hint: hint.map(Into::into) }
}
