//! Writes the bytes of constants: into the graph's own file, or into another one at aligned offsets.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::plan::Location;
use super::weights::GoOn;
use super::{DATA_FILE, GRAPH_FILE};
use crate::error::{Error, Result};
use crate::graph::ExternalData;

/// Large constants are aligned to pages, so that mapping one does not touch another; small ones to cache lines.
const PAGE: u64 = 4096;
const LINE: u64 = 64;
/// Smaller constants stay in the graph: the engine needs shapes and axes before it opens other files.
const INLINE_BELOW: usize = 64;

/// Bytes that are written at a time.
const PART: usize = 8 << 20;

/// Takes constants in order.
pub(crate) trait Sink {
    fn put(&mut self, bytes: Vec<u8>, go_on: &GoOn<'_>) -> Result<Location>;
}

/// Everything into the graph's own file.
pub(super) struct Inline;

/// Everything but the smallest constants into a file of its own.
pub(super) struct External<W> {
    /// The file's name in messages.
    name: String,
    data: W,
    length: u64,
}

impl Sink for Inline {
    fn put(&mut self, bytes: Vec<u8>, _: &GoOn<'_>) -> Result<Location> {
        Ok(Location::Inline(bytes))
    }
}

impl<W: Write> External<W> {
    pub(super) fn new(name: String, data: W) -> Self {
        Self { name, data, length: 0 }
    }

    pub(super) fn into_inner(self) -> W {
        self.data
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.data.write_all(bytes).map_err(|source| Error::io(&self.name, "written", source))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

impl<W: Write> Sink for External<W> {
    fn put(&mut self, bytes: Vec<u8>, go_on: &GoOn<'_>) -> Result<Location> {
        if bytes.len() < INLINE_BELOW {
            return Ok(Location::Inline(bytes));
        }
        let alignment = if bytes.len() as u64 >= PAGE { PAGE } else { LINE };
        let offset = self.length.next_multiple_of(alignment);
        self.write(&vec![0; (offset - self.length) as usize])?;
        for part in bytes.chunks(PART) {
            go_on()?;
            self.write(part)?;
        }
        Ok(Location::External(ExternalData { location: DATA_FILE.into(), offset, length: Some(bytes.len() as u64) }))
    }
}

/// Creates `directory`, complete, from the data that `write` writes and the graph that it returns.
pub(super) fn write_directory(directory: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<Vec<u8>>) -> Result<()> {
    let name = directory.display().to_string();
    if directory.exists() {
        return Err(Error::bad_file(&name, "exists already").with_hint("remove it, or export to another directory"));
    }
    let failed = |source: io::Error| Error::io(&name, "written", source);
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755));
    let partial = builder.tempdir_in(parent).map_err(failed)?;
    let file = File::create_new(partial.path().join(DATA_FILE)).map_err(failed)?;
    let mut data = BufWriter::with_capacity(1 << 20, file);
    let graph = write(&mut data)?;
    let file = data.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    let mut file = File::create_new(partial.path().join(GRAPH_FILE)).map_err(failed)?;
    file.write_all(&graph).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(partial.path(), directory).map_err(failed)?;
    // It has been renamed: there is nothing left to remove.
    let _ = partial.keep();
    Ok(())
}
