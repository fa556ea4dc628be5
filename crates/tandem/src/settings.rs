//! What runs a model, and how.

use std::num::NonZero;

use tandem_core::{Backend, BackendKind, DType, Device, LoadOptions, Result};

use crate::backends::{backend, default_backend};
use crate::plan::{Engine, PLANNED_CONTEXT};
use crate::reference::AdapterRef;

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
    /// Device, dtype, threads, and what concerns ONNX Runtime alone. Where it has no dtype, one is chosen for the speed and the memory
    /// of this machine ([`DTypeChoice`](crate::plan::DTypeChoice)).
    pub load: LoadOptions,
    /// Chooses no dtype: a model without one in `load` runs as exactly as it was published.
    pub as_published: bool,
    /// The most tokens that a session is to hold, which memory is planned for; `None` plans for a long conversation.
    pub context_length: Option<usize>,
    /// Adapters that are applied, whose sum it is.
    pub adapters: Vec<AdapterRef>,
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

    /// Whether a dtype is to be chosen: an accelerator runs what was published, and a graph that is named has its own.
    pub(crate) fn leaves_dtype_open(&self) -> bool {
        let load = &self.load;
        load.dtype.is_none() && !self.as_published && load.device == Device::Cpu && load.onnx.graph.is_none()
    }

    /// Tokens of a session that memory is planned for.
    pub(crate) fn planned_tokens(&self) -> usize {
        self.context_length.unwrap_or(PLANNED_CONTEXT)
    }

    /// What runs a model of weights in `dtype`.
    pub(crate) fn engine(&self, dtype: DType) -> Engine {
        Engine { backend: self.backend_kind(), dtype, threads: self.threads() }
    }

    pub(crate) fn threads(&self) -> usize {
        self.load.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get)
    }
}
