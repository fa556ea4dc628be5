//! Configuration from a model's files.

use super::{MAX_JSON_BYTES, ModelFile};
use crate::config::{GenerationConfig, ModelConfig};
use crate::error::Result;

impl ModelConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and [`Error::BadFile`](crate::Error::BadFile) for a file that cannot be read.
    pub fn from_file(file: &ModelFile) -> Result<Self> {
        match file {
            ModelFile::Gguf { gguf, .. } => gguf.config(),
            _ => Self::from_json(&file.name(), &file.read(MAX_JSON_BYTES)?),
        }
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
