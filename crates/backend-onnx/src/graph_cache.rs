//! Graphs that were made from checkpoints and are kept for the next load: found by a hash of what they were made from, listed, and
//! evicted, least recently used first, when they take more than [`CACHE_SIZE`] allows.

mod entry;
mod hashes;
mod lock;
mod manifest;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tandem_core::export::{CachedGraphInfo, RemovedGraphs};
use tandem_core::size::Size;
use tandem_core::{Error, Remedy, Result};
use tandem_onnx_graph::{GRAPH_FILE, Graph};

pub use self::entry::{CachedGraph, cached_graph};
use self::hashes::is_sha256;
use crate::export::cannot;
use crate::library;

/// The variable that limits the total size of the graphs in the cache, such as `50GB`.
pub const CACHE_SIZE: &str = "TANDEM_CACHE_SIZE";

/// The limit when it is not set.
const DEFAULT_SIZE: u64 = 30_000_000_000;

/// The directory of the graphs: in `cache`, or in the user's own.
///
/// # Errors
/// [`Error::EngineLibrary`] when the user has no cache directory.
pub fn directory(cache: Option<&Path>) -> Result<PathBuf> {
    Ok(cache.map_or_else(library::cache_dir, |cache| Ok(cache.into()))?.join("graphs"))
}

/// The limit on the total size of the graphs: [`CACHE_SIZE`], or 30 GB.
///
/// # Errors
/// [`Error::InvalidOption`] when it is not a size.
pub fn limit() -> Result<u64> {
    limit_of(std::env::var_os(CACHE_SIZE).as_deref())
}

/// The graphs in `graphs`, a [`directory`], least recently used first. Empty when the directory does not exist.
pub fn list(graphs: &Path) -> Vec<CachedGraphInfo> {
    let entries = fs::read_dir(graphs).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| read(&entry.path())).collect();
    found.sort_by(|one, other| (one.used, &one.directory).cmp(&(other.used, &other.directory)));
    found
}

/// Removes every graph in `graphs` that is not in use. A graph that is needed again is built again.
///
/// # Errors
/// [`Error::BadFile`] when one cannot be removed.
pub fn clear(graphs: &Path) -> Result<RemovedGraphs> {
    let mut done = RemovedGraphs::default();
    for graph in list(graphs) {
        match remove(&graph).map_err(|error| unusable("removed", &graph.directory, error))? {
            true => done.removed.push(graph),
            false => done.in_use.push(graph),
        }
    }
    Ok(done)
}

/// Removes graphs that are not in use, least recently used first, until the total is within `limit` bytes; `newest` stays whatever its
/// size. A graph that cannot be removed stays until the next export tries again.
fn evict_lru(graphs: &Path, limit: u64, newest: &Path) {
    let cached = list(graphs);
    let mut total: u64 = cached.iter().map(|graph| graph.bytes).sum();
    for graph in cached.iter().filter(|graph| graph.directory != newest) {
        if total <= limit {
            return;
        }
        if matches!(remove(graph), Ok(true)) {
            total -= graph.bytes;
        }
    }
}

/// Removes a graph unless it is in use. The file by which it is found is removed first, so that a partly removed graph is not found.
fn remove(graph: &CachedGraphInfo) -> io::Result<bool> {
    let Some(_lock) = lock::alone(&graph.directory.with_extension("lock")) else { return Ok(false) };
    match fs::remove_file(graph.directory.join(GRAPH_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir_all(&graph.directory)?;
    Ok(true)
}

fn read(directory: &Path) -> Option<CachedGraphInfo> {
    directory.file_name().and_then(OsStr::to_str).filter(|name| is_sha256(name))?;
    let files = fs::read_dir(directory).ok()?.flatten();
    let bytes = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let times = [directory.with_extension("lock"), directory.to_owned()];
    let used = times.iter().find_map(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())?;
    let graph = Graph::open(&directory.join(GRAPH_FILE)).ok();
    let said = |name: &str| graph.as_ref()?.metadata().iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Some(CachedGraphInfo {
        source: said("tandem.source"),
        dtype: said("tandem.weights"),
        directory: directory.into(),
        bytes,
        used,
    })
}

/// A failure of the cache, with its remedy.
fn unusable(done: &str, path: &Path, error: io::Error) -> Error {
    match cannot(done, path, error) {
        Error::BadFile { file, problem, source, .. } => {
            let hint = ["make the cache writable, or set `TANDEM_CACHE` to a directory that is".into(), Remedy::ExportModel];
            Error::BadFile { file, problem, hint: Some(hint.into()), source }
        }
        other => other,
    }
}

fn limit_of(text: Option<&OsStr>) -> Result<u64> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(DEFAULT_SIZE) };
    let text = text.to_string_lossy();
    let size = text.parse::<Size>();
    size.map(|size| size.0)
        .map_err(|_| Error::invalid_option(CACHE_SIZE, &text, "is not a size such as `50GB`, `50GiB` or `500MB`"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const TEN: [u8; 10] = [0; 10];

    /// A graph of some 10 bytes that was used `age` ago, called by a letter.
    fn put(graphs: &Path, letter: char, age: Duration) -> PathBuf {
        let directory = graphs.join(String::from(letter).repeat(64));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(GRAPH_FILE), TEN).unwrap();
        let lock = fs::File::create(directory.with_extension("lock")).unwrap();
        lock.set_modified(SystemTime::now() - age).unwrap();
        directory
    }

    fn letters(graphs: &Path) -> String {
        list(graphs).iter().filter_map(|graph| graph.directory.file_name()?.to_str()?.chars().next()).collect()
    }

    #[test]
    fn least_recently_used_graphs_are_evicted_until_the_rest_fits() {
        const HOUR: Duration = Duration::from_secs(3600);
        let dir = tempfile::tempdir().unwrap();
        let graphs = dir.path();
        let [_, b, c, d] = [('a', 3), ('b', 4), ('c', 2), ('d', 1)].map(|(letter, age)| put(graphs, letter, HOUR * age));
        fs::write(graphs.join("hashes.json"), TEN).unwrap();
        fs::create_dir(graphs.join("other")).unwrap();
        assert_eq!(letters(graphs), "bacd");
        evict_lru(graphs, 40, &d);
        assert_eq!(letters(graphs), "bacd");
        evict_lru(graphs, 39, &d);
        assert_eq!(letters(graphs), "acd");
        // Graphs in use stay, and so does the newest.
        let used = fs::File::open(c.with_extension("lock")).unwrap();
        used.lock_shared().unwrap();
        evict_lru(graphs, 0, &d);
        assert_eq!(letters(graphs), "cd");
        let done = clear(graphs).unwrap();
        assert_eq!((done.removed.len(), done.in_use.len(), letters(graphs)), (1, 1, "c".into()));
        drop(used);
        // What a killed removal left.
        fs::remove_file(c.join(GRAPH_FILE)).unwrap();
        fs::write(c.join("model.onnx.data"), TEN).unwrap();
        assert_eq!((clear(graphs).unwrap().removed.len(), letters(graphs)), (1, String::new()));
        assert!(!b.exists() && graphs.join("other").exists() && graphs.join("hashes.json").exists());
        assert!(clear(&graphs.join("absent")).unwrap().removed.is_empty());
    }

    #[test]
    fn limit_is_a_size_with_a_unit() {
        let limit = |text: &str| limit_of(Some(text.as_ref()));
        assert_eq!((limit_of(None).unwrap(), limit("").unwrap()), (DEFAULT_SIZE, DEFAULT_SIZE));
        assert_eq!((limit("50GB").unwrap(), limit("1GiB").unwrap()), (50_000_000_000, 1 << 30));
        let error = limit("much").unwrap_err();
        assert!(error.to_string().contains("`much`") && error.to_string().contains(CACHE_SIZE), "{error}");
    }
}
