//! What backends make of checkpoints and keep for the next load: graphs, quantised weights. An entry is found by a hash of what it was
//! made from ([`Slot`]), listed, and evicted, least recently used first, when all together take more than [`CACHE_SIZE`] allows.

mod hashes;
mod lock;
mod manifest;
mod origin;
mod slot;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::hashes::is_sha256;
pub use self::hashes::{hash, remembered_hashes};
pub use self::manifest::{About, EntryFiles};
pub use self::origin::{origin, sources};
pub use self::slot::{CachedEntry, Slot};
use crate::error::{Error, Result};
use crate::export::{CachedInfo, CachedKind, RemovedEntries};
use crate::paths;
use crate::remedy::Remedy;
use crate::size::Size;
use crate::staging::cannot;

/// The variable that limits the total size of the entries in the cache, such as `50GB`.
pub const CACHE_SIZE: &str = "TANDEM_CACHE_SIZE";

/// The limit when it is not set.
const DEFAULT_SIZE: u64 = 30_000_000_000;

/// The checkpoint with fewer bytes of weights is converted in memory at each load, which takes less time than finding it in the cache: nothing
/// is written for a tiny model.
pub const MADE_IN_MEMORY: u64 = 32 << 20;

/// The directory of the entries: in `cache`, or in the user's own; `None` when the user has no cache directory.
pub fn directory(cache: Option<&Path>) -> Option<PathBuf> {
    // The name is from when graphs were all there was.
    Some(cache.map(Into::into).or_else(paths::cache_dir)?.join("graphs"))
}

/// The limit on the total size of the entries: [`CACHE_SIZE`], or 30 GB.
///
/// # Errors
/// [`Error::InvalidOption`] when it is not a size.
pub fn limit() -> Result<u64> {
    limit_of(std::env::var_os(CACHE_SIZE).as_deref())
}

/// The entries in `entries`, a [`directory`], least recently used first. Empty when the directory does not exist.
pub fn list(entries: &Path) -> Vec<CachedInfo> {
    let found = fs::read_dir(entries).into_iter().flatten().flatten();
    let mut found: Vec<_> = found.filter_map(|entry| read(&entry.path())).collect();
    found.sort_by(|one, other| (one.used, &one.directory).cmp(&(other.used, &other.directory)));
    found
}

/// Removes every entry in `entries` that is not in use. One that is needed again is made again.
///
/// # Errors
/// [`Error::BadFile`] when one cannot be removed.
pub fn clear(entries: &Path) -> Result<RemovedEntries> {
    let mut done = RemovedEntries::default();
    for entry in list(entries) {
        match remove(&entry).map_err(|error| unusable("removed", &entry.directory, error))? {
            true => done.removed.push(entry),
            false => done.in_use.push(entry),
        }
    }
    Ok(done)
}

/// Removes entries that are not in use, least recently used first, until the total is within `limit` bytes; `newest` stays whatever its
/// size. One that cannot be removed stays until the next is made.
fn evict_lru(entries: &Path, limit: u64, newest: &Path) {
    let cached = list(entries);
    let mut total: u64 = cached.iter().map(|entry| entry.bytes).sum();
    for entry in cached.iter().filter(|entry| entry.directory != newest) {
        if total <= limit {
            return;
        }
        if matches!(remove(entry), Ok(true)) {
            total -= entry.bytes;
        }
    }
}

/// Removes an entry unless it is in use. The file by which it is found is removed first, so that a partly removed one is not found.
fn remove(entry: &CachedInfo) -> io::Result<bool> {
    let Some(_lock) = lock::alone(&entry.directory.with_extension("lock")) else { return Ok(false) };
    match fs::remove_file(entry.directory.join(manifest::FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir_all(&entry.directory)?;
    Ok(true)
}

fn read(directory: &Path) -> Option<CachedInfo> {
    directory.file_name().and_then(OsStr::to_str).filter(|name| is_sha256(name))?;
    let files = fs::read_dir(directory).ok()?.flatten();
    let bytes = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let times = [directory.with_extension("lock"), directory.to_owned()];
    let used = times.iter().find_map(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())?;
    let about = manifest::about(directory);
    Some(CachedInfo {
        kind: about.as_ref().map_or(CachedKind::Graph, |about| about.kind),
        source: about.as_ref().map(|about| about.source.clone()),
        dtype: about.map(|about| about.dtype),
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

    /// An entry of some 10 bytes that was used `age` ago, called by a letter.
    fn put(entries: &Path, letter: char, age: Duration) -> PathBuf {
        let directory = entries.join(String::from(letter).repeat(64));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(manifest::FILE), TEN).unwrap();
        let lock = fs::File::create(directory.with_extension("lock")).unwrap();
        lock.set_modified(SystemTime::now() - age).unwrap();
        directory
    }

    fn letters(entries: &Path) -> String {
        list(entries).iter().filter_map(|entry| entry.directory.file_name()?.to_str()?.chars().next()).collect()
    }

    #[test]
    fn least_recently_used_entries_are_evicted_until_the_rest_fits() {
        const HOUR: Duration = Duration::from_secs(3600);
        let dir = tempfile::tempdir().unwrap();
        let entries = dir.path();
        let [_, b, c, d] = [('a', 3), ('b', 4), ('c', 2), ('d', 1)].map(|(letter, age)| put(entries, letter, HOUR * age));
        fs::write(entries.join("hashes.json"), TEN).unwrap();
        fs::create_dir(entries.join("other")).unwrap();
        assert_eq!(letters(entries), "bacd");
        evict_lru(entries, 40, &d);
        assert_eq!(letters(entries), "bacd");
        evict_lru(entries, 39, &d);
        assert_eq!(letters(entries), "acd");
        // Entries in use stay, and so does the newest.
        let used = fs::File::open(c.with_extension("lock")).unwrap();
        used.lock_shared().unwrap();
        evict_lru(entries, 0, &d);
        assert_eq!(letters(entries), "cd");
        let done = clear(entries).unwrap();
        assert_eq!((done.removed.len(), done.in_use.len(), letters(entries)), (1, 1, "c".into()));
        drop(used);
        // What a killed removal left.
        fs::remove_file(c.join(manifest::FILE)).unwrap();
        fs::write(c.join("model.onnx.data"), TEN).unwrap();
        assert_eq!((clear(entries).unwrap().removed.len(), letters(entries)), (1, String::new()));
        assert!(!b.exists() && entries.join("other").exists() && entries.join("hashes.json").exists());
        assert!(clear(&entries.join("absent")).unwrap().removed.is_empty());
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
