//! Writes a directory that is moved into place when it is complete.
//!
//! The work is done beside the target, in `.<name>.partial-<random>`, which holds a lock while the process lives. By that lock, what a killed
//! process left behind is told from work in progress, and the next export to the same path removes it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::remedy::{Remedies, Remedy};

/// What to do about a disk that is too small for what is made of a checkpoint.
pub const NO_SPACE: &str = "make room, choose a directory on another disk, or a smaller dtype such as int4";

/// The lock file in a work directory.
const LOCK: &str = "lock";

/// A directory in progress; it is removed when dropped before [`publish`](Self::publish).
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    work: TempDir,
    /// The operating system releases the lock with the file, even if the process is killed.
    _lock: File,
}

/// Checks that a directory can be created at `target`, or may be replaced: with `replaced`, one that has no other files than these.
///
/// # Errors
/// [`Error::BadFile`] for a file, and a directory that is not empty and may not be replaced.
pub fn check_target(target: &Path, replaced: Option<&[&str]>) -> Result<()> {
    let refuse = |problem: String, hint: Remedies| {
        Err(Error::BadFile { file: target.display().to_string(), problem, hint: Some(hint), source: None })
    };
    if target.file_name().is_none() {
        return refuse("does not end in a name".into(), "name the directory to create".into());
    }
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return refuse("exists and is not a directory".into(), "choose another directory".into());
        }
        Err(error) => return Err(cannot("read", target, error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>();
    let names = names.map_err(|error| cannot("read", target, error))?;
    if names.is_empty() {
        return Ok(());
    }
    let Some(replaced) = replaced else {
        return refuse("exists and is not empty".into(), ["choose another directory".into(), Remedy::ReplaceExport].into());
    };
    match names.iter().filter(|name| !replaced.contains(&name.as_str())).min() {
        None => Ok(()),
        Some(name) => refuse(
            format!("contains `{name}`, which an export does not write, so it is not replaced"),
            "choose another directory, or remove this one yourself".into(),
        ),
    }
}

impl Staging {
    /// Begins a directory for `target`, and removes what killed processes left of it.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be written.
    pub fn new(target: &Path) -> Result<Self> {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| cannot("made", parent, error))?;
        let prefix = format!(".{}.partial-", target.file_name().unwrap_or_default().to_string_lossy());
        remove_abandoned(parent, &prefix);
        let failed = |error| cannot("written", parent, error);
        let work = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(failed)?;
        let lock = File::create_new(work.path().join(LOCK)).map_err(failed)?;
        // Without locks, what is left behind stays.
        let _ = lock.try_lock();
        Ok(Self { target: target.into(), work, _lock: lock })
    }

    /// Where to write the directory; it does not exist yet.
    pub fn directory(&self) -> PathBuf {
        self.work.path().join("export")
    }

    /// Moves the directory to its target.
    ///
    /// # Errors
    /// As [`check_target`], and when the rename fails; what was there before stays then.
    pub fn publish(self, replaced: Option<&[&str]>) -> Result<()> {
        let target = &self.target;
        let failed = |error| cannot("written", target, error);
        check_target(target, replaced)?;
        let old = self.work.path().join("replaced");
        if target.exists() {
            fs::rename(target, &old).map_err(failed)?;
        }
        if let Err(error) = fs::rename(self.directory(), target) {
            // If this fails as well, nothing more can be done.
            let _ = fs::rename(&old, target);
            return Err(failed(error));
        }
        // The rename is durable once the parent is synced; some systems cannot sync directories.
        let parent = self.work.path().parent().unwrap_or(Path::new("."));
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
        Ok(())
    }
}

/// Removes work directories with this prefix that are not locked. One that cannot be removed does no harm.
fn remove_abandoned(parent: &Path, prefix: &str) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A failure of the file system at `path`.
pub fn cannot(done: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "the disk is full: free some space, or choose another directory"
        }
        _ => "make it readable and writable, or choose another directory",
    };
    Error::BadFile {
        file: path.display().to_string(),
        problem: format!("cannot be {done}"),
        hint: Some(hint.into()),
        source: Some(error.into()),
    }
}
