//! Errors of candle, before they become [`Error`].

use tandem_core::{BackendKind, Error};

/// A failure of candle, and what it failed to do, such as `to run the model`.
#[derive(Debug)]
pub(crate) struct EngineError {
    doing: &'static str,
    source: candle_core::Error,
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        Self::Engine { backend: BackendKind::Candle, doing: error.doing.into(), source: Box::new(error.source) }
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
