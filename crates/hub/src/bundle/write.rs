//! From the cache to a bundle.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use tandem_core::{CancelToken, Error, Progress, ProgressEvent, Remedy, Result};
use tar::{Builder, Header};

use super::{FILES, FileRow, MANIFEST, Manifest, VERSION};
use crate::cache::Tree;
use crate::content::{ContentHash, Hasher};
use crate::failure::cannot;
use crate::hub::{Hub, total};
use crate::pulled::{Pulled, PulledFile};
use crate::repository::Revision;

impl Hub {
    /// Writes what was pulled as `revision` to a bundle at `path`, which appears when it is whole. Contents are verified on the way; gives
    /// the bundle's size in bytes.
    ///
    /// # Errors
    /// [`Error::BadFile`] when something cannot be read or written or is damaged, and [`Error::Cancelled`].
    pub fn write_bundle(
        &self,
        pulled: &Pulled,
        revision: &Revision,
        path: &Path,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<u64> {
        let failed = |error| cannot("be written", path, error);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        crate::failure::check_space(directory, total(pulled.files.iter().map(|file| file.bytes)))?;
        let hashes = pulled.files.iter().map(|file| hash_of(file, cancel)).collect::<Result<Vec<_>>>()?;
        let tree = self.cache().repository(&pulled.repository).tree(&pulled.snapshot.commit);
        let row = |(file, hash): (&PulledFile, &ContentHash)| FileRow {
            name: file.name.clone(),
            bytes: file.bytes,
            hash: hash.digits().into(),
        };
        let manifest = Manifest {
            version: VERSION,
            repository: pulled.repository.to_string(),
            revision: revision.to_string(),
            commit: pulled.snapshot.commit.to_string(),
            files: pulled.files.iter().zip(&hashes).map(row).collect(),
            tree: tree.as_ref().and_then(Tree::new),
        };
        let temporary = tempfile::Builder::new().prefix(".tandem-").suffix(".partial").tempfile_in(directory).map_err(failed)?;
        let mut archive = Builder::new(temporary);
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        append(&mut archive, MANIFEST, text.len() as u64, &mut text.as_slice()).map_err(failed)?;
        for (file, hash) in pulled.files.iter().zip(&hashes) {
            add(&mut archive, file, hash, progress, cancel)?;
        }
        let temporary = archive.into_inner().map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist(path).map_err(|error| failed(error.error))?;
        fs::metadata(path).map(|metadata| metadata.len()).map_err(failed)
    }
}

/// By what name the hub knows a content; its SHA-256 where a cache without links does not say.
fn hash_of(file: &PulledFile, cancel: &CancelToken) -> Result<ContentHash> {
    if let Some(hash) = &file.hash {
        return Ok(hash.clone());
    }
    let any = ContentHash::Sha256(String::new());
    let hashes = any.hash_file(&file.path, cancel, &|_| ()).map_err(|error| cannot("be read", &file.path, error))?;
    hashes.map(|hashes| ContentHash::Sha256(hashes.sha256)).ok_or(Error::Cancelled)
}

fn add(
    archive: &mut Builder<tempfile::NamedTempFile>,
    file: &PulledFile,
    hash: &ContentHash,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<()> {
    let content = File::open(&file.path).map_err(|error| cannot("be read", &file.path, error))?;
    let tell = |done| progress.tell(&ProgressEvent::Hashing { file: &file.name, done, total: file.bytes });
    let mut reader = Hashed { content, hasher: hash.hasher(file.bytes), done: 0, tell: &tell, cancel };
    let appended = append(archive, &format!("{FILES}{}", file.name), file.bytes, &mut reader);
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    appended.map_err(|error| cannot("be put into the bundle", &file.path, error))?;
    if hash.is_of(&reader.hasher.finish()) {
        return Ok(());
    }
    Err(Error::BadFile {
        file: file.path.display().to_string(),
        problem: format!("is damaged: its hash is not `{hash}`"),
        hint: Some(Remedy::VerifyModels.into()),
        source: None,
    })
}

fn append(archive: &mut Builder<tempfile::NamedTempFile>, name: &str, n_bytes: u64, content: &mut dyn Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(n_bytes);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content)
}

/// A content that is hashed as it is read.
struct Hashed<'h> {
    content: File,
    hasher: Hasher,
    done: u64,
    tell: &'h dyn Fn(u64),
    cancel: &'h CancelToken,
}

impl Read for Hashed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let n = self.content.read(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.done += n as u64;
        (self.tell)(self.done);
        Ok(n)
    }
}
