//! Configuration from a model's files.

use std::sync::{Arc, OnceLock};

use super::{MAX_JSON_BYTES, ModelFile, ModelFiles};
use crate::config::{GenerationConfig, ModelConfig};
use crate::error::Result;

/// A configuration and the file that it is of, shared by the copies of a [`ModelFiles`].
pub(crate) type ParsedConfig = Arc<OnceLock<(ModelFile, ModelConfig)>>;

impl ModelFiles {
    /// The model's configuration, checked. It is read once, however often it is asked for.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`], and [`Error::BadFile`](crate::Error::BadFile) for a file that cannot be read.
    pub fn model_config(&self) -> Result<ModelConfig> {
        if let Some((file, config)) = self.parsed.get()
            && *file == self.config
        {
            return Ok(config.clone());
        }
        let config = match &self.config {
            ModelFile::Gguf { gguf, .. } => gguf.config()?,
            file => ModelConfig::from_json(&file.name(), &file.read(MAX_JSON_BYTES)?)?,
        };
        // Only the first is kept: a copy of these files whose configuration was replaced reads its own.
        let _ = self.parsed.set((self.config.clone(), config.clone()));
        Ok(config)
    }
}

impl GenerationConfig {
    /// Reads and checks `generation_config.json`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and [`Error::BadFile`](crate::Error::BadFile) for a file that cannot be read.
    pub fn from_file(file: &ModelFile) -> Result<Self> {
        Self::from_json(&file.name(), &file.read(MAX_JSON_BYTES)?)
    }
}
