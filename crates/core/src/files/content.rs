//! Reading a model's files: small ones whole and bounded, big ones mapped.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::ModelFile;
use crate::error::{Error, Result};
use crate::file_bytes::{FileBytes, bad, refuse_lfs_pointer, size, unreadable};

/// The most that a JSON file of a model may weigh, in bytes; for [`ModelFile::read`].
pub const MAX_JSON_BYTES: u64 = 16 << 20;

/// How much is hashed between two reports of progress, in bytes.
const HASH_BLOCK: usize = 1 << 20;

impl ModelFile {
    /// Its size in bytes; for a part of a GGUF that of the whole file.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it is not there or is not a file.
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
        refuse_lfs_pointer(&self.name(), &content)?;
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
            Self::Embedded { bytes, .. } => FileBytes::embedded(bytes),
            Self::Path(path) => return FileBytes::map(path),
            Self::Gguf { gguf, part, .. } => FileBytes::from(gguf.part(*part)?),
        };
        refuse_lfs_pointer(&self.name(), &bytes)?;
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

    fn not_text(&self, source: std::str::Utf8Error) -> Error {
        Error::bad_file(self.name(), "is not UTF-8 text", source)
    }
}
