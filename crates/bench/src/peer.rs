//! What a user would pick instead, doing the same work in the same rounds.

mod genai;
mod llama_bench;

pub use self::genai::Genai;
pub use self::llama_bench::LlamaBench;

use tandem_core::Error;

/// That a peer cannot take part, and why.
fn refused(peer: &str, reason: impl Into<String>, hint: Option<&str>) -> Error {
    Error::Unsupported { what: format!("peer `{peer}`"), reason: reason.into(), hint: hint.map(Into::into) }
}
