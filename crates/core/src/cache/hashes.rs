//! Remembers the hashes of files between runs: hashing gigabytes takes longer than loading them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::backend::LoadOptions;
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::files::{MAX_JSON_BYTES, ModelFile};
use crate::progress::{Progress, ProgressEvent};
use serde_json::{Map, Value, json};

/// A file that changed more recently may change again without a new modification time.
const SETTLED: Duration = Duration::from_secs(2);

/// The SHA-256 of each of `files`: those remembered in `entries`, a [`directory`](super::directory), and of changed files those of their content.
///
/// # Errors
/// As [`hash`].
pub fn remembered_hashes<'f>(
    entries: &Path,
    files: impl IntoIterator<Item = &'f ModelFile>,
    options: &LoadOptions,
) -> Result<Vec<String>> {
    let mut remembered = Hashes::open(entries.join("hashes.json"));
    let hashes = files.into_iter().map(|file| remembered.sha256(file, &options.progress, &options.cancel));
    let hashes = hashes.collect::<Result<_>>()?;
    remembered.save();
    Ok(hashes)
}

/// The SHA-256 of a file's content.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be read, and [`Error::Cancelled`].
pub fn hash(file: &ModelFile, progress: &Progress, cancel: &CancelToken) -> Result<String> {
    let (name, total) = (file.file_name(), file.len()?);
    file.sha256_while(&mut |done| {
        progress.tell(&ProgressEvent::Hashing { file: name, done, total });
        if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    })
}

/// Hashes by canonical path, each valid for one size, modification time and inode state.
struct Hashes {
    file: PathBuf,
    known: Map<String, Value>,
    changed: bool,
}

impl Hashes {
    /// Reads the hashes remembered in `file`; none if it is missing or damaged.
    fn open(file: PathBuf) -> Self {
        let read = ModelFile::Path(file.clone()).read(MAX_JSON_BYTES).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { file, known: read.unwrap_or_default(), changed: false }
    }

    /// The SHA-256 of `of`'s content: remembered, or read. The name of a blob in a hub cache is not trusted: what lies under it may be
    /// damaged, or come from elsewhere.
    ///
    /// # Errors
    /// As [`hash`].
    fn sha256(&mut self, of: &ModelFile, progress: &Progress, cancel: &CancelToken) -> Result<String> {
        let Some(path) = of.path().and_then(|path| path.canonicalize().ok()) else { return hash(of, progress, cancel) };
        let (key, stamp) = (path.to_string_lossy().into_owned(), stamp(&path));
        let known = self.known.get(&key).filter(|known| stamp.is_some() && known.get("stamp") == stamp.as_ref());
        let known = known.and_then(|known| known.get("sha256")?.as_str()).filter(|hash| is_sha256(hash));
        if let Some(hash) = known {
            return Ok(hash.into());
        }
        let hash = hash(of, progress, cancel)?;
        // A file that changed in the meantime is not remembered.
        if stamp.is_some() && self::stamp(&path) == stamp {
            self.known.insert(key, json!({ "stamp": stamp, "sha256": hash }));
            self.changed = true;
        }
        Ok(hash)
    }

    /// Writes new hashes and drops those of deleted files. If that fails, files are hashed again the next time.
    fn save(mut self) {
        if !self.changed {
            return;
        }
        self.known.retain(|path, _| Path::new(path).exists());
        let Some(directory) = self.file.parent() else { return };
        let write = || {
            fs::create_dir_all(directory)?;
            let mut file = tempfile::Builder::new().prefix(".hashes-").tempfile_in(directory)?;
            file.write_all(&serde_json::to_vec(&self.known)?)?;
            file.persist(&self.file)?;
            std::io::Result::Ok(())
        };
        let _ = write();
    }
}

/// What distinguishes contents of a file: size, modification time in nanoseconds, inode, and the time of the inode's last change, which
/// programs cannot set. `None` for a file that has just changed.
fn stamp(path: &Path) -> Option<Value> {
    let metadata = path.metadata().ok()?;
    let modified = metadata.modified().ok()?;
    SystemTime::now().duration_since(modified).ok().filter(|age| *age >= SETTLED)?;
    let nanoseconds = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
    #[cfg(unix)]
    let inode = {
        use std::os::unix::fs::MetadataExt;
        [metadata.ino().cast_signed(), metadata.ctime(), metadata.ctime_nsec()]
    };
    #[cfg(not(unix))]
    let inode = [0; 3];
    Some(json!([metadata.len(), nanoseconds.to_string(), inode]))
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        n_reads: Arc<AtomicUsize>,
    }

    impl Fixture {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), n_reads: Arc::default() }
        }

        /// Writes `content`, last modified `age` ago.
        fn write(&self, name: &str, content: &str, age: Duration) -> ModelFile {
            let path = self.dir.path().join(name);
            fs::write(&path, content).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
            ModelFile::Path(path)
        }

        /// The hash as a new run computes it, and whether the file was read for it.
        fn hash(&self, file: &ModelFile) -> (String, bool) {
            let n_reads = Arc::clone(&self.n_reads);
            let progress = Progress::new(move |_| {
                n_reads.fetch_add(1, Ordering::SeqCst);
            });
            let before = self.n_reads.load(Ordering::SeqCst);
            let mut hashes = Hashes::open(self.dir.path().join("hashes.json"));
            let hash = hashes.sha256(file, &progress, &CancelToken::new()).unwrap();
            hashes.save();
            (hash, self.n_reads.load(Ordering::SeqCst) > before)
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn hash_is_remembered_until_the_file_changes() {
        let fixture = Fixture::new();
        let file = fixture.write("a", "abc", HOUR);
        assert_eq!(fixture.hash(&file), (ABC.into(), true));
        assert_eq!(fixture.hash(&file), (ABC.into(), false));
        // The same size, another content.
        let file = fixture.write("a", "abd", HOUR / 2);
        let (hash, read) = fixture.hash(&file);
        assert!(read && hash != ABC);
        fs::write(fixture.dir.path().join("hashes.json"), "{ damaged").unwrap();
        assert_eq!(fixture.hash(&file), (hash.clone(), true));
        assert_eq!(fixture.hash(&file), (hash, false));
    }

    #[cfg(unix)]
    #[test]
    fn content_with_a_forged_modification_time_is_hashed_again() {
        let fixture = Fixture::new();
        let file = fixture.write("a", "abc", HOUR);
        let modified = file.path().unwrap().metadata().unwrap().modified().unwrap();
        fixture.hash(&file);
        fs::write(file.path().unwrap(), "abd").unwrap();
        fs::File::options().write(true).open(file.path().unwrap()).unwrap().set_modified(modified).unwrap();
        assert_ne!(fixture.hash(&file).0, ABC);
    }

    #[test]
    fn hash_of_a_just_changed_file_is_not_remembered() {
        let fixture = Fixture::new();
        let file = fixture.write("a", "abc", Duration::ZERO);
        assert_eq!(fixture.hash(&file), (ABC.into(), true));
        assert_eq!(fixture.hash(&file), (ABC.into(), true));
    }

    #[test]
    fn hashes_of_deleted_files_are_dropped() {
        let fixture = Fixture::new();
        let gone = fixture.write("gone", "abc", HOUR);
        fixture.hash(&gone);
        fs::remove_file(gone.path().unwrap()).unwrap();
        fixture.hash(&fixture.write("other", "abc", HOUR));
        let remembered = fs::read_to_string(fixture.dir.path().join("hashes.json")).unwrap();
        assert!(remembered.contains("other") && !remembered.contains("gone"), "{remembered}");
    }

    #[test]
    fn content_is_hashed_whatever_the_name_of_the_blob() {
        let fixture = Fixture::new();
        fs::create_dir(fixture.dir.path().join("blobs")).unwrap();
        let blob = fixture.write(&format!("blobs/{}", "0123456789abcdef".repeat(4)), "abc", HOUR);
        assert_eq!(fixture.hash(&blob), (ABC.into(), true));
        assert_eq!(fixture.hash(&blob), (ABC.into(), false));
    }
}
