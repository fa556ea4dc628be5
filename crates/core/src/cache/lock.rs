//! One lock for each entry of the cache: shared while it is in use, exclusive while it is made or removed.
//!
//! It is a file beside the entry's directory, and its modification time is when the entry was last used. It stays when the entry is
//! removed: a lock on a file that another process deletes would guard nothing.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::unusable;
use crate::backend::LoadOptions;
use crate::error::Result;
use crate::lock;
use crate::progress::ProgressEvent;

/// Shares the lock at `path` with other users of the entry, and records the time of use; `what` describes the work of a process that holds
/// it exclusively. `None` if the lock file cannot be created, or the file system does not support locks.
pub(super) fn share(path: &Path, what: &str, options: &LoadOptions) -> Result<Option<File>> {
    let Ok(lock) = open(path) else { return Ok(None) };
    if !wait(path, what, options, || lock.try_lock_shared())? {
        return Ok(None);
    }
    // If this fails, the entry may be evicted too early, and is made again.
    let _ = lock.set_modified(SystemTime::now());
    Ok(Some(lock))
}

/// Takes the lock at `path` exclusively; `what` describes the work of a process that holds it. The wait can be cancelled.
pub(super) fn exclusive(path: &Path, what: &str, options: &LoadOptions) -> Result<File> {
    let lock = open(path).map_err(|error| unusable("written", path, error))?;
    // Without locks, the rename at the end is atomic anyway.
    wait(path, what, options, || lock.try_lock())?;
    Ok(lock)
}

/// The lock at `path`, if the entry is neither in use nor being made.
pub(super) fn alone(path: &Path) -> Option<File> {
    let lock = open(path).ok()?;
    lock.try_lock().is_ok().then_some(lock)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

/// Waits until `attempt` succeeds, which is said once; false if the file system does not support locks.
fn wait(path: &Path, what: &str, options: &LoadOptions, attempt: impl Fn() -> Result<(), TryLockError>) -> Result<bool> {
    let mut waits = false;
    let mut waiting = || {
        if !std::mem::replace(&mut waits, true) {
            options.progress.tell(&ProgressEvent::Waiting { what });
        }
    };
    lock::wait(attempt, &options.cancel, &mut waiting, |error| unusable("locked", path, error))
}
