//! Models of the hub on this machine: found in the cache, or brought there.

mod pull;
mod tally;
mod verify;

use std::borrow::Cow;
use std::path::Path;

use tandem_core::files::{MAX_JSON_BYTES, ModelFile};
use tandem_core::{CancelToken, Error, Progress, Remedy, Result};

pub(crate) use self::tally::total;
pub use self::verify::{Damage, Fault};
use crate::cache::{Cache, files_below};
use crate::lockfile::LockedModel;
use crate::pulled::Snapshot;
use crate::repository::HubReference;
use crate::selector::FileSelector;
use crate::settings::HubSettings;

/// The hub and its cache.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
    cache: Cache,
}

/// How to bring a model here.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Which of its files are needed.
    pub select: FileSelector,
    /// Exactly these files of exactly this commit, or an error.
    pub locked: Option<LockedModel>,
    /// Who is told how far it is.
    pub progress: Progress,
    /// Ends it from another thread; what came is kept for the next time.
    pub cancel: CancelToken,
}

impl PullOptions {
    /// Brings what `select` chooses, and tells nobody.
    pub fn new(select: FileSelector) -> Self {
        Self { select, locked: None, progress: Progress::default(), cancel: CancelToken::new() }
    }
}

impl Hub {
    /// The hub and the cache of `settings`. No socket is opened.
    pub fn new(settings: HubSettings) -> Self {
        Self { cache: Cache::new(&settings.cache), settings }
    }

    /// Those of the environment: see [`HubSettings::from_env`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] names a variable with a value that cannot be.
    pub fn from_env() -> Result<Self> {
        HubSettings::from_env().map(Self::new)
    }

    /// How the hub is reached.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The model of `reference`, from the cache when all that is wanted is there, otherwise [pulled](Self::pull).
    ///
    /// A branch that has moved on is not asked about: what was pulled is used until it is pulled again.
    ///
    /// # Errors
    /// As [`pull`](Self::pull).
    pub fn find(&self, reference: &HubReference, options: &PullOptions) -> Result<Snapshot> {
        if let Some(snapshot) = self.cached(reference, &options.select)? {
            return Ok(snapshot);
        }
        if self.settings.offline {
            return Err(self.not_here(reference));
        }
        self.pull(reference, options).map(|pulled| pulled.snapshot)
    }

    /// The model of `reference`, when all that `select` chooses is in the cache. No socket is opened.
    ///
    /// What a commit holds is known when Tandem pulled it, or Python's `snapshot_download` of a recent version. Offline, the files that
    /// are there are taken for all there is otherwise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the repository is known to have nothing that is needed.
    pub fn cached(&self, reference: &HubReference, select: &FileSelector) -> Result<Option<Snapshot>> {
        let cached = self.cache.repository(&reference.repository);
        let Some(commit) = cached.commit_of(&reference.revision) else { return Ok(None) };
        let directory = cached.snapshot(&commit);
        let present = files_below(&directory);
        let tree = cached.tree(&commit);
        if present.is_empty() || (tree.is_none() && !self.settings.offline) {
            return Ok(None);
        }
        let size = |name: &str| present.iter().find(|file| file.name == name).map(|file| file.bytes);
        let is_whole = |name: &str| {
            let expected = tree.as_ref().and_then(|tree| tree.get(name)).and_then(|file| file.bytes);
            size(name).is_some_and(|size| expected.is_none_or(|expected| expected == size))
        };
        let names = match &tree {
            Some(tree) => tree.names(),
            None => present.iter().map(|file| file.name.as_str()).collect(),
        };
        // A file that names others is itself a part of the model: without it the model is not whole.
        let read = |name: &str| read_part(&directory.join(name));
        let files = match select.select(reference, &names, &read) {
            Err(Error::BadFile { .. }) => return Ok(None),
            selected => selected?,
        };
        let is_complete = files.iter().all(|name| is_whole(name));
        Ok(is_complete.then_some(Snapshot { commit, directory, files }))
    }

    fn not_here(&self, reference: &HubReference) -> Error {
        let revisions = self.cache.model(&reference.repository).map(|model| {
            let names = model
                .snapshots
                .iter()
                .map(|snapshot| snapshot.revisions.first().map_or(snapshot.commit.as_str(), String::as_str));
            names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        });
        Error::ModelNotFound {
            reference: reference.to_string(),
            reason: match revisions {
                Some(revisions) if !revisions.is_empty() => {
                    format!("`HF_HUB_OFFLINE` is set, and the cache has not all of it; there is something of {revisions}")
                }
                _ => format!("`HF_HUB_OFFLINE` is set, and it is not in the cache, `{}`", self.cache.root().display()),
            },
            hint: ["unset `HF_HUB_OFFLINE`".into(), Remedy::ReadBundle].into(),
        }
    }
}

/// The content of a file that names others.
fn read_part(path: &Path) -> Result<Vec<u8>> {
    ModelFile::Path(path.into()).read(MAX_JSON_BYTES).map(Cow::into_owned)
}
