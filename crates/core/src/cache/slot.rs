//! The place of one entry: found there, or made there by one process while others wait.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::lock::{exclusive, share};
use super::manifest::{self, About, EntryFiles};
use super::{evict_lru, limit, unusable};
use crate::backend::LoadOptions;
use crate::disk;
use crate::error::Result;
use crate::staging::{NO_SPACE, Staging};

/// The place of one entry.
#[derive(Debug)]
pub struct Slot<'o> {
    /// Where it is or is to be.
    directory: PathBuf,
    files: EntryFiles,
    /// Describes the work of a process that makes it.
    what: String,
    options: &'o LoadOptions,
}

/// An entry of the cache, which is not removed while this value lives.
#[derive(Debug)]
pub struct CachedEntry {
    directory: PathBuf,
    /// `None` when the cache is read-only or does not support locks.
    _used: Option<File>,
}

impl CachedEntry {
    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl<'o> Slot<'o> {
    /// The place in `entries`, a [`directory`](super::directory), of what is made of everything in `key`; it consists of `files`. `what`
    /// describes the work of making it, such as `the export of qwen to int4`.
    pub fn new(entries: &Path, key: &[&str], files: EntryFiles, what: String, options: &'o LoadOptions) -> Self {
        let mut hasher = Sha256::new();
        for part in key {
            hasher.update(part);
            hasher.update([0]);
        }
        Self { directory: entries.join(format!("{:x}", hasher.finalize())), files, what, options }
    }

    /// The entry, if it is there and its files are as they were recorded; waits for a process that is making it.
    ///
    /// # Errors
    /// [`Error::BadFile`](crate::Error::BadFile) when it cannot be locked, and [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn find(&self) -> Result<Option<CachedEntry>> {
        if !self.directory.join(manifest::FILE).is_file() {
            return Ok(None);
        }
        let used = share(&self.directory.with_extension("lock"), &self.what, self.options)?;
        // It may be damaged, or have been removed in the meantime.
        let is_whole = manifest::matches(&self.directory, self.files);
        Ok(is_whole.then(|| CachedEntry { directory: self.directory.clone(), _used: used }))
    }

    /// Has `make` write the files, some `n_bytes` of them, into a directory that it creates, and puts that in its place; `false` when another
    /// process has made the entry meanwhile. An entry that is `bad` is replaced though its files are as they were recorded.
    ///
    /// Concurrent processes make one entry. When all exceed [`CACHE_SIZE`](super::CACHE_SIZE), the least recently used ones that are not in use
    /// are evicted afterwards.
    ///
    /// # Errors
    /// [`Error::BadFile`](crate::Error::BadFile) when the cache cannot be written or is full, [`Error::Cancelled`](crate::Error::Cancelled),
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for a limit that is not a size, and what `make` gives.
    pub fn make(&self, about: &About, n_bytes: u64, bad: bool, make: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
        let directory = &self.directory;
        let entries = directory.parent().unwrap_or(directory);
        let limit = limit()?;
        fs::create_dir_all(entries).map_err(|error| unusable("made", entries, error))?;
        let _lock = exclusive(&directory.with_extension("lock"), &self.what, self.options)?;
        if !bad && manifest::matches(directory, self.files) {
            return Ok(false);
        }
        disk::check(directory, n_bytes, &disk::free, NO_SPACE)?;
        let staging = Staging::new(directory)?;
        make(&staging.directory())?;
        manifest::write(&staging.directory(), self.files, about)?;
        // An earlier one may be damaged, or have been removed in part.
        match staging.publish(Some(&[self.files.index, self.files.data, manifest::FILE])) {
            // Without locks, another process may have been faster; what it made is the same.
            Err(_) if manifest::matches(directory, self.files) => {}
            published => published?,
        }
        evict_lru(entries, limit, directory);
        Ok(true)
    }
}
