//! Locks against other processes: the system gives them back when a process ends, however it ends.
//!
//! `flock` on the files that Python's `filelock` locks, so that Python and Tandem wait for each other as well.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use tandem_core::{CancelToken, Error, Result};

use crate::client::rest;
use crate::failure::{Failure, cannot};

/// How often a process looks whether the other one is done.
const PATIENCE: Duration = Duration::from_millis(100);

/// A lock, held until it is dropped.
pub(crate) struct Lock {
    _file: File,
}

/// Holds `path` against every other process; `waiting` is called again and again for as long as another one has it.
///
/// # Errors
/// [`Error::Cancelled`], and [`Error::BadFile`] when the file cannot be made.
pub(crate) fn hold(path: &Path, cancel: &CancelToken, waiting: &dyn Fn()) -> Result<Lock> {
    loop {
        let file = open(path).map_err(|error| cannot("be written", path, error))?;
        match file.try_lock() {
            // Whoever had it before may have removed it, and a third may hold a new one of its name.
            Ok(()) if is_still(&file, path) => return Ok(Lock { _file: file }),
            Ok(()) => continue,
            // Some network file systems know no locks. The content is verified and renamed whole all the same.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(Lock { _file: file }),
            Err(TryLockError::Error(error)) => return Err(cannot("be locked", path, error)),
            Err(TryLockError::WouldBlock) => {}
        }
        waiting();
        if let Err(Failure::Cancelled) = rest(PATIENCE, cancel) {
            return Err(Error::Cancelled);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    File::options().write(true).create(true).truncate(false).open(path)
}

#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let there = fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
}

/// An open file cannot be removed.
#[cfg(not(unix))]
fn is_still(_file: &File, _path: &Path) -> bool {
    true
}
