//! Takes models out of the cache.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tandem_core::{CancelToken, Error, Remedy, Result};

use super::{Cache, CachedModel, CachedRepository, CachedSnapshot};
use crate::failure::cannot;
use crate::lock;
use crate::repository::{HubReference, Repository};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The commits.
    pub commits: Vec<String>,
    /// How many contents.
    pub n_files: usize,
    /// Bytes that are free now.
    pub bytes: u64,
}

impl Cache {
    /// Removes all of a repository.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when it is not in the cache, [`Error::BadFile`] when something cannot be removed.
    pub fn remove(&self, repository: &Repository) -> Result<Removed> {
        let model = self.model(repository).ok_or_else(|| self.not_there(&repository.clone().into()))?;
        let cached = self.repository(repository);
        let _locks = hold_all(&cached, &content_names(&model))?;
        let n_files = names(&model.directory.join("blobs")).len();
        remove_directory(&model.directory)?;
        // Whoever waits for one of these locks looks whether it is still the one of its name.
        let _ = fs::remove_dir_all(cached.locks());
        let commits = model.snapshots.iter().map(|snapshot| snapshot.commit.to_string()).collect();
        Ok(Removed { commits, n_files, bytes: model.bytes })
    }

    /// Removes one commit of a repository, and the contents that no other commit has.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn remove_revision(&self, reference: &HubReference) -> Result<Removed> {
        let not_there = || self.not_there(reference);
        let model = self.model(&reference.repository).ok_or_else(not_there)?;
        let cached = self.repository(&reference.repository);
        let commit = cached.commit_of(&reference.revision).ok_or_else(not_there)?;
        let (gone, kept): (Vec<_>, Vec<_>) = model.snapshots.iter().partition(|snapshot| snapshot.commit == commit);
        let snapshot = gone.first().ok_or_else(not_there)?;
        if kept.is_empty() {
            return self.remove(&reference.repository);
        }
        let unused = only_in(snapshot, &kept, &model.directory.join("blobs"));
        let hashes: Vec<String> = unused.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        let _locks = hold_all(&cached, &hashes)?;
        remove_directory(&snapshot.directory)?;
        for revision in &snapshot.revisions {
            let file = model.directory.join("refs").join(revision);
            fs::remove_file(&file).map_err(|error| cannot("be removed", &file, error))?;
        }
        let mut removed = Removed { commits: vec![commit.to_string()], ..Removed::default() };
        for content in unused {
            removed.bytes += fs::metadata(&content).map_or(0, |metadata| metadata.len());
            fs::remove_file(&content).map_err(|error| cannot("be removed", &content, error))?;
            removed.n_files += 1;
        }
        Ok(removed)
    }

    fn not_there(&self, reference: &HubReference) -> Error {
        Error::ModelNotFound {
            reference: reference.to_string(),
            reason: format!("it is not in the cache, `{}`", self.root().display()),
            hint: Remedy::ListModels.into(),
        }
    }
}

/// The contents in `blobs` that `snapshot` has and none of `others` has. A link may lead elsewhere, to what is not the cache's.
fn only_in(snapshot: &CachedSnapshot, others: &[&CachedSnapshot], blobs: &Path) -> Vec<PathBuf> {
    let used: HashSet<&Path> = others.iter().flat_map(|other| &other.files).map(|file| file.content.as_path()).collect();
    let mut unused: Vec<PathBuf> = snapshot.files.iter().map(|file| file.content.clone()).collect();
    unused.retain(|content| !used.contains(content.as_path()) && content.parent() == Some(blobs));
    unused.sort();
    unused.dedup();
    unused
}

fn content_names(model: &CachedModel) -> Vec<String> {
    names(&model.directory.join("blobs")).into_iter().map(|name| name.trim_end_matches(".incomplete").to_owned()).collect()
}

/// The locks of contents, against a download of one of them at the same time.
fn hold_all(cached: &CachedRepository, hashes: &[String]) -> Result<Vec<lock::Lock>> {
    let refuse = CancelToken::new();
    let hold = |hash: &String| {
        let path = cached.locks().join(format!("{hash}.lock"));
        lock::hold(&path, &refuse, &|| refuse.cancel()).map_err(|error| match error {
            Error::Cancelled => Error::BadFile {
                file: cached.directory().display().to_string(),
                problem: "another process downloads into it".into(),
                hint: Some("wait for it, or end it".into()),
                source: None,
            },
            other => other,
        })
    };
    hashes.iter().map(hold).collect()
}

fn remove_directory(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("be removed", directory, error)),
        _ => Ok(()),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
