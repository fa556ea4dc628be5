//! A model whose files are part of the program.

use std::path::PathBuf;

use super::{ModelFile, ModelFiles, graphs};
use crate::error::{Error, Result};

impl ModelFiles {
    /// The model of embedded `files`, each with its name for people (`demo/config.json`) and its content. The last part of a name
    /// decides what a file is, as it does on disk; safetensors keep the order of the list.
    ///
    /// # Errors
    /// [`Error::BadFile`] when there is no `config.json`.
    pub fn embedded(name: &str, files: &[(&'static str, &'static [u8])]) -> Result<Self> {
        let all: Vec<ModelFile> = files.iter().map(|&(name, bytes)| ModelFile::Embedded { name, bytes }).collect();
        let find = |wanted: &str| all.iter().find(|file| file.file_name() == wanted).cloned();
        let without_config = || Error::missing_file(PathBuf::from(name).join("config.json"), "every model");
        let files = Self::with_small_files(name, find).ok_or_else(without_config)?;
        let (graphs, skipped) = graphs::sort_out(all.iter().filter(|file| file.file_name().ends_with(".onnx")).cloned());
        let weights = all.iter().filter(|file| file.file_name().ends_with(".safetensors")).cloned().collect();
        Ok(Self { weights, graphs, skipped, ..files })
    }
}
