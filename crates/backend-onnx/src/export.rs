//! Graphs from checkpoints: exported to a directory that stands on its own, or kept in the cache for the next load.
//!
//! The same checkpoint and options give the same bytes, save that a directory remembers by which name the checkpoint was known. Nothing
//! has its final name before it is whole. Weights are streamed: memory holds a few of the largest, whatever the size of the model.

mod cached;
mod genai;
mod hashes;
mod lock;
mod provenance;
mod space;
mod staging;
mod stock;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::Path;

use tandem_core::config::ModelConfig;
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::{CancelToken, Error, ExportOptions, Exported, Progress, ProgressEvent, Remedy, Result};

pub use self::cached::{CachedGraph, cached_graph};
use self::staging::Staging;
pub use self::stock::{CACHE_SIZE, clear, graphs_dir, limit, stock};
use crate::checkpoint::{GraphPlan, refuse_unknown_form};

/// What made a graph: the release, and a number that grows when the same release of Tandem would make another graph than before.
/// Graphs of other versions are not found in the cache.
pub const EXPORTER_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-3");

/// Exports the checkpoint of `files` to a directory that ONNX Runtime, onnxruntime-genai and Tandem itself load as it is: the graph and
/// its weights, a `genai_config.json` where the graph gives logits, and copies of configuration and tokenizer.
///
/// The directory appears whole, by one rename. An export that fails, is cancelled or is killed leaves nothing under that name.
///
/// # Errors
/// [`Error::BadFile`] and [`Error::BadField`] name the file and the field of a checkpoint that is damaged or contradicts itself, a
/// directory that is in the way, and a disk that is too small, before anything is written. [`Error::Unsupported`] for a model
/// without weights or a dtype that is not made. [`Error::Cancelled`] after `options.cancel` was set.
pub fn export(files: &ModelFiles, options: &ExportOptions) -> Result<Exported> {
    export_where(files, options, &space::available)
}

/// As [`export`], with `available` to ask for free bytes.
fn export_where(files: &ModelFiles, options: &ExportOptions, available: &dyn Fn(&Path) -> io::Result<u64>) -> Result<Exported> {
    refuse_without_weights(files)?;
    files.refuse_gguf()?;
    let config = ModelConfig::from_file(&files.config)?;
    refuse_unknown_form(&config, &files.name)?;
    let genai_config = genai::config(files, &config, options.form.outputs)?;
    let plan = GraphPlan::open(files, &config, options.form)?;
    staging::check_target(&options.directory, options.replace)?;
    let companions = companions(files);
    let copied = companions.iter().map(|file| file.len()).sum::<Result<u64>>()?;
    space::check(&options.directory, plan.n_bytes() + copied, available)?;

    let hashes = hash_all(files, options)?;
    let staging = Staging::new(&options.directory)?;
    let directory = staging.directory();
    plan.write(&directory, provenance::metadata(files, &hashes), &options.progress, &options.cancel)?;
    for file in companions {
        copy(file, &directory)?;
    }
    if let Some(genai_config) = genai_config {
        let path = directory.join(genai::FILE);
        fs::write(&path, genai_config).map_err(|error| cannot("written", &path, error))?;
    }
    if options.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    staging.publish(options.replace)?;
    listed(&options.directory)
}

/// The small files that go beside a graph, under their own names.
fn companions(files: &ModelFiles) -> Vec<&ModelFile> {
    let optional = [&files.generation_config, &files.tokenizer, &files.tokenizer_config, &files.chat_template];
    std::iter::once(&files.config).chain(optional.into_iter().flatten()).collect()
}

fn copy(file: &ModelFile, directory: &Path) -> Result<()> {
    let target = directory.join(file.file_name());
    let written = match file {
        ModelFile::Path(_) | ModelFile::Gguf { .. } => fs::write(&target, &*file.map()?),
        ModelFile::Embedded { bytes, .. } => fs::write(&target, bytes),
    };
    written.map_err(|error| cannot("written", &target, error))
}

/// The hashes of the files that decide what the graph is, read from the files themselves.
fn hash_all(files: &ModelFiles, options: &ExportOptions) -> Result<Vec<String>> {
    provenance::sources(files).map(|file| hash(file, &options.progress, &options.cancel)).collect()
}

/// The SHA-256 of a file's content.
fn hash(file: &ModelFile, progress: &Progress, cancel: &CancelToken) -> Result<String> {
    let (name, total) = (file.file_name(), file.len()?);
    file.sha256_while(&mut |done| {
        progress.tell(&ProgressEvent::Hashing { file: name, done, total });
        if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    })
}

fn listed(directory: &Path) -> Result<Exported> {
    let failed = |error| cannot("read", directory, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        files.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata().map_err(failed)?.len()));
    }
    files.sort();
    Ok(Exported { directory: directory.into(), graph: directory.join(tandem_onnx_graph::GRAPH_FILE), files })
}

fn refuse_without_weights(files: &ModelFiles) -> Result<()> {
    if !files.weights.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("the export of `{}`", files.name),
        reason: "it has graphs and no weights as published (safetensors), which a graph is made from".into(),
        hint: Some("obtain the checkpoint itself, or load its graph as it is".into()),
    })
}

/// A failure of the file system, as a message about `path`.
fn cannot(done: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "the disk is full: make room, or choose another directory"
        }
        _ => "make it readable and writable, or choose another directory",
    };
    Error::BadFile {
        file: path.display().to_string(),
        problem: format!("cannot be {done}"),
        hint: Some(hint.into()),
        source: Some(error.into()),
    }
}

/// A failure of the cache, with what to do about it.
fn unusable(done: &str, path: &Path, error: io::Error) -> Error {
    match cannot(done, path, error) {
        Error::BadFile { file, problem, source, .. } => {
            let hint = ["make the cache writable, or set `TANDEM_CACHE` to a directory that is".into(), Remedy::ExportModel];
            Error::BadFile { file, problem, hint: Some(hint.into()), source }
        }
        other => other,
    }
}
