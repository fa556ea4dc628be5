//! Files and directories that are there whole or not at all.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::Value;

use crate::error::{Error, Result};

/// A tensor to write, in f32.
pub(super) struct Tensor<'v> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Cow<'v, [f32]>,
}

/// Creates the directory `target` from what `write` writes to the place that it is given; nothing is left of a failure.
///
/// # Errors
/// [`Error::BadFile`] when there is something at `target`, or it cannot be written; those of `write`.
pub(super) fn directory(target: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = prepare(target)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let partial = builder.tempdir_in(&parent).map_err(|error| failed(target, error))?;
    write(partial.path())?;
    fs::rename(partial.path(), target).map_err(|error| failed(target, error))?;
    // It has been renamed: there is nothing left to remove.
    let _ = partial.keep();
    Ok(())
}

/// As [`directory`], for one file.
pub(super) fn file(target: &Path, content: &[u8]) -> Result<()> {
    let parent = prepare(target)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut partial = builder.tempfile_in(&parent).map_err(|error| failed(target, error))?;
    partial.write_all(content).and_then(|()| partial.as_file().sync_all()).map_err(|error| failed(target, error))?;
    partial.persist_noclobber(target).map_err(|error| failed(target, error.error))?;
    Ok(())
}

/// Writes a safetensors file within a directory in progress.
pub(super) fn safetensors(path: &Path, tensors: &[Tensor<'_>], format: &str) -> Result<()> {
    let metadata = [("format".to_owned(), format.to_owned())].into();
    serialize_to_file(tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)), Some(metadata), path)
        .map_err(|error| Error::bad_file(path.to_string_lossy(), "cannot be written", error))?;
    sync(path)
}

/// Writes a JSON file within a directory in progress.
pub(super) fn json(path: &Path, value: &Value) -> Result<()> {
    stream(path, |file| writeln!(file, "{value:#}"))
}

/// Writes a file within a directory in progress.
pub(super) fn stream(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(|error| failed(path, error))?);
    write(&mut file).and_then(|()| file.flush()).map_err(|error| failed(path, error))?;
    sync(path)
}

/// The error for a file that cannot be written.
pub(super) fn failed(path: &Path, source: io::Error) -> Error {
    Error::bad_file(path.to_string_lossy(), "cannot be written", source)
}

impl View for &Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val::<[f32]>(&self.values)
    }
}

/// The directory that `target` is made in; refuses a target that is there.
fn prepare(target: &Path) -> Result<PathBuf> {
    if target.symlink_metadata().is_ok() {
        let hint = "remove it, or name another place";
        return Err(Error::BadFile {
            file: target.display().to_string(),
            problem: "exists already".into(),
            hint: Some(hint.into()),
            source: None,
        });
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| failed(target, error))?;
    Ok(parent.into())
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed(path, error))
}
