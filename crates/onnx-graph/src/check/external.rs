//! Checks external data: it stays within its directory, and is as long as the tensors need.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::error::{At, Error, Result};
use crate::graph::ExternalData;

/// ONNX Runtime's prefix for data at a memory address; from a file it would read arbitrary memory. Source: `kTensorProtoMemoryAddressTag` in `onnxruntime/core/framework/tensorprotoutils.h`.
const MEMORY_MARK: &str = "_ORT_MEM_ADDR_";

/// The files beside a graph, each checked once.
pub(crate) struct Files {
    directory: PathBuf,
    sizes: BTreeMap<String, u64>,
}

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), sizes: BTreeMap::new() }
    }

    /// Checks the location of one tensor, whose `shape` takes `n_bytes`.
    pub(super) fn check(&mut self, file: &str, at: &At<'_>, data: &ExternalData, n_bytes: u64, shape: &str) -> Result<()> {
        let at = at.field("external_data");
        let size = match self.sizes.get(&data.location) {
            Some(size) => *size,
            None => {
                let (_, size) = resolve(&self.directory, &data.location)
                    .map_err(|problem| problem.into_error(file, &at.field("location"), &data.location))?;
                self.sizes.insert(data.location.clone(), size);
                size
            }
        };
        if let Some(length) = data.length.filter(|&length| length != n_bytes) {
            let problem = format!("`{length}` is not the size of {shape}, {n_bytes}");
            return Err(Error::bad_field(file, at.field("length"), problem));
        }
        if data.offset.checked_add(n_bytes).is_none_or(|end| end > size) {
            let problem = format!("`{}` plus {n_bytes} bytes exceeds the size of `{}`, {size} bytes", data.offset, data.location);
            return Err(
                Error::bad_field(file, at.field("offset"), problem).with_hint("download the file again: it may be cut short")
            );
        }
        Ok(())
    }
}

/// Why a location is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is not a valid location.
    Malformed(&'static str),
    /// It leads outside the directory.
    Outside(PathBuf),
    /// There is no such regular file.
    Missing(String),
}

impl Refusal {
    pub(crate) fn into_error(self, file: &str, at: &At<'_>, location: &str) -> Error {
        match self {
            Self::Malformed(problem) => Error::bad_field(file, at, format!("`{location}` {problem}")),
            Self::Outside(path) => {
                Error::bad_field(file, at, format!("`{location}` leads to `{}`, outside the graph's directory", path.display()))
                    .with_hint("put the file itself beside the graph")
            }
            Self::Missing(problem) => Error::bad_field(file, at, format!("`{location}` {problem}"))
                .with_hint("the graph's weights are in that file: download it beside the graph"),
        }
    }
}

/// The real path and size of the file at `location`, which must be within `directory` once links are resolved, or in the
/// blobs of the hub cache that `directory` belongs to.
pub(crate) fn resolve(directory: &Path, location: &str) -> Result<(PathBuf, u64), Refusal> {
    check_syntax(location)?;
    let missing = |problem: &str, error: std::io::Error| Refusal::Missing(format!("{problem}: {error}"));
    let directory = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let home = directory.canonicalize().map_err(|error| missing("is in a directory that cannot be found", error))?;
    let real = home.join(location).canonicalize().map_err(|error| missing("cannot be found", error))?;
    if !real.starts_with(&home) && !hub_blobs(&home).is_some_and(|blobs| real.starts_with(blobs)) {
        return Err(Refusal::Outside(real));
    }
    let metadata = real.metadata().map_err(|error| missing("cannot be read", error))?;
    if !metadata.is_file() {
        return Err(Refusal::Missing("is not a regular file".into()));
    }
    Ok((real, metadata.len()))
}

fn check_syntax(location: &str) -> Result<(), Refusal> {
    if location.is_empty() {
        return Err(Refusal::Malformed("is not a file name"));
    }
    if location.contains(MEMORY_MARK) {
        return Err(Refusal::Malformed("is a memory address, which is invalid in a file"));
    }
    if location.contains(['\0', '\\']) {
        return Err(Refusal::Malformed("contains a character that is invalid in a file name"));
    }
    if Path::new(location).components().all(|component| matches!(component, Component::Normal(_))) {
        return Ok(());
    }
    Err(Refusal::Malformed("is not a path within the graph's directory"))
}

/// `<repository>/blobs`, where `<repository>/snapshots/<revision>/…` keeps its content. The layout is that of the hub's own
/// cache: every file of a snapshot is a link to a blob.
fn hub_blobs(home: &Path) -> Option<PathBuf> {
    let snapshots = home.ancestors().skip(1).find(|path| path.file_name().is_some_and(|name| name == "snapshots"))?;
    snapshots.with_file_name("blobs").canonicalize().ok()
}
