//! What runs a model, and how.

use std::num::NonZero;
use std::path::PathBuf;

use tandem_core::{Backend, BackendKind, DType, LoadOptions, Result};

use crate::backends::{backend, default_backend};
use crate::plan::Engine;

/// What runs a model, and how.
///
/// ```
/// use tandem::{DType, LoadOptions, Settings};
///
/// let load = LoadOptions { dtype: Some(DType::Int4), ..LoadOptions::default() };
/// let settings = Settings { load, ..Settings::default() };
/// assert_eq!(settings.backend, None);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Exactly this backend; `None` is the default one of this build.
    pub backend: Option<BackendKind>,
    /// ONNX Runtime's library, in the place of the one that is found.
    pub ort_library: Option<PathBuf>,
    /// Device, dtype and threads.
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
        backend(self.backend, self.ort_library.clone())
    }

    /// What runs a model of weights in `dtype`.
    pub(crate) fn engine(&self, dtype: DType) -> Engine {
        let threads = self.load.threads.count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
        Engine { backend: self.backend_kind(), dtype, threads }
    }
}
