//! Builds graphs from checkpoints, and exports them to self-contained directories.
//!
//! The same checkpoint and options give the same bytes, except that a directory records the name of the checkpoint. A directory is moved
//! into place when it is complete. Weights are streamed: memory holds a few of the largest, whatever the size of the model.

mod genai;
mod graph_plan;
pub(crate) mod provenance;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::Path;

use tandem_core::cache::{hash, sources};
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::staging::{self, NO_SPACE, Staging, cannot};
use tandem_core::{Error, ExportOptions, Exported, Result, disk};
use tandem_onnx_graph::{DATA_FILE, GRAPH_FILE};

pub(crate) use self::graph_plan::{GraphPlan, RunBy, encodes, graph_format, refuse_unsupported_architecture};

/// The exporter's version: the release of Tandem, and a number that grows when the same release builds a different graph than before.
/// The cache does not find graphs of other versions.
pub const EXPORTER_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-9");

/// The files that an export writes: only a directory without any others is replaced.
const WRITTEN: [&str; 8] = [
    GRAPH_FILE,
    DATA_FILE,
    genai::FILE,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// Exports the checkpoint of `files` to a directory that ONNX Runtime, onnxruntime-genai and Tandem load as it is: the graph and its weights,
/// a `genai_config.json` if the graph has logits, and copies of configuration and tokenizer.
///
/// The directory appears complete, by one rename. An export that fails, is cancelled or is killed leaves nothing at that path.
///
/// # Errors
/// [`Error::BadFile`] and [`Error::BadField`] name the file and field of a checkpoint that is damaged or inconsistent, an existing
/// directory, a disk without enough space, and an adapter that does not fit, before anything is written. [`Error::Unsupported`] for a model without weights, or a
/// dtype that cannot be exported. [`Error::Cancelled`] after `options.cancel` was set.
pub fn export(files: &ModelFiles, options: &ExportOptions) -> Result<Exported> {
    export_where(files, options, &disk::free)
}

/// As [`export`], with `available` to query the free bytes.
fn export_where(files: &ModelFiles, options: &ExportOptions, available: &dyn Fn(&Path) -> io::Result<u64>) -> Result<Exported> {
    refuse_without_weights(files)?;
    files.refuse_gguf()?;
    let config = files.model_config()?;
    refuse_unsupported_architecture(&config, options.format.outputs, &files.name)?;
    let plan = GraphPlan::open(files, &config, options.format, RunBy::Anyone)?.with_adapters(options.adapters.clone());
    let genai_config = genai::config(files, &config, options.format.outputs, plan.cached_head_dim())?;
    let replaced = options.replace.then_some(&WRITTEN[..]);
    staging::check_target(&options.directory, replaced)?;
    let companions = companions(files)?;
    let copied = companions.iter().map(|(_, file)| file.len()).sum::<Result<u64>>()?;
    disk::check(&options.directory, plan.n_bytes() + copied, available, NO_SPACE)?;

    let hashes = hash_all(files, options)?;
    let staging = Staging::new(&options.directory)?;
    let directory = staging.directory();
    let metadata = [provenance::metadata(files, &hashes), provenance::adapters(&options.adapters)].concat();
    plan.write(&directory, metadata, &options.progress, &options.cancel)?;
    for (place, file) in companions {
        copy(&file, &directory.join(place))?;
    }
    if let Some(genai_config) = genai_config {
        let path = directory.join(genai::FILE);
        fs::write(&path, genai_config).map_err(|error| cannot("written", &path, error))?;
    }
    if options.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    staging.publish(replaced)?;
    listed(&options.directory)
}

/// The small files that are copied beside a graph, and where they lie there.
fn companions(files: &ModelFiles) -> Result<Vec<(String, ModelFile)>> {
    let optional = [&files.generation_config, &files.tokenizer, &files.tokenizer_config, &files.chat_template];
    let usual = std::iter::once(&files.config).chain(optional.into_iter().flatten());
    let mut all: Vec<_> = usual.map(|file| (file.file_name().to_owned(), file.clone())).collect();
    for place in files.embedding_places()? {
        all.extend(files.beside(&place).map(|file| (place, file)));
    }
    Ok(all)
}

fn copy(file: &ModelFile, target: &Path) -> Result<()> {
    let failed = |error| cannot("written", target, error);
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match file {
        ModelFile::Path(_) | ModelFile::Gguf { .. } => fs::write(target, &*file.map()?),
        ModelFile::Embedded { bytes, .. } => fs::write(target, bytes),
    }
    .map_err(failed)
}

/// The hashes of the files that determine the graph.
fn hash_all(files: &ModelFiles, options: &ExportOptions) -> Result<Vec<String>> {
    sources(files).map(|file| hash(file, &options.progress, &options.cancel)).collect()
}

fn listed(directory: &Path) -> Result<Exported> {
    let mut files = Vec::new();
    list(directory, "", &mut files).map_err(|error| cannot("read", directory, error))?;
    files.sort();
    Ok(Exported { directory: directory.into(), graph: directory.join(GRAPH_FILE), files })
}

/// Adds the files in `directory` and its folders, with their sizes, to `files`; `place` is put before their names.
fn list(directory: &Path, place: &str, files: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (name, metadata) = (format!("{place}{}", entry.file_name().to_string_lossy()), entry.metadata()?);
        match metadata.is_dir() {
            true => list(&entry.path(), &format!("{name}/"), files)?,
            false => files.push((name, metadata.len())),
        }
    }
    Ok(())
}

/// Refuses a model without safetensors weights.
///
/// # Errors
/// [`Error::Unsupported`].
pub(crate) fn refuse_without_weights(files: &ModelFiles) -> Result<()> {
    if !files.weights.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("the export of `{}`", files.name),
        reason: "it has graphs but no safetensors weights to build a graph from".into(),
        hint: Some("obtain the checkpoint, or load its graph as it is".into()),
    })
}
