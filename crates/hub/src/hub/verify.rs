//! Is every content in the cache what its name says? And brought again where it is not.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_core::{CancelToken, Error, Progress, ProgressEvent, Remedy, Result};

use super::Hub;
use crate::cache::{CachedModel, CachedSnapshot};
use crate::client::Client;
use crate::content::ContentHash;
use crate::download::{Download, Step, Target};
use crate::failure::cannot;
use crate::lock;
use crate::repository::{Commit, Repository};

/// Something in the cache that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The repository.
    pub repository: Repository,
    /// The commit that has it.
    pub commit: Commit,
    /// Its name in the repository.
    pub file: String,
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its content is another one than its name says.
    Content,
    /// It has not the size that it must have.
    Size,
    /// It is linked to, and not there.
    Missing,
}

impl Hub {
    /// Reads every file of the models in the cache, or of `repository` alone, and compares it with the hash that it is called by.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when `repository` is not in the cache, [`Error::BadFile`] when something cannot be read, and
    /// [`Error::Cancelled`].
    pub fn verify(&self, repository: Option<&Repository>, progress: &Progress, cancel: &CancelToken) -> Result<Vec<Damage>> {
        let models = match repository {
            None => self.cache.models(),
            Some(repository) => vec![self.cache.model(repository).ok_or_else(|| Error::ModelNotFound {
                reference: repository.to_string(),
                reason: format!("it is not in the cache, `{}`", self.cache.root().display()),
                hint: Remedy::ListModels.into(),
            })?],
        };
        let mut damages = Vec::new();
        for model in &models {
            // One content may have several names; it is read once.
            let mut known = HashMap::new();
            for snapshot in &model.snapshots {
                damages.extend(self.verify_snapshot(model, snapshot, &mut known, progress, cancel)?);
            }
        }
        Ok(damages)
    }

    /// Removes the damaged content and brings it again, from the commit that it belongs to. What lies outside the cache is not touched.
    ///
    /// # Errors
    /// As [`pull`](Self::pull); what is damaged is gone by then.
    pub fn repair(&self, damage: &Damage, progress: &Progress, cancel: &CancelToken) -> Result<()> {
        let client = Arc::new(Client::new(&self.settings)?);
        let cached = self.cache.repository(&damage.repository);
        let known = cached.tree(&damage.commit).and_then(|tree| {
            let file = tree.get(&damage.file)?;
            Some((file.bytes?, file.hash.clone()?))
        });
        let (bytes, hash) = match known {
            Some(known) => known,
            None => client.metadata(&damage.repository, &damage.commit, &damage.file, cancel)?,
        };
        let target = Target { name: damage.file.clone(), bytes, hash };
        {
            let what = damage.file.as_str();
            let waiting = || progress.tell(&ProgressEvent::Waiting { what });
            let _lock = lock::hold(&cached.lock(&target.hash), cancel, &waiting)?;
            // Only the content that the file must have: whatever else the name leads to is not its own, and the name itself is replaced.
            let content = cached.blob(&target.hash);
            match fs::remove_file(&content) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot("be removed", &content, error)),
                _ => {}
            }
        }
        let download =
            Download { client: &client, repository: &damage.repository, cached: &cached, commit: &damage.commit, cancel };
        let file = target.name.as_str();
        let tell = |step| {
            let (Step::Arrived(done) | Step::Checking(done) | Step::Elsewhere(done)) = step;
            progress.tell(&ProgressEvent::Downloading { file, done, total: bytes });
        };
        download.file(&target, &tell).map(drop)
    }

    fn verify_snapshot(
        &self,
        model: &CachedModel,
        snapshot: &CachedSnapshot,
        known: &mut HashMap<(PathBuf, ContentHash), Option<Fault>>,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<Vec<Damage>> {
        let tree = self.cache.repository(&model.repository).tree(&snapshot.commit);
        let mut damages = Vec::new();
        let mut add = |file: &str, path: &Path, fault| {
            let (repository, commit) = (model.repository.clone(), snapshot.commit.clone());
            damages.push(Damage { repository, commit, file: file.into(), path: path.into(), fault });
        };
        for file in &snapshot.files {
            let listed = tree.as_ref().and_then(|tree| tree.get(&file.name));
            let expected = listed.and_then(|listed| listed.hash.clone()).or_else(|| file.content_hash());
            let fault = match expected.map(|hash| (file.content.clone(), hash)) {
                _ if listed.and_then(|listed| listed.bytes).is_some_and(|bytes| bytes != file.bytes) => Some(Fault::Size),
                None => None,
                Some(key) => match known.get(&key) {
                    Some(fault) => *fault,
                    None => {
                        let fault = check(&key.1, &file.content, &file.name, progress, cancel)?;
                        known.insert(key, fault);
                        fault
                    }
                },
            };
            if let Some(fault) = fault {
                add(&file.name, &file.content, fault);
            }
        }
        for (name, path) in &snapshot.missing {
            add(name, path, Fault::Missing);
        }
        Ok(damages)
    }
}

fn check(hash: &ContentHash, path: &Path, name: &str, progress: &Progress, cancel: &CancelToken) -> Result<Option<Fault>> {
    let total = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let tell = |done| progress.tell(&ProgressEvent::Hashing { file: name, done, total });
    let hashes = hash.hash_file(path, cancel, &tell).map_err(|error| cannot("be read", path, error))?;
    let hashes = hashes.ok_or(Error::Cancelled)?;
    Ok((!hash.is_of(&hashes)).then_some(Fault::Content))
}
