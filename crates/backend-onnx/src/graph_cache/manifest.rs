//! What the files of an entry must be: recorded when it is built and compared at each load, so that a damaged entry is built again.
//!
//! The graph is a small file and is hashed. The file of weights may take gigabytes, and only its length is compared.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tandem_core::Result;
use tandem_onnx_graph::{DATA_FILE, GRAPH_FILE};

use crate::export::cannot;
use crate::export::staging::MANIFEST;

/// Records the files of the entry in `directory`.
///
/// # Errors
/// [`Error::BadFile`](tandem_core::Error::BadFile) when it cannot be written.
pub(super) fn write(directory: &Path) -> Result<()> {
    let path = directory.join(MANIFEST);
    let write = || {
        let mut file = File::create_new(&path)?;
        file.write_all(describe(directory)?.to_string().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| cannot("written", &path, error))
}

/// Whether the files of the entry in `directory` are those that were recorded.
pub(super) fn matches(directory: &Path) -> bool {
    let recorded = fs::read(directory.join(MANIFEST)).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    recorded.is_some_and(|recorded| describe(directory).is_ok_and(|found| found == recorded))
}

fn describe(directory: &Path) -> io::Result<Value> {
    let graph = fs::read(directory.join(GRAPH_FILE))?;
    let weights = fs::metadata(directory.join(DATA_FILE))?.len();
    Ok(json!({ GRAPH_FILE: format!("{:x}", Sha256::digest(graph)), DATA_FILE: weights }))
}
