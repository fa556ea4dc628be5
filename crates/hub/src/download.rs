//! One file of a repository: asked for, resumed, verified, and only then given its name.

mod partial;
mod transfer;

use std::sync::Arc;

use tandem_core::{CancelToken, Result};

pub(crate) use self::partial::Partial;
use crate::cache::CachedRepository;
use crate::client::Client;
use crate::content::ContentHash;
use crate::lock;
use crate::repository::{Commit, Repository};

/// A file that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) hash: ContentHash,
}

/// Whose it is, and who wants it.
pub(crate) struct Download<'d> {
    pub(crate) client: &'d Arc<Client>,
    pub(crate) repository: &'d Repository,
    pub(crate) cached: &'d CachedRepository,
    pub(crate) commit: &'d Commit,
    pub(crate) cancel: &'d CancelToken,
}

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// What an earlier download left is read again.
    Checking(u64),
    /// So many of its bytes are there.
    Arrived(u64),
    /// So many are there, and another process brings the rest.
    Elsewhere(u64),
}

impl Download<'_> {
    /// Brings `target` into the cache, unless it is there; gives the bytes that came over the network.
    ///
    /// # Errors
    /// [`Hub`](tandem_core::Error::Hub), [`BadFile`](tandem_core::Error::BadFile) for a failure of the disk, and
    /// [`Cancelled`](tandem_core::Error::Cancelled). What came before stays, and the next download begins where it ends.
    pub(crate) fn file(&self, target: &Target, progress: &dyn Fn(Step)) -> Result<u64> {
        let is_there = || self.cached.has(&target.hash, target.bytes);
        let mut received = 0;
        if !is_there() {
            let path = self.cached.partial(&target.hash);
            let size = || path.metadata().map_or(0, |metadata| metadata.len().min(target.bytes));
            let _lock = lock::hold(&self.cached.lock(&target.hash), self.cancel, &|| progress(Step::Elsewhere(size())))?;
            if !is_there() {
                let mut partial = Partial::open(path, target, self.cancel, &|done| progress(Step::Checking(done)))?;
                received = self.transfer(&mut partial, target, progress)?;
                partial.publish(&self.cached.blob(&target.hash))?;
            }
        }
        self.cached.link(self.commit, &target.name, &target.hash)?;
        progress(Step::Arrived(target.bytes));
        Ok(received)
    }
}
