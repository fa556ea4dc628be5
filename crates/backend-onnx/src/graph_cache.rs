//! Graphs that were made from checkpoints and are kept for the next load, in the [cache] that backends share: one entry
//! for each checkpoint, dtype and exporter version.

use std::path::{Path, PathBuf};

use tandem_core::backend::LoadOptions;
use tandem_core::cache::{self, About, CachedEntry, EntryFiles, Slot};
use tandem_core::export::CachedKind;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, GraphFormat, Result};
use tandem_onnx_graph::{DATA_FILE, GRAPH_FILE};

use crate::export::{EXPORTER_VERSION, GraphPlan, RunBy, graph_format, provenance, refuse_without_weights};
use crate::library;

const FILES: EntryFiles = EntryFiles { index: GRAPH_FILE, data: DATA_FILE };

/// A graph in the cache, which is not removed while this value lives.
#[derive(Debug)]
pub struct CachedGraph {
    path: PathBuf,
    _entry: CachedEntry,
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
/// Concurrent processes share one export. When the entries of the cache exceed [`CACHE_SIZE`](cache::CACHE_SIZE), the least recently used ones
/// that are not in use are evicted after an export.
///
/// # Errors
/// As [`export`](crate::export::export), and [`Error::InvalidOption`](tandem_core::Error::InvalidOption) for a
/// [`CACHE_SIZE`](cache::CACHE_SIZE) that is not a size; [`Error::EngineLibrary`](tandem_core::Error::EngineLibrary) when the user has no cache
/// directory.
pub fn cached_graph(files: &ModelFiles, dtype: DType, options: &LoadOptions) -> Result<CachedGraph> {
    refuse_without_weights(files)?;
    let entries = cache::directory(options.cache.as_deref()).map_or_else(library::cache_dir, Ok)?;
    let format = graph_format(&files.model_config()?, dtype, options.purpose);
    let hashes = cache::remembered_hashes(&entries, cache::sources(files), options)?;
    let what = format!("the export of {} to {dtype}", files.name);
    let run_by = RunBy::of(options)?;
    let own = own_key(format, run_by);
    let key: Vec<&str> = own.iter().chain(&hashes).map(String::as_str).collect();
    let slot = Slot::new(&entries, &key, FILES, what, options);
    loop {
        if let Some(entry) = slot.find()? {
            return Ok(CachedGraph { path: entry.directory().join(GRAPH_FILE), _entry: entry });
        }
        let plan = GraphPlan::open(files, &files.model_config()?, format, run_by)?;
        let metadata = provenance::metadata(files, &hashes);
        let about = About { kind: CachedKind::Graph, source: cache::origin(files).0, dtype: dtype.to_string() };
        slot.make(&about, plan.n_bytes(), false, |directory| {
            plan.write(directory, metadata, &options.progress, &options.cancel).map(drop)
        })?;
    }
}

/// What distinguishes graphs of one checkpoint.
fn own_key(format: GraphFormat, run_by: RunBy) -> [String; 4] {
    let outputs = match run_by {
        run_by if run_by.keeps_rows(format) => format!("{} of matrices in rows", format.outputs),
        RunBy::Tandem | RunBy::OwnKernels => format.outputs.to_string(),
        RunBy::Anyone => format!("{} with a mask", format.outputs),
    };
    [EXPORTER_VERSION.into(), format.dtype.to_string(), format.head_dtype.to_string(), outputs]
}
