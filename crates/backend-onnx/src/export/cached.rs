//! Graphs in the cache: one for each checkpoint, dtype and version of the exporter.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tandem_core::backend::LoadOptions;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Error, GraphForm, ProgressEvent, Result};
use tandem_onnx_graph::GRAPH_FILE;

use super::hashes::Hashes;
use super::staging::Staging;
use super::{EXPORTER_VERSION, cannot, provenance, refuse_without_weights, space};
use crate::checkpoint::GraphPlan;
use crate::library;

/// How often a process looks whether the other one is done.
const PATIENCE: Duration = Duration::from_millis(100);

/// The graph of the checkpoint `files` with weights of `dtype`, from the cache; the first time it is exported there, into
/// `graphs/<key>` of `options.cache` or the user's. The key is a hash of the contents of configuration and weights, the dtype, and [`EXPORTER_VERSION`].
///
/// Two processes at once make one export: the second waits, and uses it.
///
/// # Errors
/// As [`export`](super::export).
pub fn cached_graph(files: &ModelFiles, dtype: DType, options: &LoadOptions) -> Result<PathBuf> {
    refuse_without_weights(files)?;
    let graphs = options.cache.clone().map_or_else(library::cache_dir, Ok)?.join("graphs");
    let form = GraphForm::of(dtype);
    let mut remembered = Hashes::open(graphs.join("hashes.json"));
    let hashes = provenance::sources(files).map(|file| remembered.sha256(file, &options.progress, &options.cancel));
    let hashes: Vec<String> = hashes.collect::<Result<_>>()?;
    remembered.save();

    let directory = graphs.join(key(form, &hashes));
    let graph = directory.join(GRAPH_FILE);
    // Without the lock first, so that a cache which cannot be written serves as well.
    if graph.is_file() {
        return Ok(graph);
    }
    let plan = GraphPlan::open(files, &ModelConfig::from_file(&files.config)?, form)?;
    fs::create_dir_all(&graphs).map_err(|error| unusable("made", &graphs, error))?;
    let _lock = lock(&directory.with_extension("lock"), &format!("the export of {} to {dtype}", files.name), options)?;
    if graph.is_file() {
        return Ok(graph);
    }
    space::check(&directory, plan.n_bytes(), &space::available)?;
    let staging = Staging::new(&directory)?;
    let metadata = provenance::metadata(files, &hashes);
    plan.write(&staging.directory(), metadata, &options.progress, &options.cancel)?;
    match staging.publish(false) {
        // Where there are no locks, another process was faster; its graph is the same.
        Err(_) if graph.is_file() => Ok(graph),
        published => published.map(|()| graph),
    }
}

fn key(form: GraphForm, hashes: &[String]) -> String {
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

/// Holds `path` against every other process; `what` is what they would do. The wait can be cancelled.
fn lock(path: &Path, what: &str, options: &LoadOptions) -> Result<File> {
    let lock = File::options().write(true).create(true).truncate(false).open(path);
    let lock = lock.map_err(|error| unusable("written", path, error))?;
    let mut waits = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            // Some network file systems know no locks. The rename at the end is atomic all the same.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(unusable("locked", path, error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if !waits {
            options.progress.tell(&ProgressEvent::Waiting { what });
            waits = true;
        }
        thread::sleep(PATIENCE);
    }
}

/// A failure of the cache, with what to do about it.
fn unusable(done: &str, path: &Path, error: io::Error) -> Error {
    match cannot(done, path, error) {
        Error::BadFile { file, problem, source, .. } => {
            let hint =
                "make the cache writable, set `TANDEM_CACHE` to a directory that is, or export the model with `tandem export`";
            Error::BadFile { file, problem, hint: Some(hint.into()), source }
        }
        other => other,
    }
}
