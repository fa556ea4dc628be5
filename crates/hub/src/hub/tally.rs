//! How far several files are together.

use std::sync::{Mutex, PoisonError};

use tandem_core::{Progress, ProgressEvent};

use crate::download::{Step, Target};

/// Bytes that are there, of files that are downloaded at once.
pub(super) struct Tally<'t> {
    targets: &'t [Target],
    progress: &'t Progress,
    total: u64,
    arrived: Mutex<Vec<u64>>,
}

impl<'t> Tally<'t> {
    /// `missing` says how much of a file is still to come.
    pub(super) fn new(targets: &'t [Target], progress: &'t Progress, missing: &dyn Fn(&Target) -> u64) -> Self {
        let total = targets.iter().map(|target| target.bytes).sum();
        let arrived = targets.iter().map(|target| target.bytes - missing(target)).collect();
        Self { targets, progress, total, arrived: Mutex::new(arrived) }
    }

    /// The file `i` is so far.
    pub(super) fn tell(&self, i: usize, step: Step) {
        let file = self.targets[i].name.as_str();
        let (Step::Arrived(n) | Step::Elsewhere(n) | Step::Checking(n)) = step;
        let done = {
            let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            arrived[i] = n;
            arrived.iter().sum()
        };
        self.progress.tell(&match step {
            Step::Checking(n) => ProgressEvent::Hashing { file, done: n, total: self.targets[i].bytes },
            Step::Arrived(_) => ProgressEvent::Downloading { file, done, total: self.total },
            Step::Elsewhere(_) => ProgressEvent::DownloadingElsewhere { file, done, total: self.total },
        });
    }
}
