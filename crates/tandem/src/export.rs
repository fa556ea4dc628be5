//! From a checkpoint to a directory with a graph.

use std::path::PathBuf;

use tandem_core::{CancelToken, DType, Progress};

/// What [`export`](crate::export()) is to make.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The directory to make.
    pub directory: PathBuf,
    /// The dtype of the weights: f32, f16, int8 or int4.
    pub dtype: DType,
    /// That of the head, and of the embedding where they are one; `None` is the same.
    pub head_dtype: Option<DType>,
    /// Put it in the place of an earlier export.
    pub replace: bool,
    /// Who is told how far it is.
    pub progress: Progress,
    /// Ends it from another thread; nothing half made is left.
    pub cancel: CancelToken,
}

/// What [`export`](crate::export()) made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The directory.
    pub directory: PathBuf,
    /// The graph in it.
    pub graph: PathBuf,
    /// Every file in it with its size in bytes, by name.
    pub files: Vec<(String, u64)>,
}

impl ExportOptions {
    /// A new `directory` with weights of `dtype`.
    pub fn new(directory: impl Into<PathBuf>, dtype: DType) -> Self {
        Self {
            directory: directory.into(),
            dtype,
            head_dtype: None,
            replace: false,
            progress: Progress::default(),
            cancel: CancelToken::new(),
        }
    }
}
