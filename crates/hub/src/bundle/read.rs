//! From a bundle into the cache.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tandem_core::{CancelToken, Error, Progress, ProgressEvent, Remedies, Remedy, Result};
use tar::{Archive, Entries, Entry};

use super::{Contents, FILES, MANIFEST, Manifest};
use crate::cache::{CachedRepository, files_below};
use crate::content::ContentHash;
use crate::download::{Partial, Target};
use crate::failure::cannot;
use crate::hub::{Hub, total};
use crate::lock;
use crate::lockfile::LockFile;
use crate::names::MAX_NAME;
use crate::pulled::{Pulled, PulledFile, Snapshot};
use crate::repository::HubReference;

/// The largest manifest that is read.
const MAX_MANIFEST: u64 = 64 << 20;

/// The longest name of a member: `files/`, what a file may be called, and the byte that ends it.
const MAX_MEMBER_NAME: u64 = (FILES.len() + MAX_NAME + 1) as u64;

/// How much is copied at once.
const CHUNK: usize = 256 << 10;

impl Hub {
    /// Puts the model of the bundle at `path` into the cache: no socket is opened. With `locks` it must be one of theirs, to the byte.
    /// Gives the reference by which it can be named, and what there is of it.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] when it is not a bundle, is truncated, or has a content that is not what its manifest says;
    /// nothing of such a content is visible then. Without `locks` also when the cache has other files under the names that it brings.
    pub fn read_bundle(
        &self,
        path: &Path,
        locks: Option<&LockFile>,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<(HubReference, Pulled)> {
        let name = path.display().to_string();
        let mut archive = Archive::new(File::open(path).map_err(|error| cannot("be read", path, error))?);
        let mut members = Members::of(&mut archive, &name)?;
        let contents = members.manifest()?;
        let cached = self.cache().repository(&contents.repository);
        let locked = locks.map(|locks| locks.expect(&contents.repository, &contents.listing())).transpose()?;
        if locked.is_none() {
            check_revision(&contents, &cached, &name)?;
        }
        let is_missing = |target: &&Target| !cached.has(&target.hash, target.bytes);
        crate::failure::check_space(self.cache().root(), total(contents.targets.iter().filter(is_missing).map(|t| t.bytes)))?;
        while let Some((member, entry)) = members.next()? {
            let target = target_of(&member, &entry, &contents, &name)?;
            take(entry, target, &cached, &name, progress, cancel)?;
        }
        if let Some(target) = contents.targets.iter().find(is_missing) {
            return Err(Error::bad_field(&name, &target.name, "the manifest names it, and it is not in the bundle"));
        }
        // So far only contents have come, each under its hash. Names follow when all of them are known to be right.
        match locked {
            Some(locked) => locked.check(&files(&contents, |target| cached.blob(&target.hash)), progress, cancel)?,
            None => check_files(&contents, &cached, &name, cancel)?,
        }
        finish(contents, &cached)
    }
}

/// Refuses a bundle that would give the name of a branch to another commit: it vouches for nothing but itself.
fn check_revision(contents: &Contents, cached: &CachedRepository, bundle: &str) -> Result<()> {
    match cached.commit_of(&contents.revision).filter(|known| *known != contents.commit) {
        None => Ok(()),
        Some(known) => Err(Error::BadField {
            file: bundle.into(),
            field: "revision".into(),
            problem: format!("`{}` is `{known}` in the cache, and `{}` in the bundle", contents.revision, contents.commit),
            hint: Some(conflict()),
        }),
    }
}

/// Refuses a bundle that would replace files of the commit which the cache has or knows of.
fn check_files(contents: &Contents, cached: &CachedRepository, bundle: &str, cancel: &CancelToken) -> Result<()> {
    let tree = cached.tree(&contents.commit);
    let present = files_below(&cached.snapshot(&contents.commit));
    let is_of = |hash: &ContentHash, path: &Path| {
        let hashes = hash.hash_file(path, cancel, &|_| ()).map_err(|error| cannot("be read", path, error))?;
        hashes.map(|hashes| hash.is_of(&hashes)).ok_or(Error::Cancelled)
    };
    for target in &contents.targets {
        let file = present.iter().find(|file| file.name == target.name);
        let listed = tree.as_ref().and_then(|tree| tree.get(&target.name)?.hash.clone());
        let is_same = match listed.or_else(|| file?.content_hash()) {
            Some(known) => known == target.hash || is_of(&known, &cached.blob(&target.hash))?,
            None => file.map_or(Ok(true), |file| is_of(&target.hash, &file.content))?,
        };
        if !is_same {
            return Err(Error::BadField {
                file: bundle.into(),
                field: target.name.clone(),
                problem: format!("has the hash `{}`, and the cache has another content under this name", target.hash),
                hint: Some(conflict()),
            });
        }
    }
    Ok(())
}

fn conflict() -> Remedies {
    ["read the bundle with a lock file that you trust".into(), Remedy::RemoveModels].into()
}

/// What makes the contents in the cache a model.
fn finish(contents: Contents, cached: &CachedRepository) -> Result<(HubReference, Pulled)> {
    let directory = cached.snapshot(&contents.commit);
    let files = files(&contents, |target| directory.join(&target.name));
    let Contents { repository, revision, commit, targets, tree } = contents;
    cached.prepare(&commit)?;
    if let Some(listing) = tree.filter(|_| cached.tree(&commit).is_none()) {
        cached.remember_tree(&listing)?;
    }
    targets.iter().try_for_each(|target| cached.link(&commit, &target.name, &target.hash))?;
    // Last, so that a revision means what is whole.
    cached.remember(&revision, &commit)?;
    let names = files.iter().map(|file| file.name.clone()).collect();
    let snapshot = Snapshot { commit, directory, files: names };
    let pulled = Pulled { repository: repository.clone(), snapshot, files, received: 0 };
    Ok((HubReference { repository, variant: None, revision }, pulled))
}

fn files(contents: &Contents, path: impl Fn(&Target) -> PathBuf) -> Vec<PulledFile> {
    let file = |target: &Target| PulledFile {
        path: path(target),
        name: target.name.clone(),
        bytes: target.bytes,
        hash: Some(target.hash.clone()),
    };
    contents.targets.iter().map(file).collect()
}

/// The members of an archive in order.
struct Members<'a> {
    entries: Entries<'a, File>,
    bundle: &'a str,
}

impl<'a> Members<'a> {
    fn of(archive: &'a mut Archive<File>, bundle: &'a str) -> Result<Self> {
        // Raw, since the library reads a long name whole, however long it is.
        let entries = archive.entries().map_err(|error| broken(bundle, error))?.raw(true);
        Ok(Self { entries, bundle })
    }

    /// The next member and its name.
    fn next(&mut self) -> Result<Option<(String, Entry<'a, File>)>> {
        let mut long = None;
        while let Some(entry) = self.entries.next() {
            let mut entry = entry.map_err(|error| broken(self.bundle, error))?;
            if !entry.header().entry_type().is_gnu_longname() {
                let name = long.unwrap_or_else(|| entry.path_bytes().into_owned());
                return Ok(Some((String::from_utf8_lossy(&name).into_owned(), entry)));
            }
            if entry.size() > MAX_MEMBER_NAME {
                return Err(Error::BadFile {
                    file: self.bundle.into(),
                    problem: format!(
                        "the name of a member has {} bytes, more than the {MAX_MEMBER_NAME} that are allowed",
                        entry.size()
                    ),
                    hint: None,
                    source: None,
                });
            }
            let mut name = Vec::new();
            entry.read_to_end(&mut name).map_err(|error| broken(self.bundle, error))?;
            name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
            long = Some(name);
        }
        Ok(None)
    }

    /// What the first one says of the others.
    fn manifest(&mut self) -> Result<Contents> {
        let bundle = self.bundle;
        let (_, entry) = self.next()?.filter(|(name, _)| name == MANIFEST).ok_or_else(|| not_first(bundle))?;
        let mut text = Vec::new();
        entry.take(MAX_MANIFEST).read_to_end(&mut text).map_err(|error| broken(bundle, error))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| Error::bad_file(format!("{bundle}/{MANIFEST}"), "is not the manifest of a bundle", error))?;
        manifest.check(bundle)
    }
}

/// The file of the manifest that a member has the content of.
fn target_of<'c>(member: &str, entry: &Entry<'_, File>, contents: &'c Contents, bundle: &str) -> Result<&'c Target> {
    let bad = |problem: &str| Error::bad_field(bundle, member.escape_debug().to_string(), problem);
    let name = member.strip_prefix(FILES).ok_or_else(|| bad("is not listed in the manifest"))?;
    let target = contents.targets.iter().find(|target| target.name == name);
    let target = target.ok_or_else(|| bad("is not listed in the manifest"))?;
    if !entry.header().entry_type().is_file() || entry.size() != target.bytes {
        return Err(bad("the member is not a file of the size that the manifest says"));
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
            Err(error) => return Err(broken(bundle, error)),
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

fn broken(bundle: &str, error: io::Error) -> Error {
    Error::bad_file(bundle, "is not a whole bundle", error)
}

fn not_first(bundle: &str) -> Error {
    Error::BadFile {
        file: bundle.into(),
        problem: format!("does not begin with `{MANIFEST}`: it is not a bundle"),
        hint: Some(Remedy::MakeBundle.into()),
        source: None,
    }
}
