//! What a model was loaded from, so that its graph can be read again.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tandem_core::backend::LoadOptions;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::huge_pages::MappingSnapshot;
use tandem_core::{BackendKind, Device, Error, Result};
use tandem_kernels::Threads;
use tandem_onnx_graph::AdapterInputs;

use crate::engine::{self, Engine};
use crate::operators::{MappedWeights, Updates};
use crate::source::Source;

/// Files, options and configuration of a load.
pub(crate) struct Origin {
    pub(crate) files: ModelFiles,
    pub(crate) options: LoadOptions,
    pub(crate) config: ModelConfig,
    /// ONNX Runtime's library, where one was named.
    pub(crate) library: Option<PathBuf>,
    /// The adapters that Tandem's operators know.
    pub(crate) updates: Arc<Updates>,
    /// The threads of Tandem's kernels, once a graph has such.
    threads: OnceLock<Arc<Threads>>,
}

impl Origin {
    /// Of a load.
    pub(crate) fn new(files: ModelFiles, options: LoadOptions, config: ModelConfig, library: Option<PathBuf>) -> Self {
        Self { files, options, config, library, updates: Arc::default(), threads: OnceLock::new() }
    }

    /// The graph that was loaded, with inputs for adapters of these products.
    ///
    /// # Errors
    /// As loading it the first time.
    pub(crate) fn source(&self, adapted: &[AdapterInputs]) -> Result<Source> {
        let mut source = Source::choose(&self.files, &self.config, &self.options)?;
        source.add_adapter_inputs(adapted)?;
        Ok(source)
    }

    /// Has the engine load `source`, with Tandem's kernels where they are requested.
    pub(crate) fn commit(&self, source: &mut Source) -> Result<Engine> {
        let own = source.use_custom_operators(&self.options)?;
        let before = (self.options.huge_pages && self.options.device == Device::Cpu).then(MappingSnapshot::now);
        let mapped = Arc::<MappedWeights>::default();
        let session = engine::commit(self.library.as_deref(), &self.options, source, own, &self.updates, &mapped)?;
        let moving = before.map(|before| {
            before.collapse();
            // SAFETY: the engine drops what moves weights before the session.
            #[expect(unsafe_code, reason = "the weights stay with the session, and are moved while it runs")]
            unsafe {
                mapped.start_moving()
            }
        });
        Ok(Engine { _moving: moving, session, threads: own.map(|_| self.threads()).transpose()? })
    }

    fn threads(&self) -> Result<Arc<Threads>> {
        if let Some(threads) = self.threads.get() {
            return Ok(Arc::clone(threads));
        }
        let n = engine::n_threads(&self.options);
        let threads =
            Threads::new(n).map_err(|source| Error::engine(BackendKind::Onnx, &format!("to start {n} threads"), source))?;
        Ok(Arc::clone(self.threads.get_or_init(|| Arc::new(threads))))
    }
}
