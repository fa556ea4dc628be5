//! Which files a model has, on disk or embedded.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::backend::DType;

/// One file, on disk or in the binary.
#[derive(Clone, Debug)]
pub enum ModelFile {
    /// A file on disk.
    Path(PathBuf),
    /// A file that is part of the program.
    Embedded {
        /// Its name for people, such as `demo/config.json`.
        name: &'static str,
        /// Its content.
        bytes: &'static [u8],
    },
}

/// An ONNX graph among a model's files.
#[derive(Clone, Debug)]
pub struct GraphFile {
    /// The graph.
    pub file: ModelFile,
    /// The dtype that its name declares (`model_q4.onnx`), where it declares one.
    pub dtype: Option<DType>,
}

/// The files of one model.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The reference that it was found by.
    pub name: String,
    /// `config.json`.
    pub config: ModelFile,
    /// `generation_config.json`.
    pub generation_config: Option<ModelFile>,
    /// `tokenizer.json`.
    pub tokenizer: Option<ModelFile>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<ModelFile>,
    /// `chat_template.jinja`.
    pub chat_template: Option<ModelFile>,
    /// Safetensors files, in the order of the index.
    pub weights: Vec<ModelFile>,
    /// ONNX graphs.
    pub graphs: Vec<GraphFile>,
}

impl ModelFile {
    /// Its name in messages.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Path(path) => path.to_string_lossy(),
            Self::Embedded { name, .. } => Cow::Borrowed(name),
        }
    }

    /// Where it lies, when it lies on disk.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Embedded { .. } => None,
        }
    }
}
