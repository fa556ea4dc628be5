//! What the files of an entry must be: recorded when it is made and compared at each load, so that a damaged entry is made again.
//!
//! The index is a small file and is hashed. The file of weights may take gigabytes, and only its length is compared.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::export::CachedKind;
use crate::staging::cannot;

/// The record.
pub(super) const FILE: &str = "manifest.json";

/// The key in it under which an entry is described.
const ABOUT: &str = "about";

/// The files of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFiles {
    /// A small file that says what is where in the other.
    pub index: &'static str,
    /// The weights.
    pub data: &'static str,
}

/// What an entry is, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What was made.
    pub kind: CachedKind,
    /// The checkpoint.
    pub source: String,
    /// The dtype of the weights.
    pub dtype: String,
}

/// Records the `files` of the entry in `directory`.
///
/// # Errors
/// [`Error::BadFile`](crate::Error::BadFile) when it cannot be written.
pub(super) fn write(directory: &Path, files: EntryFiles, about: &About) -> Result<()> {
    let path = directory.join(FILE);
    let write = || {
        let mut file = File::create_new(&path)?;
        let mut all = describe(directory, files)?;
        all.insert(ABOUT.into(), json!(about));
        file.write_all(Value::Object(all).to_string().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| cannot("written", &path, error))
}

/// Whether the `files` of the entry in `directory` are those that were recorded.
pub(super) fn matches(directory: &Path, files: EntryFiles) -> bool {
    let Some(mut recorded) = recorded(directory) else { return false };
    recorded.remove(ABOUT);
    describe(directory, files).is_ok_and(|found| found == recorded)
}

/// What was recorded of the entry in `directory` for people.
pub(super) fn about(directory: &Path) -> Option<About> {
    serde_json::from_value(recorded(directory)?.remove(ABOUT)?).ok()
}

fn recorded(directory: &Path) -> Option<Map<String, Value>> {
    serde_json::from_slice(&fs::read(directory.join(FILE)).ok()?).ok()
}

fn describe(directory: &Path, files: EntryFiles) -> io::Result<Map<String, Value>> {
    let index = fs::read(directory.join(files.index))?;
    let weights = fs::metadata(directory.join(files.data))?.len();
    let index = (files.index.into(), format!("{:x}", Sha256::digest(index)).into());
    Ok([index, (files.data.into(), weights.into())].into_iter().collect())
}
