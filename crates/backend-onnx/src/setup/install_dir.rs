//! The directory that the library is installed in: one set-up at a time, and files are moved into place when they are complete.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tandem_core::{CancelToken, Error, Result, lock};
use tempfile::{NamedTempFile, TempDir};

use super::{SetupEvent, wheel};

/// What temporary names in the library's directory begin with.
const WORK_PREFIX: &str = ".setup-";

/// The remedy for a full disk: it must hold a wheel, the library in it, and pip's temporary files.
pub(super) const NO_SPACE_HINT: &str = "about 100 MB are needed: make room, or set `TANDEM_CACHE` to a directory that has it";

/// The SHA-256 of the file at `path`, if there is one.
pub(super) fn sha256_at(path: &Path) -> Result<Option<String>> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => wheel::sha256_of(path).map(Some).map_err(|error| cannot("read", path, error)),
        Ok(_) => Err(Error::EngineLibrary {
            problem: format!("`{}` is where the library belongs, and is not a file", path.display()),
            hint: "move it away, and obtain the library again".into(),
            source: None,
        }),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(cannot("read", path, error)),
    }
}

/// The library's directory, locked against other set-ups until it is dropped.
pub(super) struct InstallDir {
    dir: PathBuf,
    /// The operating system releases the lock with the file, even if the process is killed.
    _lock: File,
}

impl InstallDir {
    /// Creates the directory of `library` and waits for other set-ups there to finish.
    pub(super) fn lock(library: &Path, progress: &mut dyn FnMut(SetupEvent<'_>)) -> Result<Self> {
        let dir = library.parent().expect("the library lies in a directory of the cache").to_path_buf();
        fs::create_dir_all(&dir).map_err(|error| cannot("make", &dir, error))?;
        let path = dir.join(".lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| cannot("write", &path, error))?;
        let mut waits = false;
        let mut waiting = || {
            if !std::mem::replace(&mut waits, true) {
                progress(SetupEvent::Waiting);
            }
        };
        // Without locks, the rename at the end is atomic anyway.
        lock::wait(|| file.try_lock(), &CancelToken::new(), &mut waiting, |error| cannot("lock", &path, error))?;
        Ok(Self { dir, _lock: file })
    }

    /// A new work directory beside the library; those that killed set-ups left behind are removed.
    pub(super) fn work_dir(&self) -> Result<TempDir> {
        let entries = fs::read_dir(&self.dir).map_err(|error| cannot("read", &self.dir, error))?;
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(WORK_PREFIX)) {
            fs::remove_dir_all(entry.path()).map_err(|error| cannot("remove", &entry.path(), error))?;
        }
        tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(&self.dir).map_err(|error| cannot("write", &self.dir, error))
    }

    /// Moves `file` to `path`, replacing what was there.
    pub(super) fn put(&self, file: NamedTempFile, path: &Path) -> Result<()> {
        let failed = |error| cannot("write", path, error);
        make_readable_by_all(file.as_file()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        // The rename is durable once the directory is synced.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

/// A failure of the cache, with its remedy.
pub(super) fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => NO_SPACE_HINT,
        _ => "make it readable and writable, or set `TANDEM_CACHE` to a directory that is",
    };
    Error::EngineLibrary { problem: format!("cannot {what} `{}`", path.display()), hint: hint.into(), source: Some(error.into()) }
}

/// A cache may be shared, but temporary files are created for their owner only.
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
