//! The backends of this build. This file is the only one that asks which they are.

use std::path::PathBuf;

use tandem_core::{Backend, BackendKind, Error, Result};

#[cfg(feature = "onnx")]
pub use tandem_backend_onnx::setup;

/// Obtaining ONNX Runtime's library, in a build without that backend.
#[cfg(not(feature = "onnx"))]
pub mod setup {}

/// The backends that this build has, the default first.
pub fn compiled() -> Vec<BackendKind> {
    let mut kinds = Vec::new();
    if cfg!(feature = "onnx") {
        kinds.push(BackendKind::Onnx);
    }
    kinds
}

/// The backend `kind`, or the default one. `ort_library` names ONNX Runtime's library in the place of the one that is found.
///
/// # Errors
/// [`Error::BackendNotCompiled`] when this build has none of that kind.
pub fn backend(kind: Option<BackendKind>, ort_library: Option<PathBuf>) -> Result<Box<dyn Backend>> {
    match kind.or_else(|| compiled().first().copied()).unwrap_or(BackendKind::Onnx) {
        #[cfg(feature = "onnx")]
        BackendKind::Onnx => Ok(Box::new(tandem_backend_onnx::OnnxBackend::new(ort_library))),
        other => {
            let _ = ort_library;
            Err(not_compiled(other))
        }
    }
}

fn not_compiled(backend: BackendKind) -> Error {
    let have = match compiled().as_slice() {
        [] => "this build has no backend at all".into(),
        kinds => format!("this build has: {}", kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let remedy = match backend {
        BackendKind::Onnx => "build with `--features onnx`",
        _ => "this version of Tandem has no such feature yet",
    };
    Error::BackendNotCompiled { backend, hint: format!("{remedy}; {have}") }
}
