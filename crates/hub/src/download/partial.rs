//! A content on its way: appended to, hashed as it grows, and renamed when it is whole and right.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tandem_core::{CancelToken, Error, Result};

use super::Target;
use crate::content::Hasher;
use crate::failure::cannot;

/// `<hash>.incomplete`. Whoever has it holds the lock of its hash.
pub(crate) struct Partial<'t> {
    path: PathBuf,
    file: File,
    target: &'t Target,
    hasher: Hasher,
    n_bytes: u64,
}

impl<'t> Partial<'t> {
    /// Opens what an earlier download left, or begins anew; one that is longer than the file is not a part of it. `progress` is told how much of
    /// it was read.
    pub(crate) fn open(path: PathBuf, target: &'t Target, cancel: &CancelToken, progress: &dyn Fn(u64)) -> Result<Self> {
        let open = || {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            File::options().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let mut file = open().map_err(|error| cannot("be written", &path, error))?;
        let mut hasher = target.hash.hasher(target.bytes);
        let mut read = || {
            if file.metadata()?.len() > target.bytes {
                file.set_len(0)?;
            }
            hasher.read(&mut file, target.bytes, cancel, progress)
        };
        let n_bytes = read().map_err(|error| cannot("be read", &path, error))?.ok_or(Error::Cancelled)?;
        Ok(Self { path, file, target, hasher, n_bytes })
    }

    /// How much is there.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.n_bytes == self.target.bytes
    }

    /// How much more the file may have.
    pub(crate) fn missing(&self) -> u64 {
        self.target.bytes - self.n_bytes
    }

    /// Forgets all of it.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.hasher = self.target.hash.hasher(self.target.bytes);
        self.n_bytes = 0;
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| cannot("be emptied", &self.path, error))
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`Error::BadFile`] with the bytes that have no room. What was written before counts.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // Some of it may have been written, and counts for nothing.
            let _ = self.file.set_len(self.n_bytes).and_then(|()| self.file.seek(SeekFrom::Start(self.n_bytes)));
            return Err(self.no_room(error));
        }
        self.hasher.update(bytes);
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Whether the whole content is the one that is meant. One that is not is gone after this.
    pub(crate) fn is_right(&mut self) -> Result<bool> {
        let hasher = std::mem::replace(&mut self.hasher, self.target.hash.hasher(self.target.bytes));
        let is_right = self.target.hash.is_of(&hasher.finish());
        if !is_right {
            self.restart()?;
        }
        Ok(is_right)
    }

    /// Gives it its name, when it is safe on the disk.
    pub(crate) fn publish(self, blob: &Path) -> Result<()> {
        let failed = |error| cannot("be written", blob, error);
        let on_disk = self.file.metadata().map_err(failed)?.len();
        if on_disk != self.target.bytes {
            // Where locks do not hold, another process works on the same file.
            return Err(failed(io::Error::other(format!("it has {on_disk} bytes in the place of {}", self.target.bytes))));
        }
        self.file.sync_all().map_err(|error| self.no_room(error))?;
        fs::rename(&self.path, blob).map_err(failed)?;
        // The name is safe only when its directory is; some systems cannot be asked.
        let _ = File::open(blob.parent().unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all());
        Ok(())
    }

    fn no_room(&self, error: io::Error) -> Error {
        let missing = self.target.bytes - self.n_bytes;
        let is_full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge);
        Error::BadFile {
            file: self.path.display().to_string(),
            problem: format!(
                "cannot be written beyond {} bytes; {missing} more are needed for `{}`",
                self.n_bytes, self.target.name
            ),
            hint: is_full.then(|| {
                "make room, or raise the limit, and ask again: what was downloaded is kept. `HF_HUB_CACHE` can be on another disk".into()
            }),
            source: Some(error.into()),
        }
    }
}
