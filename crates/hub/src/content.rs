//! By what name the hub knows a content, and whether a content is the one that is meant.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use tandem_core::CancelToken;

/// How much of a file is read at once.
const CHUNK: usize = 256 << 10;

/// The name of a content: a large file's SHA-256, or a small one's name in git, which is the SHA-1 of `blob <length>\0` and the
/// content. The hub gives it as the file's `ETag`, and the cache calls the file so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ContentHash {
    /// Of a file in large-file storage.
    Sha256(String),
    /// Of a file in git.
    GitSha1(String),
}

/// Computes hashes as content comes.
pub struct Hasher {
    sha256: Sha256,
    git: Option<Sha1>,
}

/// The hashes of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// Always.
    pub sha256: String,
    /// Where it was asked for.
    pub git: Option<String>,
}

impl ContentHash {
    /// The digits.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitSha1(digits) => digits,
        }
    }

    /// Whether it is the hash of the content with these.
    pub fn is_of(&self, hashes: &Hashes) -> bool {
        match self {
            Self::Sha256(digits) => *digits == hashes.sha256,
            Self::GitSha1(digits) => hashes.git.as_ref() == Some(digits),
        }
    }

    /// Whether no content can have both: they are of one kind, and differ.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self != other
    }

    /// What computes the hashes of a content of `n_bytes` that is compared with this.
    pub fn hasher(&self, n_bytes: u64) -> Hasher {
        let git = matches!(self, Self::GitSha1(_)).then(|| Sha1::new_with_prefix(format!("blob {n_bytes}\0")));
        Hasher { sha256: Sha256::new(), git }
    }

    /// The hashes of the file at `path`; `progress` is told the bytes read so far. `Ok(None)` when it was cancelled.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn hash_file(&self, path: &Path, cancel: &CancelToken, progress: &dyn Fn(u64)) -> io::Result<Option<Hashes>> {
        let mut file = File::open(path)?;
        let mut hasher = self.hasher(file.metadata()?.len());
        let read = hasher.read(&mut file, u64::MAX, cancel, progress)?;
        Ok(read.map(|_| hasher.finish()))
    }
}

impl FromStr for ContentHash {
    type Err = ();

    /// Reads an `ETag`: quoted or not, weak or not.
    fn from_str(etag: &str) -> Result<Self, ()> {
        let digits = etag.trim().trim_start_matches("W/").trim_matches('"');
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match digits.len() {
            64 if is_hex => Ok(Self::Sha256(digits.into())),
            40 if is_hex => Ok(Self::GitSha1(digits.into())),
            _ => Err(()),
        }
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digits())
    }
}

impl Hasher {
    /// Takes more of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
    }

    /// Takes what `reader` has, at most `n_bytes`; gives how many there were, or `None` when it was cancelled.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(
        &mut self,
        reader: &mut dyn Read,
        n_bytes: u64,
        cancel: &CancelToken,
        progress: &dyn Fn(u64),
    ) -> io::Result<Option<u64>> {
        let mut reader = reader.take(n_bytes);
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        loop {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(Some(done)),
                Ok(n) => {
                    self.update(&chunk[..n]);
                    done += n as u64;
                    progress(done);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The hashes of all that was taken.
    pub fn finish(self) -> Hashes {
        Hashes { sha256: format!("{:x}", self.sha256.finalize()), git: self.git.map(|git| format!("{:x}", git.finalize())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_the_names_that_git_and_sha256sum_give() {
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`.
        let git = ContentHash::GitSha1("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".into());
        let sha256 = ContentHash::Sha256("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".into());
        for hash in [git, sha256] {
            let mut hasher = hash.hasher(5);
            hasher.update(b"hel");
            hasher.update(b"lo");
            assert!(hash.is_of(&hasher.finish()));
            let mut other = hash.hasher(5);
            other.update(b"hellp");
            assert!(!hash.is_of(&other.finish()));
        }
    }

    #[test]
    fn only_hashes_are_names() {
        let forty = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        for etag in [forty.to_owned(), format!("\"{forty}\""), format!("W/\"{forty}\"")] {
            assert_eq!(etag.parse(), Ok(ContentHash::GitSha1(forty.into())));
        }
        for bad in ["", "\"\"", "../../etc/passwd", "abc", &forty[1..], &forty.to_uppercase(), &format!("../{}", &forty[3..])] {
            assert_eq!(bad.parse::<ContentHash>(), Err(()), "{bad}");
        }
    }
}
