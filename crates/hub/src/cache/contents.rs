//! What is in a cache.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::{Cache, CachedRepository, MAX_REFERENCE, read_short};
use crate::content::ContentHash;
use crate::repository::{Commit, Repository};

/// The deepest that files of a repository are looked for.
const MAX_DEPTH: usize = 8;

/// A repository in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// The repository.
    pub repository: Repository,
    /// Where it lies.
    pub directory: PathBuf,
    /// Bytes on disk, those of contents on their way with them.
    pub bytes: u64,
    /// Bytes of downloads that are not whole.
    pub partial_bytes: u64,
    /// Its commits, the one that was used last first.
    pub snapshots: Vec<CachedSnapshot>,
}

/// A commit in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedSnapshot {
    /// The commit.
    pub commit: Commit,
    /// The revisions that were this commit when they were last looked at.
    pub revisions: Vec<String>,
    /// Where its files lie.
    pub directory: PathBuf,
    /// Its files, by name.
    pub files: Vec<CachedFile>,
    /// Names of files whose contents are not there, and where those should be.
    pub missing: Vec<(String, PathBuf)>,
    /// When the newest file came.
    pub modified: Option<SystemTime>,
}

/// A file of a commit in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// Its name in the repository.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The content, in `blobs`; where there are no links, the file itself.
    pub content: PathBuf,
}

impl Cache {
    /// The models in the cache, by name. What is not a repository of a model is passed over, and what cannot be read counts as not there.
    pub fn models(&self) -> Vec<CachedModel> {
        let folders = names_in(self.root());
        let repositories = folders.iter().filter_map(|folder| {
            let id = folder.strip_prefix("models--")?.replacen("--", "/", 1);
            id.parse::<Repository>().ok()
        });
        let mut models: Vec<CachedModel> =
            repositories.map(|repository| self.repository(&repository).contents(repository)).collect();
        models.sort_by(|a, b| a.repository.cmp(&b.repository));
        models
    }

    /// What there is of `repository`; `None` when there is nothing.
    pub fn model(&self, repository: &Repository) -> Option<CachedModel> {
        let cached = self.repository(repository);
        cached.directory().is_dir().then(|| cached.contents(repository.clone()))
    }
}

impl CachedRepository {
    fn contents(&self, repository: Repository) -> CachedModel {
        let directory = self.directory();
        let blobs = names_in(&directory.join("blobs")).into_iter().map(|name| {
            // A link is Python's, to a content that repositories share; it is counted here as well.
            let bytes = fs::metadata(directory.join("blobs").join(&name)).map_or(0, |metadata| metadata.len());
            (name, bytes)
        });
        let (mut bytes, mut partial_bytes) = (0, 0);
        for (name, n) in blobs {
            bytes += n;
            partial_bytes += if name.ends_with(".incomplete") { n } else { 0 };
        }
        let references = references(&directory.join("refs"));
        let commits = names_in(&directory.join("snapshots")).into_iter().filter_map(|name| name.parse::<Commit>().ok());
        let mut snapshots: Vec<CachedSnapshot> = commits.map(|commit| self.contents_of(commit, &references)).collect();
        snapshots.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.commit.cmp(&b.commit)));
        CachedModel { repository, directory, bytes, partial_bytes, snapshots }
    }

    fn contents_of(&self, commit: Commit, references: &[(String, String)]) -> CachedSnapshot {
        let directory = self.snapshot(&commit);
        let files = files_below(&directory);
        let modified = files.iter().filter_map(|file| fs::metadata(&file.content).ok()?.modified().ok()).max();
        let revisions = references.iter().filter(|(_, of)| of == commit.as_str()).map(|(name, _)| name.clone()).collect();
        CachedSnapshot { revisions, files, missing: missing_below(&directory), modified, directory, commit }
    }
}

impl CachedFile {
    /// The hash that its content is called by; `None` for a copy in a cache without links.
    pub fn content_hash(&self) -> Option<ContentHash> {
        self.content.file_name()?.to_str()?.parse().ok()
    }
}

/// The files below the snapshot `directory` whose contents are there, by name.
pub(crate) fn files_below(directory: &Path) -> Vec<CachedFile> {
    let mut found = Vec::new();
    walk(directory, "", MAX_DEPTH, &mut |name, path| {
        let Ok(metadata) = fs::metadata(path) else { return };
        let content = content_of(path);
        found.push(CachedFile { name: name.into(), bytes: metadata.len(), content });
    });
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The links below the snapshot `directory` that lead nowhere.
fn missing_below(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    walk(directory, "", MAX_DEPTH, &mut |name, path| {
        if fs::metadata(path).is_err() {
            found.push((name.into(), content_of(path)));
        }
    });
    found.sort();
    found
}

/// What a link in a snapshot leads to. One step only: a content may be a link itself, to one that repositories share.
fn content_of(path: &Path) -> PathBuf {
    let Ok(target) = fs::read_link(path) else { return path.into() };
    let mut content = path.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in target.components() {
        match part {
            Component::ParentDir => drop(content.pop()),
            other => content.push(other),
        }
    }
    content
}

/// The names of references, with slashes, and the commits in them.
fn references(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(directory, "", MAX_DEPTH, &mut |name, path| {
        if let Ok(text) = read_short(path, MAX_REFERENCE) {
            found.push((name.into(), text.trim().into()));
        }
    });
    found.sort();
    found
}

/// Calls `visit` with every file below `directory`, by its name from there. Links to directories are not followed.
fn walk(directory: &Path, prefix: &str, depth: usize, visit: &mut dyn FnMut(&str, &Path)) {
    for name in names_in(directory) {
        let path = directory.join(&name);
        let name = format!("{prefix}{name}");
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth > 0 => walk(&path, &format!("{name}/"), depth - 1, visit),
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => visit(&name, &path),
            Err(_) => {}
        }
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
