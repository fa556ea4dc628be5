//! Vectors as an array of NumPy's, `[rows, dimensions]`. What texts were divided into is a second one beside it: `[rows, 4]`, whose rows are
//! the number of the text, that of the chunk, its first character, and the first behind it.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::row_file::{Layout, RowFile, beside, name_whole, open_partial};
use super::rows::{Part, Row};

/// Bytes before the rows of a `.npy` file: enough for a header of any number of rows, and a multiple of 64 as NumPy has it.
const HEADER: usize = 128;

/// What stands behind the name of an array for the one that has its chunks.
const CHUNKS: &str = "chunks.npy";

pub(super) struct ArrayFile {
    layout: Layout,
    vectors: Array,
    chunks: Option<Array>,
    row: Vec<u8>,
}

/// One `.npy` file.
struct Array {
    path: PathBuf,
    file: BufWriter<File>,
    kind: Kind,
    n_rows: usize,
}

/// What an array consists of.
#[derive(Clone, Copy)]
struct Kind {
    /// NumPy's name for its type.
    descr: &'static str,
    /// Values of a row.
    width: usize,
    row_bytes: usize,
}

impl ArrayFile {
    /// A new file, or one that `goes_on` behind its last whole row.
    pub(super) fn open(path: &Path, layout: Layout, goes_on: bool) -> io::Result<Self> {
        let Layout { precision, dimensions, .. } = layout;
        let kind =
            Kind { descr: precision.numpy(), width: precision.width(dimensions), row_bytes: precision.row_bytes(dimensions) };
        let beside = beside(path, CHUNKS);
        let mut vectors = Array::open(path, kind, goes_on)?;
        let mut chunks = None;
        if layout.has_chunks {
            let mut array = Array::open(&beside, Kind { descr: "<i8", width: 4, row_bytes: 32 }, goes_on)?;
            // Either may have more rows than the other when the process was killed.
            let n_rows = vectors.n_rows.min(array.n_rows);
            vectors.keep(n_rows)?;
            array.keep(n_rows)?;
            chunks = Some(array);
        } else if !goes_on && beside.exists() {
            // Of the file that this one replaces.
            std::fs::remove_file(beside)?;
        }
        Ok(Self { layout, vectors, chunks, row: Vec::new() })
    }
}

impl RowFile for ArrayFile {
    fn n_rows(&self) -> usize {
        self.vectors.n_rows
    }

    fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.row.clear();
        self.layout.precision.write(row.vector, &mut self.row);
        self.vectors.push(&self.row)?;
        if let (Some(chunks), Some(Part { chunk, start, end })) = (&mut self.chunks, row.part) {
            self.row.clear();
            [row.index, chunk, start, end].iter().for_each(|number| self.row.extend((*number as u64).to_le_bytes()));
            chunks.push(&self.row)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.vectors.file.flush()?;
        self.chunks.as_mut().map_or(Ok(()), |chunks| chunks.file.flush())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        // A whole array has its chunks beside it.
        self.chunks.map_or(Ok(()), Array::finish)?;
        self.vectors.finish()
    }
}

impl Array {
    fn open(path: &Path, kind: Kind, goes_on: bool) -> io::Result<Self> {
        let file = open_partial(path, goes_on)?;
        let rows = file.metadata()?.len().saturating_sub(HEADER as u64) / kind.row_bytes.max(1) as u64;
        let n_rows = usize::try_from(rows).map_err(io::Error::other)?;
        let mut array = Self { path: path.into(), file: BufWriter::new(file), kind, n_rows };
        array.keep(n_rows)?;
        Ok(array)
    }

    /// Cuts off what follows the first `n_rows`: a process that is killed leaves a part of a row, or of the header.
    fn keep(&mut self, n_rows: usize) -> io::Result<()> {
        self.n_rows = n_rows;
        let end = HEADER as u64 + n_rows as u64 * self.kind.row_bytes as u64;
        self.file.get_ref().set_len(end)?;
        self.write_header()?;
        self.file.seek(SeekFrom::Start(end)).map(|_| ())
    }

    fn push(&mut self, row: &[u8]) -> io::Result<()> {
        self.n_rows += 1;
        self.file.write_all(row)
    }

    fn finish(mut self) -> io::Result<()> {
        self.write_header()?;
        self.file.flush()?;
        name_whole(&self.path, self.file.get_ref())
    }

    /// The first bytes of a `.npy` file, version 1.0 (`numpy/lib/format.py`), padded so that it has one size for any number of rows.
    fn write_header(&mut self) -> io::Result<()> {
        let Kind { descr, width, .. } = self.kind;
        let shape = format!("({}, {width})", self.n_rows);
        let described = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        header.extend(((HEADER - 10) as u16).to_le_bytes());
        header.extend(described.bytes());
        header.resize(HEADER - 1, b' ');
        header.push(b'\n');
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)
    }
}
