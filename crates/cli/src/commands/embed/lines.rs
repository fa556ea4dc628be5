//! Vectors as lines of JSON.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::row_file::{Layout, RowFile, name_whole, open_partial};
use super::rows::Row;

pub(super) struct LineFile {
    path: PathBuf,
    file: BufWriter<File>,
    layout: Layout,
    line: Vec<u8>,
    n_rows: usize,
}

impl LineFile {
    /// A new file, or one that `goes_on` behind its last whole line.
    pub(super) fn open(path: &Path, layout: Layout, goes_on: bool) -> io::Result<Self> {
        let mut file = open_partial(path, goes_on)?;
        let n_rows = if goes_on { find_end(&mut file)? } else { 0 };
        Ok(Self { path: path.into(), file: BufWriter::new(file), layout, line: Vec::new(), n_rows })
    }
}

impl RowFile for LineFile {
    fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        let text = row.text.filter(|_| self.layout.has_text);
        self.line.clear();
        Row { text, ..*row }.write_json(self.layout.precision, &mut self.line)?;
        self.n_rows += 1;
        self.file.write_all(&self.line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.file.flush()?;
        name_whole(&self.path, self.file.get_ref())
    }
}

/// Counts the whole lines, and cuts off what follows them: a process that is killed leaves a part of one.
fn find_end(file: &mut File) -> io::Result<usize> {
    let (mut reader, mut line, mut end, mut n_rows) = (BufReader::new(&*file), Vec::new(), 0, 0);
    while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        end += line.len() as u64;
        n_rows += 1;
        line.clear();
    }
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    Ok(n_rows)
}
