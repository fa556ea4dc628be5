//! What runs a model, and how.

use std::num::NonZero;

use tandem_core::{Backend, BackendKind, DType, LoadOptions, Result};

use crate::backends::{backend, default_backend};
use crate::plan::Engine;

/// What runs a model, and how.
///
/// ```
/// use tandem::{DType, LoadOptions, Settings};
///
/// let settings = Settings { load: LoadOptions::new().with_dtype(DType::Int4), ..Settings::default() };
/// assert_eq!(settings.backend, None);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Exactly this backend; `None` is the default one of this build.
    pub backend: Option<BackendKind>,
    /// Device, dtype, threads, and what concerns ONNX Runtime alone.
    pub load: LoadOptions,
    /// The most tokens that a session is to hold, which memory is planned for; `None` plans for a long conversation.
    pub context_length: Option<usize>,
    /// Loads a model even when it does not fit the memory.
    pub no_memory_check: bool,
}

impl Settings {
    /// The backend that these settings ask for.
    pub fn backend_kind(&self) -> BackendKind {
        self.backend.unwrap_or_else(default_backend)
    }

    /// That backend.
    ///
    /// # Errors
    /// [`Error::BackendNotCompiled`](crate::Error::BackendNotCompiled) when this build has none of that kind.
    pub(crate) fn open_backend(&self) -> Result<Box<dyn Backend>> {
        backend(self.backend, self.load.onnx.library.clone())
    }

    /// What runs a model of weights in `dtype`.
    pub(crate) fn engine(&self, dtype: DType) -> Engine {
        let threads = self.load.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
        Engine { backend: self.backend_kind(), dtype, threads }
    }
}
