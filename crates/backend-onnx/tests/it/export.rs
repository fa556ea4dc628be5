//! Graphs from checkpoints: they compute what transformers does, are the same each time, and appear whole or not at all.

mod adapters;
mod bad;
mod cache;
pub(crate) mod checkpoints;
mod directory;
mod embedders;
mod golden;

use std::path::Path;

use tandem_backend_onnx::export::export;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, ExportOptions, Exported, Result};

/// Exports the checkpoint at `checkpoint` to `directory`.
fn export_to(checkpoint: &Path, directory: &Path, dtype: DType) -> Result<Exported> {
    export(&ModelFiles::discover(checkpoint, "a checkpoint")?, &ExportOptions::new(directory, dtype))
}

/// The names in `directory`, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
