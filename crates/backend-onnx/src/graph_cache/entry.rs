//! An entry of the cache: the graph of one checkpoint, dtype and exporter version.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tandem_core::backend::LoadOptions;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, GraphFormat, Result, disk};
use tandem_onnx_graph::GRAPH_FILE;

use super::hashes::Hashes;
use super::lock::{exclusive, share};
use super::{directory, evict_lru, limit, manifest, unusable};
use crate::export::staging::Staging;
use crate::export::{EXPORTER_VERSION, GraphPlan, NO_SPACE, RunBy, graph_format, provenance, refuse_without_weights};

/// A graph in the cache, which is not removed while this value lives.
#[derive(Debug)]
pub struct CachedGraph {
    path: PathBuf,
    /// `None` when the cache is read-only or does not support locks.
    _used: Option<File>,
}

impl CachedGraph {
    /// The ONNX file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The graph of the checkpoint `files` with weights of `dtype`, from the cache; the first time it is exported there, into
/// `graphs/<key>` of `options.cache` or the user's. The key is a hash of the contents of configuration and weights, the dtype,
/// what the graph computes, and [`EXPORTER_VERSION`]. A damaged entry is built again.
///
/// Concurrent processes share one export. When the graphs exceed [`CACHE_SIZE`](super::CACHE_SIZE), the least recently used ones that are
/// not in use are evicted after an export.
///
/// # Errors
/// As [`export`](crate::export::export), and [`Error::InvalidOption`](tandem_core::Error::InvalidOption) for a [`CACHE_SIZE`](super::CACHE_SIZE)
/// that is not a size.
pub fn cached_graph(files: &ModelFiles, dtype: DType, options: &LoadOptions) -> Result<CachedGraph> {
    refuse_without_weights(files)?;
    let graphs = directory(options.cache.as_deref())?;
    let format = graph_format(&files.model_config()?, dtype, options.purpose);
    let mut remembered = Hashes::open(graphs.join("hashes.json"));
    let hashes = provenance::sources(files).map(|file| remembered.sha256(file, &options.progress, &options.cancel));
    let hashes: Vec<String> = hashes.collect::<Result<_>>()?;
    remembered.save();

    let directory = graphs.join(key(format, RunBy::of(options)?, &hashes));
    let (path, locked) = (directory.join(GRAPH_FILE), directory.with_extension("lock"));
    let what = format!("the export of {} to {dtype}", files.name);
    loop {
        if path.is_file() {
            let used = share(&locked, &what, options)?;
            // It may be damaged, or have been removed in the meantime.
            if manifest::matches(&directory) {
                return Ok(CachedGraph { path, _used: used });
            }
        }
        export_into(files, format, &hashes, &directory, &what, options)?;
    }
}

/// Exports the graph into `directory`, unless another process has.
fn export_into(
    files: &ModelFiles,
    format: GraphFormat,
    hashes: &[String],
    directory: &Path,
    what: &str,
    options: &LoadOptions,
) -> Result<()> {
    let graphs = directory.parent().unwrap_or(directory);
    let plan = GraphPlan::open(files, &files.model_config()?, format, RunBy::of(options)?)?;
    let limit = limit()?;
    fs::create_dir_all(graphs).map_err(|error| unusable("made", graphs, error))?;
    let _lock = exclusive(&directory.with_extension("lock"), what, options)?;
    if manifest::matches(directory) {
        return Ok(());
    }
    disk::check(directory, plan.n_bytes(), &disk::free, NO_SPACE)?;
    let staging = Staging::new(directory)?;
    let metadata = provenance::metadata(files, hashes);
    plan.write(&staging.directory(), metadata, &options.progress, &options.cancel)?;
    manifest::write(&staging.directory())?;
    // An earlier graph may be damaged, or have been removed in part.
    match staging.publish(true) {
        // Without locks, another process may have been faster; its graph is the same.
        Err(_) if manifest::matches(directory) => {}
        published => published?,
    }
    evict_lru(graphs, limit, directory);
    Ok(())
}

fn key(format: GraphFormat, run_by: RunBy, hashes: &[String]) -> String {
    let mut hasher = Sha256::new();
    let outputs = match run_by {
        run_by if run_by.keeps_rows(format) => format!("{} of matrices in rows", format.outputs),
        RunBy::Tandem | RunBy::OwnKernels => format.outputs.to_string(),
        RunBy::Anyone => format!("{} with a mask", format.outputs),
    };
    for part in [EXPORTER_VERSION, &format.dtype.to_string(), &format.head_dtype.to_string(), &outputs]
        .into_iter()
        .chain(hashes.iter().map(String::as_str))
    {
        hasher.update(part);
        hasher.update([0]);
    }
    format!("{:x}", hasher.finalize())
}
