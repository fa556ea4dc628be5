//! The hub's cache on disk, as Python's `huggingface_hub` reads and writes it.
//!
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>: `models--<owner>--<name>/` with contents in `blobs/`, called
//! by their hash, `snapshots/<commit>/` of links to them, `refs/<revision>` with the commit, and `trees/<commit>.json` with what
//! the commit holds. Locks lie in `.locks/models--<owner>--<name>/<hash>.lock`.

mod contents;
mod link;
mod remove;
mod tree;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::{Cache as Layout, CacheRepo, Repo};
use tandem_core::Result;

pub(crate) use self::contents::files_below;
pub use self::contents::{CachedFile, CachedModel, CachedSnapshot};

pub use self::remove::Removed;
pub(crate) use self::tree::Tree;
use crate::content::ContentHash;
use crate::failure::cannot;
use crate::repository::{Commit, Repository, Revision};

/// The longest text of a reference that is read.
pub(crate) const MAX_REFERENCE: u64 = 128;

/// The cache of one user or machine.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A repository's part of it, whether it is there or not.
#[derive(Debug)]
pub(crate) struct CachedRepository {
    root: PathBuf,
    folder: String,
    layout: CacheRepo,
}

impl Cache {
    /// The cache at `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn repository(&self, repository: &Repository) -> CachedRepository {
        let repo = Repo::model(repository.id().into());
        let folder = repo.folder_name();
        CachedRepository { root: self.root.clone(), folder, layout: Layout::new(self.root.clone()).repo(repo) }
    }
}

impl CachedRepository {
    /// Where all of it lies.
    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join(&self.folder)
    }

    /// Where its locks lie.
    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join(".locks").join(&self.folder)
    }

    /// The links of a commit.
    pub(crate) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.layout.pointer_path(commit.as_str())
    }

    /// Makes the directories that a repository in the cache has, also before its first file is there.
    pub(crate) fn prepare(&self, commit: &Commit) -> Result<()> {
        let snapshot = self.snapshot(commit);
        fs::create_dir_all(&snapshot).map_err(|error| cannot("be made", &snapshot, error))
    }

    pub(crate) fn blob(&self, hash: &ContentHash) -> PathBuf {
        self.directory().join("blobs").join(hash.digits())
    }

    /// A content on its way.
    pub(crate) fn partial(&self, hash: &ContentHash) -> PathBuf {
        self.directory().join("blobs").join(format!("{hash}.incomplete"))
    }

    pub(crate) fn lock(&self, hash: &ContentHash) -> PathBuf {
        self.locks().join(format!("{hash}.lock"))
    }

    /// Whether a content is there, of the size that it must have.
    pub(crate) fn has(&self, hash: &ContentHash, bytes: u64) -> bool {
        fs::metadata(self.blob(hash)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
    }

    /// The commit that a revision was, when it was last looked at.
    pub(crate) fn commit_of(&self, revision: &Revision) -> Option<Commit> {
        if let Some(commit) = revision.as_commit() {
            return Some(commit);
        }
        let file = self.directory().join("refs").join(revision.as_str());
        read_short(&file, MAX_REFERENCE).ok()?.trim().parse().ok()
    }

    /// Remembers what `revision` is now. It is whole or not there at all.
    pub(crate) fn remember(&self, revision: &Revision, commit: &Commit) -> Result<()> {
        if revision.as_commit().is_some() || self.commit_of(revision).as_ref() == Some(commit) {
            return Ok(());
        }
        let file = self.directory().join("refs").join(revision.as_str());
        write_whole(&file, commit.as_str().as_bytes(), &self.directory()).map_err(|error| cannot("be written", &file, error))
    }

    /// Gives a content the name `name` in the snapshot of `commit`.
    pub(crate) fn link(&self, commit: &Commit, name: &str, hash: &ContentHash) -> Result<()> {
        let pointer = self.snapshot(commit).join(name);
        link::link(&self.blob(hash), &pointer, &self.directory()).map_err(|error| cannot("be written", &pointer, error))
    }
}

/// The text of a small file.
///
/// # Errors
/// When it cannot be read, is not a regular file, or has more than `limit` bytes.
pub(crate) fn read_short(path: &Path, limit: u64) -> io::Result<String> {
    // To open a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_string(&mut text)?;
    match text.len() as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes"))),
        false => Ok(text),
    }
}

/// Writes `content` to `path` so that a reader sees all of it or none; until then it lies in `work`, on the same disk.
pub(crate) fn write_whole(path: &Path, content: &[u8], work: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let mut file = temporary().tempfile_in(work)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// A file for everyone who may read the cache, where `tempfile` makes them for their owner alone.
fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tandem-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}
