//! From a bundle into the cache.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use tandem_core::{CancelToken, Error, Progress, ProgressEvent, Remedy, Result};
use tar::{Archive, Entry};

use super::{Contents, FILES, MANIFEST, Manifest};
use crate::cache::CachedRepository;
use crate::download::{Partial, Target};
use crate::failure::cannot;
use crate::hub::{Hub, Pulled, PulledFile, Snapshot};
use crate::lock;
use crate::lockfile::LockFile;
use crate::repository::HubReference;

/// The largest manifest that is read.
const MAX_MANIFEST: u64 = 64 << 20;

/// How much is copied at once.
const CHUNK: usize = 256 << 10;

impl Hub {
    /// Puts the model of the bundle at `path` into the cache: no socket is opened. With `locks` it must be one of theirs, to the byte.
    /// Gives the reference by which it can be named, and what there is of it.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] when it is no bundle, is truncated, or has a content that is not what its manifest says;
    /// nothing of such a content is visible then.
    pub fn read_bundle(
        &self,
        path: &Path,
        locks: Option<&LockFile>,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<(HubReference, Pulled)> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| cannot("be read", path, error))?;
        let mut archive = Archive::new(file);
        let broken = |error| Error::bad_file(&name, "is no whole bundle", error);
        let mut entries = archive.entries().map_err(broken)?;
        let first = entries.next().ok_or_else(|| not_first(&name))?.map_err(broken)?;
        let contents = manifest(first, &name)?;

        let cached = self.cache().repository(&contents.repository);
        let missing = contents.targets.iter().filter(|target| !cached.has(&target.hash, target.bytes));
        crate::failure::check_space(self.cache().root(), missing.map(|target| target.bytes).sum())?;
        cached.prepare(&contents.commit)?;
        for entry in entries {
            let entry = entry.map_err(broken)?;
            let target = target_of(&entry, &contents, &name)?;
            take(entry, target, &cached, &name, progress, cancel)?;
        }
        if let Some(target) = contents.targets.iter().find(|target| !cached.has(&target.hash, target.bytes)) {
            return Err(Error::bad_field(&name, &target.name, "the manifest names it, and it is not in the bundle"));
        }
        contents.targets.iter().try_for_each(|target| cached.link(&contents.commit, &target.name, &target.hash))?;
        finish(contents, &cached, locks, progress, cancel)
    }
}

/// What makes the files in the cache a model.
fn finish(
    contents: Contents,
    cached: &CachedRepository,
    locks: Option<&LockFile>,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<(HubReference, Pulled)> {
    let Contents { repository, revision, commit, targets, tree } = contents;
    if let Some(listing) = tree.and_then(|tree| tree.listing(&commit)) {
        cached.remember_tree(&listing)?;
    }
    let directory = cached.snapshot(&commit);
    let file = |target: Target| PulledFile {
        path: directory.join(&target.name),
        name: target.name,
        bytes: target.bytes,
        hash: Some(target.hash),
    };
    let files: Vec<PulledFile> = targets.into_iter().map(file).collect();
    let names = files.iter().map(|file| file.name.clone()).collect();
    let snapshot = Snapshot { commit: commit.clone(), directory: directory.clone(), files: names };
    let pulled = Pulled { repository: repository.clone(), snapshot, files, received: 0 };
    if let Some(locks) = locks {
        let locked = locks.get(&repository).filter(|locked| locked.commit == commit);
        let locked = locked.ok_or_else(|| Error::BadField {
            file: repository.to_string(),
            field: "commit".into(),
            problem: format!("`{commit}` is not what the lock file has"),
            hint: Some(["bring what was locked".into(), Remedy::LockModels].into()),
        })?;
        locked.check(&pulled, progress, cancel)?;
    }
    cached.remember(&revision, &commit)?;
    Ok((HubReference { repository, variant: None, revision }, pulled))
}

fn manifest(entry: Entry<'_, File>, bundle: &str) -> Result<Contents> {
    if entry.path_bytes().as_ref() != MANIFEST.as_bytes() {
        return Err(not_first(bundle));
    }
    let mut text = Vec::new();
    let read = entry.take(MAX_MANIFEST).read_to_end(&mut text);
    read.map_err(|error| Error::bad_file(bundle, "is no whole bundle", error))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| Error::bad_file(format!("{bundle}/{MANIFEST}"), "is not the manifest of a bundle", error))?;
    manifest.check(bundle)
}

/// The file of the manifest that a member has the content of.
fn target_of<'c>(entry: &Entry<'_, File>, contents: &'c Contents, bundle: &str) -> Result<&'c Target> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let bad = |problem: &str| Error::bad_field(bundle, path.escape_debug().to_string(), problem);
    let name = path.strip_prefix(FILES).ok_or_else(|| bad("the member is none of the manifest's"))?;
    let target = contents.targets.iter().find(|target| target.name == name);
    let target = target.ok_or_else(|| bad("the member is none of the manifest's"))?;
    if !entry.header().entry_type().is_file() || entry.size() != target.bytes {
        return Err(bad("the member is no file of the size that the manifest says"));
    }
    Ok(target)
}

/// Brings one content into the cache, unless it is there.
fn take(
    mut entry: Entry<'_, File>,
    target: &Target,
    cached: &CachedRepository,
    bundle: &str,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<()> {
    let what = target.name.as_str();
    let _lock = lock::hold(&cached.lock(&target.hash), cancel, &|| progress.tell(&ProgressEvent::Waiting { what }))?;
    if cached.has(&target.hash, target.bytes) {
        return Ok(());
    }
    let mut partial = Partial::open(cached.partial(&target.hash), target, cancel, &|_| ())?;
    partial.restart()?;
    let mut chunk = vec![0; CHUNK];
    while !partial.is_complete() {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match entry.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => partial.append(&chunk[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::bad_file(bundle, "is no whole bundle", error)),
        }
        progress.tell(&ProgressEvent::Hashing { file: what, done: partial.n_bytes(), total: target.bytes });
    }
    if !partial.is_complete() || !partial.is_right()? {
        return Err(Error::BadField {
            file: bundle.into(),
            field: target.name.clone(),
            problem: format!("its hash is not `{}`, or it is not whole", target.hash),
            hint: Some("the bundle is damaged: copy it again, and compare".into()),
        });
    }
    partial.publish(&cached.blob(&target.hash))
}

fn not_first(bundle: &str) -> Error {
    Error::BadFile {
        file: bundle.into(),
        problem: format!("does not begin with `{MANIFEST}`: it is no bundle"),
        hint: Some(Remedy::MakeBundle.into()),
        source: None,
    }
}
