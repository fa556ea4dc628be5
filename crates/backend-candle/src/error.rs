//! Errors of candle, before they become [`Error`].

use tandem_core::backend::KvDType;
use tandem_core::{BackendKind, Error};

/// A failure of candle, and what it failed to do, such as `to run the model`.
#[derive(Debug)]
pub(crate) struct EngineError {
    doing: &'static str,
    source: candle_core::Error,
}

/// A finite key or value that an f16 cannot hold, by its magnitude.
#[derive(Debug, thiserror::Error)]
#[error("{0} does not fit into f16")]
pub(crate) struct TooLargeForF16(pub(crate) f32);

impl From<TooLargeForF16> for candle_core::Error {
    fn from(error: TooLargeForF16) -> Self {
        let context = error.to_string();
        Self::WrappedContext { wrapped: Box::new(error), context }
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        if let Some(&TooLargeForF16(value)) = too_large(&error.source) {
            return Self::BadKv { value, dtype: KvDType::F16 };
        }
        Self::Engine { backend: BackendKind::Candle, doing: error.doing.into(), source: Box::new(error.source) }
    }
}

/// Beneath what candle adds to it.
fn too_large(error: &candle_core::Error) -> Option<&TooLargeForF16> {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::Context { inner, .. } => too_large(inner),
        candle_core::Error::WrappedContext { wrapped, .. } => wrapped.downcast_ref(),
        _ => None,
    }
}

/// Adds what was being done when candle failed.
pub(crate) trait Doing<T> {
    /// Completes `backend candle failed …`.
    fn doing(self, doing: &'static str) -> Result<T, EngineError>;
}

impl<T> Doing<T> for candle_core::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, EngineError> {
        self.map_err(|source| EngineError { doing, source })
    }
}
