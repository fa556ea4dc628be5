//! One lock for each graph in the cache: whoever uses a graph shares it, whoever makes or removes one has it alone.
//!
//! It is a file beside the graph's directory, whose time of change is when the graph was last used. It stays when the graph goes: a lock
//! on a file that another process removes would guard nothing.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use tandem_core::backend::LoadOptions;
use tandem_core::{Error, ProgressEvent, Result};

use super::unusable;

/// How often a process looks whether the other one is done.
const PATIENCE: Duration = Duration::from_millis(100);

/// What came of sharing a lock.
pub(super) enum Held {
    /// It is held.
    Lock(File),
    /// There is none, and none can be made; or the file system knows no locks.
    Nothing,
}

/// Shares the lock at `path` with others that use the graph, and notes the time; `what` is what somebody may be doing who has it alone.
pub(super) fn share(path: &Path, what: &str, options: &LoadOptions) -> Result<Held> {
    let Ok(lock) = open(path) else { return Ok(Held::Nothing) };
    if !wait(path, what, options, || lock.try_lock_shared())? {
        return Ok(Held::Nothing);
    }
    // Without it the graph is removed earlier than it should be, and made again.
    let _ = lock.set_modified(SystemTime::now());
    Ok(Held::Lock(lock))
}

/// Holds `path` against every other process; `what` is what they would do. The wait can be cancelled.
pub(super) fn lock(path: &Path, what: &str, options: &LoadOptions) -> Result<File> {
    let lock = open(path).map_err(|error| unusable("written", path, error))?;
    // Where there are no locks, the rename at the end of an export is atomic all the same.
    wait(path, what, options, || lock.try_lock())?;
    Ok(lock)
}

/// The lock at `path` when nobody has it, who uses the graph or makes it.
pub(super) fn alone(path: &Path) -> Option<File> {
    let lock = open(path).ok()?;
    lock.try_lock().is_ok().then_some(lock)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

/// Waits until `attempt` succeeds; false where the file system knows no locks, as some network ones.
fn wait(
    path: &Path,
    what: &str,
    options: &LoadOptions,
    attempt: impl Fn() -> std::result::Result<(), TryLockError>,
) -> Result<bool> {
    let mut waits = false;
    loop {
        match attempt() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(unusable("locked", path, error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if !waits {
            options.progress.tell(&ProgressEvent::Waiting { what });
            waits = true;
        }
        thread::sleep(PATIENCE);
    }
}
