//! The content of one file, mapped where it lies on the disk.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

/// What a file begins with when only Git LFS's stand-in was obtained.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The content of a file: mapped, part of the program, or in memory. Pages of a mapping are read when they are touched.
pub struct FileBytes(Bytes);

enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
    Owned(Vec<u8>),
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Bytes::Owned(bytes))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(mapped) => mapped,
            Bytes::Embedded(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl FileBytes {
    /// Maps the file at `path`, which may be larger than memory.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be read, is not a regular file, or is the stand-in that Git LFS leaves for one not downloaded.
    pub fn map(path: &Path) -> Result<Self> {
        let bytes = Self(Bytes::Mapped(map(path)?));
        refuse_lfs_pointer(&path.to_string_lossy(), &bytes)?;
        Ok(bytes)
    }

    /// Bytes that are part of the program.
    pub fn embedded(bytes: &'static [u8]) -> Self {
        Self(Bytes::Embedded(bytes))
    }

    /// Gives back the memory that a mapping's pages take. They are read again when they are touched.
    #[cfg_attr(
        unix,
        expect(unsafe_code, reason = "advice that drops pages is unsafe by nature: it loses what was written to them")
    )]
    pub fn release(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(mapped) = &self.0 {
            // SAFETY: nothing was written to the pages, since the mapping is read-only; they come again from the file as they were.
            // The system may refuse, and then they stay.
            let _ = unsafe { mapped.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBytes({} bytes)", self.len())
    }
}

/// The size of a regular file. Others are refused: to open a pipe would wait for its writer.
pub(crate) fn size(path: &Path) -> Result<u64> {
    let metadata = path.metadata().map_err(|source| unreadable(path, source))?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    Err(bad(
        &path.to_string_lossy(),
        if metadata.is_dir() { "is a directory, not a file" } else { "is not a regular file" },
        None,
    ))
}

/// Refuses the stand-in that Git LFS leaves for a file that was not downloaded.
pub(crate) fn refuse_lfs_pointer(file: &str, content: &[u8]) -> Result<()> {
    if !content.starts_with(LFS_POINTER) {
        return Ok(());
    }
    let hint = "run `git lfs pull` in the repository it came from, or download the file itself";
    Err(bad(file, "is a Git LFS pointer, not the file it stands for", Some(hint)))
}

#[expect(unsafe_code, reason = "a mapping is unsafe by nature: memmap2 has no safe way to make one")]
fn map(path: &Path) -> Result<Mmap> {
    size(path)?;
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    // SAFETY: the mapping is private and read-only, and model files are replaced by renaming, never written in place, by all of
    // Tandem. Another program that truncates the file while it is mapped ends this one with SIGBUS; that is accepted, as it is by
    // every loader that maps weights.
    unsafe { MmapOptions::new().map_copy_read_only(&file) }.map_err(|source| unreadable(path, source))
}

pub(crate) fn unreadable(path: &Path, source: io::Error) -> Error {
    let problem = match source.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => "is a link to a file that is not there",
        io::ErrorKind::NotFound => "is not there",
        io::ErrorKind::PermissionDenied => "may not be read",
        _ => "cannot be read",
    };
    Error::bad_file(path.to_string_lossy(), problem, source)
}

pub(crate) fn bad(file: &str, problem: impl Into<String>, hint: Option<&str>) -> Error {
    Error::BadFile { file: file.into(), problem: problem.into(), hint: hint.map(Into::into), source: None }
}
