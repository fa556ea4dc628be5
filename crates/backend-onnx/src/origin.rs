//! What a model was loaded from, so that its graph can be read again.

use std::path::PathBuf;

use tandem_core::Result;
use tandem_core::backend::LoadOptions;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_onnx_graph::AdapterInputs;

use crate::source::Source;

/// Files, options and configuration of a load.
pub(crate) struct Origin {
    pub(crate) files: ModelFiles,
    pub(crate) options: LoadOptions,
    pub(crate) config: ModelConfig,
    /// ONNX Runtime's library, where one was named.
    pub(crate) library: Option<PathBuf>,
}

impl Origin {
    /// The graph that was loaded, with inputs for adapters of these products.
    ///
    /// # Errors
    /// As loading it the first time.
    pub(crate) fn source(&self, adapted: &[AdapterInputs]) -> Result<Source> {
        let mut source = Source::choose(&self.files, &self.config, &self.options)?;
        source.add_adapter_inputs(adapted)?;
        Ok(source)
    }
}
