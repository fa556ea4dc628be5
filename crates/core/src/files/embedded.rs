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
        let config = find("config.json");
        let config = config.ok_or_else(|| Error::missing_file(PathBuf::from(name).join("config.json"), "every model"))?;
        let (graphs, skipped) = graphs::sort_out(all.iter().filter(|file| file.file_name().ends_with(".onnx")).cloned());
        Ok(Self {
            name: name.into(),
            config,
            generation_config: find("generation_config.json"),
            tokenizer: find("tokenizer.json"),
            tokenizer_config: find("tokenizer_config.json"),
            chat_template: find("chat_template.jinja"),
            genai_config: None,
            weights: all.iter().filter(|file| file.file_name().ends_with(".safetensors")).cloned().collect(),
            graphs,
            skipped,
        })
    }
}
