//! The library's place in the cache: one set-up at a time, and a file gets its name only when it is whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tandem_core::{Error, Result};
use tempfile::{NamedTempFile, TempDir};

use super::{SetupEvent, wheel};

/// What temporary names in the library's directory begin with.
const WORK_PREFIX: &str = ".setup-";

/// The remedy for a disk that is full: a wheel, the library in it, and what the package client keeps meanwhile.
pub(super) const NO_SPACE_HINT: &str = "about 100 MB are needed: make room, or set `TANDEM_CACHE` to a directory that has it";

/// The SHA-256 of the file at `path`, if there is one.
pub(super) fn hash_in_place(path: &Path) -> Result<Option<String>> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => wheel::sha256_of(path).map(Some).map_err(|error| cannot("read", path, error)),
        Ok(_) => Err(Error::EngineLibrary {
            problem: format!("`{}` is in the library's place and is no file", path.display()),
            hint: "take it away, and obtain the library again".into(),
            source: None,
        }),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(cannot("read", path, error)),
    }
}

/// The library's directory, held against every other set-up until it is dropped.
pub(super) struct Place {
    dir: PathBuf,
    /// The operating system gives the lock back with the file, even of a process that was killed.
    _lock: File,
}

impl Place {
    /// Makes the directory of `library` and waits until no other set-up works there.
    pub(super) fn lock(library: &Path, progress: &mut dyn FnMut(SetupEvent<'_>)) -> Result<Self> {
        let dir = library.parent().expect("the library lies in a directory of the cache").to_path_buf();
        fs::create_dir_all(&dir).map_err(|error| cannot("make", &dir, error))?;
        let path = dir.join(".lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| cannot("write", &path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress(SetupEvent::Waiting);
                lock.lock().map_err(|error| cannot("lock", &path, error))?;
            }
            // Some network file systems know no locks. The rename at the end is atomic all the same.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &path, error)),
        }
        Ok(Self { dir, _lock: lock })
    }

    /// A new directory to work in, beside the library; those of set-ups that were killed go away.
    pub(super) fn work_dir(&self) -> Result<TempDir> {
        let entries = fs::read_dir(&self.dir).map_err(|error| cannot("read", &self.dir, error))?;
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(WORK_PREFIX)) {
            fs::remove_dir_all(entry.path()).map_err(|error| cannot("remove", &entry.path(), error))?;
        }
        tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(&self.dir).map_err(|error| cannot("write", &self.dir, error))
    }

    /// Gives `file` the name `path`, in place of what was there.
    pub(super) fn put(&self, file: NamedTempFile, path: &Path) -> Result<()> {
        let failed = |error| cannot("write", path, error);
        make_readable_by_all(file.as_file()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        // The name is safe only when the directory is.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

/// A failure of the cache, with what to do about it.
pub(super) fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => NO_SPACE_HINT,
        _ => "make it readable and writable, or set `TANDEM_CACHE` to a directory that is",
    };
    Error::EngineLibrary { problem: format!("cannot {what} `{}`", path.display()), hint: hint.into(), source: Some(error.into()) }
}

/// A cache may be shared; a temporary file is made for its owner alone.
fn make_readable_by_all(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}
