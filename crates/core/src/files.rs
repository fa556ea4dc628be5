//! Which files a model has, on disk or embedded, and how they are read.
//!
//! Nothing here trusts a file: sizes are bounded, names from an index are checked, and what is missing is an error that names it.

mod config;
mod content;
mod discover;
mod embedded;
mod embedding;
mod gguf;
mod graphs;
mod listing;
mod near;
mod weights;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::config::ParsedConfig;
pub use self::content::MAX_JSON_BYTES;
pub(crate) use self::embedding::SETTINGS;
pub use self::listing::Listing;
pub use self::near::{did_you_mean, near_names};
use crate::error::{Error, Result};
pub use crate::file_bytes::FileBytes;
use crate::gguf::{Gguf, GgufPart};
use crate::primitives::{BackendKind, DType};
use crate::remedy::Remedy;

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
    /// `genai_config.json`: the graphs were built by onnxruntime-genai.
    pub genai_config: Option<ModelFile>,
    /// Safetensors files, in the order of the index; or one GGUF file.
    pub weights: Vec<ModelFile>,
    /// ONNX graphs that can be loaded; [`graph_for`](Self::graph_for) chooses among them.
    pub graphs: Vec<GraphFile>,
    /// ONNX files that were found and are not used.
    pub skipped: Vec<SkippedFile>,
    /// The configuration, once it was read.
    pub(crate) parsed: ParsedConfig,
}

/// One file, on disk or in the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// What a GGUF file says in the place of a file of its own, as that file would say it.
    Gguf {
        /// Where it lies.
        path: PathBuf,
        /// The file, opened and checked when it was found.
        gguf: Arc<Gguf>,
        /// Which file it stands in for.
        part: GgufPart,
    },
}

/// An ONNX graph among a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFile {
    /// The graph.
    pub file: ModelFile,
    /// The dtype that its name declares (`model_q4.onnx`), where it declares one. A bare `model.onnx` is f32 by convention, but of
    /// any dtype beside a `genai_config.json`.
    pub dtype: Option<DType>,
}

/// A file that looks like part of a model and is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedFile {
    /// The file.
    pub file: ModelFile,
    /// Why not.
    pub reason: String,
}

/// A file that weights came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFile {
    /// Its name for people: a path, or the name inside the binary.
    pub name: String,
    /// Where it lies; `None` for one that is embedded.
    pub path: Option<PathBuf>,
    /// Its size in bytes.
    pub bytes: u64,
}

impl ModelFiles {
    /// The model `name` with the small files that `find` finds by their names, and nothing else; `None` without a configuration. What
    /// onnxruntime-genai writes stands in for `config.json` and `generation_config.json`.
    fn with_small_files(name: &str, find: impl Fn(&str) -> Option<ModelFile>) -> Option<Self> {
        let genai_config = find(discover::GENAI_CONFIG);
        let or_genai = |file_name: &str| find(file_name).or_else(|| genai_config.clone());
        Some(Self {
            name: name.into(),
            config: or_genai("config.json")?,
            generation_config: or_genai("generation_config.json"),
            tokenizer: find("tokenizer.json"),
            tokenizer_config: find("tokenizer_config.json"),
            chat_template: find("chat_template.jinja"),
            genai_config,
            weights: Vec::new(),
            graphs: Vec::new(),
            skipped: Vec::new(),
            parsed: ParsedConfig::default(),
        })
    }

    /// The directory that the configuration lies in; `None` for a model that is part of the program or in a GGUF file.
    pub fn directory(&self) -> Option<&Path> {
        match &self.config {
            ModelFile::Path(path) => path.parent(),
            _ => None,
        }
    }

    /// The file called `place`, relative to the configuration's directory, if it is there.
    pub fn beside(&self, place: &str) -> Option<ModelFile> {
        let path = self.directory()?.join(place);
        path.is_file().then_some(ModelFile::Path(path))
    }

    /// The GGUF file that the weights are in, when they are in one.
    pub fn gguf(&self) -> Option<&Arc<Gguf>> {
        match &self.config {
            ModelFile::Gguf { gguf, .. } => Some(gguf),
            _ => None,
        }
    }

    /// For what reads safetensors only.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the weights are in a GGUF file.
    pub fn refuse_gguf(&self) -> Result<()> {
        let Some(gguf) = self.gguf() else { return Ok(()) };
        Err(Error::Unsupported {
            what: format!("the GGUF file `{}`", gguf.file()),
            reason: "GGUF files are read by the candle backend alone".into(),
            hint: Some(
                [
                    Remedy::UseBackend(BackendKind::Candle),
                    "use the checkpoint that the file was made from, a directory with `config.json` and safetensors".into(),
                ]
                .into(),
            ),
        })
    }
}

impl ModelFile {
    /// Its name in messages.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Path(path) | Self::Gguf { path, .. } => path.to_string_lossy(),
            Self::Embedded { name, .. } => Cow::Borrowed(name),
        }
    }

    /// The last part of its name, such as `model_q4.onnx`; a symbolic link's own, not its target's.
    pub fn file_name(&self) -> &str {
        match self {
            Self::Path(path) | Self::Gguf { path, .. } => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            Self::Embedded { name, .. } => name.rsplit_once('/').map_or(*name, |(_, last)| last),
        }
    }

    /// Where it lies, when it lies on disk; for a part of a GGUF that file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) | Self::Gguf { path, .. } => Some(path),
            Self::Embedded { .. } => None,
        }
    }

    /// It, as a loaded model names what its weights came from.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn weight_file(&self) -> Result<WeightFile> {
        Ok(WeightFile { name: self.name().into_owned(), path: self.path().map(Path::to_owned), bytes: self.len()? })
    }
}

/// Whether a path is that of a GGUF file, by its name.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}
