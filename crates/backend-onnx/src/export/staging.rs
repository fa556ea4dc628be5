//! A directory that gets its name when it is whole.
//!
//! The work is done beside the target, in `.<name>.partial-<random>`, which holds a lock for as long as the process lives. What a
//! killed process left is told from what another works on by that lock, and is removed by the next export to the same place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tandem_core::{Error, Remedies, Remedy, Result};
use tandem_onnx_graph::{DATA_FILE, GRAPH_FILE};
use tempfile::TempDir;

use super::{cannot, genai};

/// The file in a directory of work that is locked.
const LOCK: &str = "lock";

/// What an export writes: only a directory of nothing else is replaced.
const WRITTEN: [&str; 8] = [
    GRAPH_FILE,
    DATA_FILE,
    genai::FILE,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// A directory in the making; dropped before it is published, it is gone.
pub(super) struct Staging {
    target: PathBuf,
    work: TempDir,
    /// The system gives the lock back with the file, even of a process that was killed.
    _lock: File,
}

/// Whether a directory can be made at `target`, or may be replaced.
///
/// # Errors
/// [`Error::BadFile`] when something is there: a file, or a directory that is not empty and, with `replace`, not an earlier export.
pub(super) fn check_target(target: &Path, replace: bool) -> Result<()> {
    let refuse = |problem: String, hint: Remedies| {
        Err(Error::BadFile { file: target.display().to_string(), problem, hint: Some(hint), source: None })
    };
    if target.file_name().is_none() {
        return refuse("has no name of its own".into(), "name the directory that is to be made".into());
    }
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return refuse("is there and is no directory".into(), "choose another directory".into());
        }
        Err(error) => return Err(cannot("read", target, error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>();
    let names = names.map_err(|error| cannot("read", target, error))?;
    if names.is_empty() {
        return Ok(());
    }
    if !replace {
        return refuse("is there and is not empty".into(), ["choose another directory".into(), Remedy::ReplaceExport].into());
    }
    match names.iter().filter(|name| !WRITTEN.contains(&name.as_str())).min() {
        None => Ok(()),
        Some(name) => refuse(
            format!("holds `{name}`, which no export wrote, so it is not replaced"),
            "choose another directory, or remove this one yourself".into(),
        ),
    }
}

impl Staging {
    /// Begins a directory that is to be called `target`; what killed processes left of it goes away.
    ///
    /// # Errors
    /// [`Error::BadFile`] when nothing can be written there.
    pub(super) fn new(target: &Path) -> Result<Self> {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| cannot("made", parent, error))?;
        let prefix = format!(".{}.partial-", target.file_name().unwrap_or_default().to_string_lossy());
        remove_abandoned(parent, &prefix);
        let failed = |error| cannot("written", parent, error);
        let work = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(failed)?;
        let lock = File::create_new(work.path().join(LOCK)).map_err(failed)?;
        // Where there are no locks, what is left behind stays.
        let _ = lock.try_lock();
        Ok(Self { target: target.into(), work, _lock: lock })
    }

    /// Where the directory is made; it is not there yet.
    pub(super) fn directory(&self) -> PathBuf {
        self.work.path().join("export")
    }

    /// Gives the directory its name.
    ///
    /// # Errors
    /// As [`check_target`], and when it cannot be renamed; what was there before is there then.
    pub(super) fn publish(self, replace: bool) -> Result<()> {
        let target = &self.target;
        let failed = |error| cannot("written", target, error);
        check_target(target, replace)?;
        let replaced = self.work.path().join("replaced");
        if target.exists() {
            fs::rename(target, &replaced).map_err(failed)?;
        }
        if let Err(error) = fs::rename(self.directory(), target) {
            // Nothing can be done when this fails as well.
            let _ = fs::rename(&replaced, target);
            return Err(failed(error));
        }
        // The name is safe only when its directory is; some systems cannot be asked.
        let parent = self.work.path().parent().unwrap_or(Path::new("."));
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
        Ok(())
    }
}

/// Removes what begins with `prefix` and is locked by nobody. What cannot be removed is in nobody's way.
fn remove_abandoned(parent: &Path, prefix: &str) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
