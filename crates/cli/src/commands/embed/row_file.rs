//! A file of rows that is whole or not there: what every format has to be able to do, and the name of a file that is not whole yet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::rows::Row;
use crate::args::{Precision, VectorFormat};

/// What is written, and how.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) format: VectorFormat,
    pub(super) precision: Precision,
    pub(super) dimensions: usize,
    pub(super) has_text: bool,
    pub(super) has_chunks: bool,
}

/// Rows in a file of some format.
pub(super) trait RowFile {
    /// Rows that the next run finds when this one ends after [`flush`](Self::flush).
    fn n_rows(&self) -> usize;

    /// Appends a row.
    fn write(&mut self, row: &Row<'_>) -> io::Result<()>;

    /// Hands what was written to the system.
    fn flush(&mut self) -> io::Result<()>;

    /// Gives the whole file its name.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// The file that has the rows of `path` until they are whole, with `path`'s own rows where it was whole already; a new one unless the
/// work `goes_on`.
pub(super) fn open_partial(path: &Path, goes_on: bool) -> io::Result<fs::File> {
    let partial = beside(path, "partial");
    if !goes_on {
        return fs::File::create(partial);
    }
    if !partial.exists() {
        fs::rename(path, &partial)?;
    }
    fs::File::options().read(true).write(true).open(partial)
}

/// Gives the rows of `path` their name.
pub(super) fn name_whole(path: &Path, file: &fs::File) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(beside(path, "partial"), path)
}

/// The path with `.extension` behind its name.
pub(super) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}
