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
        let total = total(targets.iter().map(|target| target.bytes));
        let arrived = targets.iter().map(|target| target.bytes.saturating_sub(missing(target))).collect();
        Self { targets, progress, total, arrived: Mutex::new(arrived) }
    }

    /// The file `i` is so far.
    pub(super) fn tell(&self, i: usize, step: Step) {
        let file = self.targets[i].name.as_str();
        let (Step::Arrived(n) | Step::Elsewhere(n) | Step::Checking(n)) = step;
        let done = {
            let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            arrived[i] = n;
            total(arrived.iter().copied())
        };
        self.progress.tell(&match step {
            Step::Checking(n) => ProgressEvent::Hashing { file, done: n, total: self.targets[i].bytes },
            Step::Arrived(_) => ProgressEvent::Downloading { file, done, total: self.total },
            Step::Elsewhere(_) => ProgressEvent::DownloadingElsewhere { file, done, total: self.total },
        });
    }
}

/// The sum of sizes that a hub or a bundle states; one beyond all numbers is the largest.
pub(crate) fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentHash;

    #[test]
    fn stated_sizes_do_not_overflow_the_sum() {
        let target = |bytes| Target { name: "model".into(), bytes, hash: ContentHash::Sha256("0".repeat(64)) };
        let targets = [target(u64::MAX), target(7)];
        let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
        let progress = Progress::new({
            let seen = std::sync::Arc::clone(&seen);
            move |event| seen.lock().unwrap().extend(event.bytes())
        });
        // A partial file may be longer than what a hub says.
        let tally = Tally::new(&targets, &progress, &|_| 8);
        tally.tell(1, Step::Arrived(7));
        assert_eq!(*seen.lock().unwrap(), [(u64::MAX - 1, u64::MAX)]);
    }
}
