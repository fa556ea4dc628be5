//! Locks against other processes: the system gives them back when a process ends, however it ends.
//!
//! `flock` on the files that Python's `filelock` locks, so that Python and Tandem wait for each other as well.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tandem_core::lock::wait;
use tandem_core::{CancelToken, Result};

use crate::failure::cannot;

/// A lock, held until it is dropped.
pub(crate) struct Lock {
    _file: File,
}

/// Holds `path` against every other process; `waiting` is called again and again for as long as another one has it.
///
/// # Errors
/// [`Error::Cancelled`](tandem_core::Error::Cancelled), and [`Error::BadFile`](tandem_core::Error::BadFile) when the file cannot be made.
pub(crate) fn hold(path: &Path, cancel: &CancelToken, waiting: &dyn Fn()) -> Result<Lock> {
    loop {
        let file = open(path).map_err(|error| cannot("be written", path, error))?;
        let waited = wait(|| file.try_lock(), cancel, &mut || waiting(), |error| cannot("be locked", path, error))?;
        // Whoever had it before may have removed it, and a third may hold a new one of its name. Some network file systems know no locks;
        // the content is verified and renamed whole all the same.
        if !waited || is_still(&file, path) {
            return Ok(Lock { _file: file });
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
