//! Reading a model's files: small ones whole and bounded, big ones mapped.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::ModelFile;
use crate::error::{Error, Result};

/// The most that a JSON file of a model may weigh, in bytes; for [`ModelFile::read`].
pub const MAX_JSON_BYTES: u64 = 16 << 20;

/// How much is hashed between two reports of progress, in bytes.
const HASH_BLOCK: usize = 1 << 20;

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

impl ModelFile {
    /// Its size in bytes; for a part of a GGUF that of the whole file.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it is not there or is no file.
    pub fn len(&self) -> Result<u64> {
        match self {
            Self::Path(path) => size(path),
            Self::Embedded { bytes, .. } => Ok(bytes.len() as u64),
            // It is made when it is read; what it lies in has a size.
            Self::Gguf { path, .. } => size(path),
        }
    }

    /// Whether it has no content.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Its whole content, when that is no more than `limit` bytes.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be read, is larger, or is the stand-in that Git LFS leaves for a file not downloaded.
    pub fn read(&self, limit: u64) -> Result<Cow<'_, [u8]>> {
        let too_large = || bad(&self.name(), format!("is larger than the {limit} bytes that are read"), None);
        if let Self::Gguf { gguf, part, .. } = self {
            let content = gguf.part(*part)?;
            return if content.len() as u64 > limit { Err(too_large()) } else { Ok(Cow::Owned(content)) };
        }
        let expected = self.len()?;
        if expected > limit {
            return Err(too_large());
        }
        let content = match self {
            Self::Embedded { bytes, .. } => Cow::Borrowed(*bytes),
            Self::Path(path) | Self::Gguf { path, .. } => {
                let file = File::open(path).map_err(|source| unreadable(path, source))?;
                let mut content = Vec::with_capacity(expected as usize);
                // One byte more than allowed shows a file that grew since it was measured.
                file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(|source| unreadable(path, source))?;
                Cow::Owned(content)
            }
        };
        if content.len() as u64 > limit {
            return Err(too_large());
        }
        self.refuse_lfs_pointer(&content)?;
        Ok(content)
    }

    /// Its whole content as text, when that is UTF-8 of no more than `limit` bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_text(&self, limit: u64) -> Result<Cow<'_, str>> {
        match self.read(limit)? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|source| self.not_text(source)),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|source| self.not_text(source.utf8_error())),
        }
    }

    /// Maps it; for weights and graphs, which may be larger than memory.
    ///
    /// # Errors
    /// As [`read`](Self::read), without its limit.
    pub fn map(&self) -> Result<FileBytes> {
        let bytes = match self {
            Self::Embedded { bytes, .. } => FileBytes(Bytes::Embedded(bytes)),
            Self::Path(path) => FileBytes(Bytes::Mapped(map(path)?)),
            Self::Gguf { gguf, part, .. } => FileBytes::from(gguf.part(*part)?),
        };
        self.refuse_lfs_pointer(&bytes)?;
        Ok(bytes)
    }

    /// The sha256 of its content in lower-case hexadecimal, read as a stream. `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be read.
    pub fn sha256(&self, progress: &mut dyn FnMut(u64)) -> Result<String> {
        self.sha256_while(&mut |n_bytes| {
            progress(n_bytes);
            Ok(())
        })
    }

    /// As [`sha256`](Self::sha256), for as long as `progress` lets it go on.
    ///
    /// # Errors
    /// As [`sha256`](Self::sha256), and what `progress` gives.
    pub fn sha256_while(&self, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<String> {
        let mut hasher = Sha256::new();
        let mut n_bytes = 0;
        match self {
            Self::Embedded { bytes, .. } => {
                hasher.update(bytes);
                progress(bytes.len() as u64)?;
            }
            Self::Gguf { gguf, part, .. } => {
                let bytes = gguf.part(*part)?;
                hasher.update(&bytes);
                progress(bytes.len() as u64)?;
            }
            Self::Path(path) => {
                size(path)?;
                let mut file = File::open(path).map_err(|source| unreadable(path, source))?;
                let mut block = vec![0; HASH_BLOCK];
                loop {
                    let n = match file.read(&mut block) {
                        Ok(0) => break,
                        Ok(n) => n,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(unreadable(path, error)),
                    };
                    hasher.update(&block[..n]);
                    n_bytes += n as u64;
                    progress(n_bytes)?;
                }
            }
        }
        Ok(format!("{:x}", hasher.finalize()))
    }

    fn refuse_lfs_pointer(&self, content: &[u8]) -> Result<()> {
        if !content.starts_with(LFS_POINTER) {
            return Ok(());
        }
        let hint = "run `git lfs pull` in the repository it came from, or download the file itself";
        Err(bad(&self.name(), "is a Git LFS pointer, not the file it stands for", Some(hint)))
    }

    fn not_text(&self, source: std::str::Utf8Error) -> Error {
        Error::bad_file(self.name(), "is not UTF-8 text", source)
    }
}

/// The size of a regular file. Others are refused: to open a pipe would wait for its writer.
fn size(path: &Path) -> Result<u64> {
    let metadata = path.metadata().map_err(|source| unreadable(path, source))?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    Err(bad(&path.to_string_lossy(), if metadata.is_dir() { "is a directory, not a file" } else { "is no regular file" }, None))
}

#[expect(unsafe_code, reason = "a mapping is unsafe by nature: memmap2 has no safe way to make one")]
fn map(path: &Path) -> Result<Mmap> {
    size(path)?;
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    // SAFETY: the mapping is private and read-only, and model files are replaced by renaming, never written in place, by all of
    // Tandem. Another program that truncates the file while it is mapped ends this one with SIGBUS; that is accepted, as it is by
    // every loader that maps weights.
    unsafe { Mmap::map(&file) }.map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    let problem = match source.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => "is a link to a file that is not there",
        io::ErrorKind::NotFound => "is not there",
        io::ErrorKind::PermissionDenied => "may not be read",
        _ => "cannot be read",
    };
    Error::bad_file(path.to_string_lossy(), problem, source)
}

fn bad(file: &str, problem: impl Into<String>, hint: Option<&str>) -> Error {
    Error::BadFile { file: file.into(), problem: problem.into(), hint: hint.map(Into::into), source: None }
}
