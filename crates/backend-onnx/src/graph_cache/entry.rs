//! Graphs in the cache: one for each checkpoint, dtype and version of the exporter.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tandem_core::backend::LoadOptions;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, GraphFormat, Result};
use tandem_onnx_graph::GRAPH_FILE;

use super::hashes::Hashes;
use super::lock::{Held, lock, share};
use super::staging::Staging;
use super::stock::{limit, trim};
use super::{EXPORTER_VERSION, provenance, refuse_without_weights, space, unusable};
use crate::checkpoint::GraphPlan;

/// A graph in the cache. Nobody removes it for as long as this lives.
#[derive(Debug)]
pub struct CachedGraph {
    path: PathBuf,
    /// None where the cache cannot be written or knows no locks.
    _used: Option<File>,
}

impl CachedGraph {
    /// The ONNX file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The graph of the checkpoint `files` with weights of `dtype`, from the cache; the first time it is exported there, into
/// `graphs/<key>` of `options.cache` or the user's. The key is a hash of the contents of configuration and weights, the dtype, and [`EXPORTER_VERSION`].
///
/// Two processes at once make one export: the second waits, and uses it. When the graphs together are larger than
/// [`CACHE_SIZE`](super::CACHE_SIZE) says, those that were used longest ago and are not in use are removed after an export.
///
/// # Errors
/// As [`export`](super::export), and [`Error::InvalidOption`](tandem_core::Error::InvalidOption) for a [`CACHE_SIZE`](super::CACHE_SIZE)
/// that is no amount.
pub fn cached_graph(files: &ModelFiles, dtype: DType, options: &LoadOptions) -> Result<CachedGraph> {
    refuse_without_weights(files)?;
    let graphs = super::stock::graphs_dir(options.cache.as_deref())?;
    let form = GraphFormat::of(dtype);
    let mut remembered = Hashes::open(graphs.join("hashes.json"));
    let hashes = provenance::sources(files).map(|file| remembered.sha256(file, &options.progress, &options.cancel));
    let hashes: Vec<String> = hashes.collect::<Result<_>>()?;
    remembered.save();

    let directory = graphs.join(key(form, &hashes));
    let (path, locked) = (directory.join(GRAPH_FILE), directory.with_extension("lock"));
    let what = format!("the export of {} to {dtype}", files.name);
    loop {
        if path.is_file() {
            match share(&locked, &what, options)? {
                // It may have been removed meanwhile.
                Held::Lock(used) if path.is_file() => return Ok(CachedGraph { path, _used: Some(used) }),
                Held::Lock(_) => {}
                // A cache that cannot be written serves as well, and nobody removes anything from it.
                Held::Nothing => return Ok(CachedGraph { path, _used: None }),
            }
        }
        make(files, form, &hashes, &directory, &what, options)?;
    }
}

/// Exports the graph into `directory`, unless another process has.
fn make(
    files: &ModelFiles,
    form: GraphFormat,
    hashes: &[String],
    directory: &Path,
    what: &str,
    options: &LoadOptions,
) -> Result<()> {
    let graph = directory.join(GRAPH_FILE);
    let graphs = directory.parent().unwrap_or(directory);
    let plan = GraphPlan::open(files, &ModelConfig::from_file(&files.config)?, form)?;
    let limit = limit()?;
    fs::create_dir_all(graphs).map_err(|error| unusable("made", graphs, error))?;
    let _lock = lock(&directory.with_extension("lock"), what, options)?;
    if graph.is_file() {
        return Ok(());
    }
    space::check(directory, plan.n_bytes(), &space::available)?;
    let staging = Staging::new(directory)?;
    let metadata = provenance::metadata(files, hashes);
    plan.write(&staging.directory(), metadata, &options.progress, &options.cancel)?;
    // A removal that was killed may have left a part of an earlier one.
    match staging.publish(true) {
        // Where there are no locks, another process was faster; its graph is the same.
        Err(_) if graph.is_file() => {}
        published => published?,
    }
    trim(graphs, limit, directory);
    Ok(())
}

fn key(form: GraphFormat, hashes: &[String]) -> String {
    let mut hasher = Sha256::new();
    for part in [EXPORTER_VERSION, &form.dtype.to_string(), &form.head_dtype.to_string()]
        .into_iter()
        .chain(hashes.iter().map(String::as_str))
    {
        hasher.update(part);
        hasher.update([0]);
    }
    format!("{:x}", hasher.finalize())
}
