//! A checkpoint of 16-bit floats written anew in f32: what four bytes for a weight cost can be measured only with it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use tandem_core::files::ModelFiles;
use tempfile::TempDir;

/// The same weights in f32, for as long as the directory is held.
pub(crate) fn copy(checkpoint: &Path) -> Result<TempDir> {
    let files = ModelFiles::discover(checkpoint, &checkpoint.to_string_lossy())?;
    let mut weights: HashMap<String, Tensor> = HashMap::new();
    for file in &files.weights {
        for (name, tensor) in candle_core::safetensors::load(file.path().context("a file on disk")?, &Device::Cpu)? {
            weights.insert(name, tensor.to_dtype(DType::F32)?);
        }
    }
    let directory = TempDir::new()?;
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let from = checkpoint.join(name);
        if from.is_file() {
            std::fs::copy(from, directory.path().join(name))?;
        }
    }
    candle_core::safetensors::save(&weights, directory.path().join("model.safetensors"))?;
    Ok(directory)
}
