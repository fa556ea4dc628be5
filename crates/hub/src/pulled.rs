//! What lies in the cache: a model, and each of its files.

use std::path::PathBuf;

use crate::content::ContentHash;
use crate::repository::{Commit, Repository};

/// A model in the cache, with all that was wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: Commit,
    /// A directory as published.
    pub directory: PathBuf,
    /// The names of the files that were wanted.
    pub files: Vec<String>,
}

/// What a pull brought, or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The repository.
    pub repository: Repository,
    /// Where it lies.
    pub snapshot: Snapshot,
    /// What was wanted, the small files first.
    pub files: Vec<PulledFile>,
    /// Bytes that came over the network.
    pub received: u64,
}

/// A file of a pulled model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    /// Its name in the repository.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// By what name the hub knows its content; `None` for a copy in a cache without links.
    pub hash: Option<ContentHash>,
    /// Where it lies, in the snapshot.
    pub path: PathBuf,
}
