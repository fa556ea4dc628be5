//! Brings a model into the cache.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tandem_core::files::MAX_JSON_BYTES;
use tandem_core::{CancelToken, Error, Progress, Result};

use super::tally::{Tally, total};
use super::{Hub, PullOptions, read_part};
use crate::cache::{CachedFile, CachedRepository, files_below};
use crate::client::Client;
use crate::download::{Download, Step, Target};
use crate::listing::Listing;
use crate::pulled::{Pulled, PulledFile, Snapshot};
use crate::repository::{Commit, HubReference};

impl CachedFile {
    fn pulled(self, snapshot: &Path) -> PulledFile {
        let hash = self.content_hash();
        PulledFile { path: snapshot.join(&self.name), bytes: self.bytes, hash, name: self.name }
    }
}

/// One pull.
struct Pull<'p> {
    client: Arc<Client>,
    reference: &'p HubReference,
    cached: CachedRepository,
    listing: Listing,
    options: &'p PullOptions,
    /// Bytes that came to choose the others by.
    read_bytes: AtomicU64,
}

impl Hub {
    /// Brings what `options` want of `reference` into the cache. What is there is not downloaded again, and what an earlier pull left
    /// unfinished goes on where it ended. Other processes that want the same wait for it and use it.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when the hub knows no such model, [`Error::Hub`] when hub or network fail, [`Error::BadFile`] when disk or
    /// cache do, [`Error::Unsupported`] when the repository has nothing that is needed, and [`Error::Cancelled`]. No content gets
    /// its name before its hash was found right.
    pub fn pull(&self, reference: &HubReference, options: &PullOptions) -> Result<Pulled> {
        let asked = match &options.locked {
            Some(locked) => &HubReference { revision: locked.commit.clone().into(), ..reference.clone() },
            None => reference,
        };
        if self.settings.offline {
            return self.pull_offline(asked, options);
        }
        let client = Arc::new(Client::new(&self.settings)?);
        let listing = client.listing(asked, &options.cancel)?;
        let cached = self.cache.repository(&reference.repository);
        cached.prepare(&listing.commit)?;
        cached.remember_tree(&listing)?;
        let pull = Pull { client, reference, cached, listing, options, read_bytes: AtomicU64::new(0) };
        let targets = pull.targets()?;
        let needed = total(targets.iter().map(|target| pull.missing(target)));
        crate::failure::check_space(self.cache.root(), needed)?;
        let received = pull.download(&targets, self.settings.n_parallel.get(), &options.progress)?;
        let pulled = pull.pulled(targets, received.saturating_add(pull.read_bytes.load(Ordering::Relaxed)));
        if let Some(locked) = &options.locked {
            locked.check(&pulled.files, &options.progress, &options.cancel)?;
        }
        // Last, so that a revision means what is whole.
        pull.cached.remember(&reference.revision, &pull.listing.commit)?;
        Ok(pulled)
    }

    /// What `options` want, when all of it is in the cache.
    fn pull_offline(&self, reference: &HubReference, options: &PullOptions) -> Result<Pulled> {
        let cached = self.cache.repository(&reference.repository);
        let snapshot = match &options.locked {
            None => self.cached(reference, &options.select)?,
            Some(locked) => {
                let directory = cached.snapshot(&locked.commit);
                let files: Vec<String> = locked.files.iter().map(|file| file.name.clone()).collect();
                let is_whole = files.iter().all(|name| directory.join(name).is_file());
                is_whole.then(|| Snapshot { commit: locked.commit.clone(), directory, files })
            }
        };
        let snapshot = snapshot.ok_or_else(|| self.not_here(reference))?;
        let files = files_below(&snapshot.directory).into_iter().filter(|file| snapshot.files.contains(&file.name));
        let pulled = Pulled {
            repository: reference.repository.clone(),
            files: files.map(|file| file.pulled(&snapshot.directory)).collect(),
            snapshot,
            received: 0,
        };
        if let Some(locked) = &options.locked {
            locked.check(&pulled.files, &options.progress, &options.cancel)?;
        }
        Ok(pulled)
    }

    /// Whether the hub answers.
    ///
    /// # Errors
    /// [`Error::Hub`] says why not.
    pub fn reach(&self, cancel: &CancelToken) -> Result<()> {
        Arc::new(Client::new(&self.settings)?).reach(cancel)
    }
}

impl Pull<'_> {
    /// The files to bring.
    fn targets(&self) -> Result<Vec<Target>> {
        let names = match &self.options.locked {
            Some(locked) => locked.names(&self.listing)?,
            None => {
                let read = |name: &str| self.read(name);
                self.options.select.select(self.reference, &self.listing.names(), &read)?
            }
        };
        names.iter().map(|name| self.target(name)).collect()
    }

    fn target(&self, name: &str) -> Result<Target> {
        let file = self.listing.get(name).ok_or_else(|| self.not_listed(name))?;
        let (bytes, hash) = match (file.bytes, &file.hash) {
            (Some(bytes), Some(hash)) => (bytes, hash.clone()),
            _ => self.client.metadata(&self.reference.repository, &self.listing.commit, name, &self.options.cancel)?,
        };
        Ok(Target { name: name.into(), bytes, hash })
    }

    /// The content of a small file, brought here first.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let targets = [self.target(name)?];
        if targets[0].bytes > MAX_JSON_BYTES {
            let problem = format!(
                "has {} bytes, more than the {MAX_JSON_BYTES} that are read of a file that names others",
                targets[0].bytes
            );
            return Err(Error::bad_field(self.reference.repository.to_string(), name, problem));
        }
        // How far all of it is can be said only when it is known what that is.
        let received = self.download(&targets, 1, &Progress::default())?;
        self.read_bytes.fetch_add(received, Ordering::Relaxed);
        read_part(&self.cached.snapshot(&self.listing.commit).join(name))
    }

    /// Bytes that are still to come.
    fn missing(&self, target: &Target) -> u64 {
        if self.cached.has(&target.hash, target.bytes) {
            return 0;
        }
        let partial = fs::metadata(self.cached.partial(&target.hash)).map_or(0, |metadata| metadata.len());
        target.bytes.saturating_sub(partial)
    }

    /// Brings `targets`, `n_parallel` at a time; gives the bytes that came.
    fn download(&self, targets: &[Target], n_parallel: usize, progress: &Progress) -> Result<u64> {
        // One failure ends the others; so does the caller.
        let stop = CancelToken::new();
        let listener: Arc<dyn Fn() + Send + Sync> = Arc::new({
            let stop = stop.clone();
            move || stop.cancel()
        });
        self.options.cancel.listen(&listener);
        if self.options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let tally = Tally::new(targets, progress, &|target| self.missing(target));
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Ok(0));
        thread::scope(|scope| {
            for _ in 0..n_parallel.min(targets.len()) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::SeqCst);
                        let Some(target) = targets.get(i) else { break };
                        let done = self.one(target, &stop, &|step| tally.tell(i, step));
                        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                        match (done, &mut *outcome) {
                            (Ok(received), Ok(sum)) => *sum += received,
                            // The first failure is the cause; the others were told to stop.
                            (Err(error), Ok(_)) => {
                                *outcome = Err(error);
                                stop.cancel();
                            }
                            _ => {}
                        }
                    }
                });
            }
        });
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, target: &Target, stop: &CancelToken, progress: &dyn Fn(Step)) -> Result<u64> {
        if stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let download = Download {
            client: &self.client,
            repository: &self.reference.repository,
            cached: &self.cached,
            commit: &self.listing.commit,
            cancel: stop,
        };
        download.file(target, progress)
    }

    fn pulled(&self, targets: Vec<Target>, received: u64) -> Pulled {
        let directory = self.cached.snapshot(&self.listing.commit);
        let file = |target: Target| PulledFile {
            path: directory.join(&target.name),
            name: target.name,
            bytes: target.bytes,
            hash: Some(target.hash),
        };
        let files: Vec<PulledFile> = targets.into_iter().map(file).collect();
        let names = files.iter().map(|file| file.name.clone()).collect();
        let commit: Commit = self.listing.commit.clone();
        Pulled {
            repository: self.reference.repository.clone(),
            snapshot: Snapshot { commit, directory: directory.clone(), files: names },
            files,
            received,
        }
    }

    fn not_listed(&self, name: &str) -> Error {
        Error::bad_field(
            format!("{}@{}", self.reference.repository, self.listing.commit),
            name,
            "the repository holds no such file",
        )
    }
}
