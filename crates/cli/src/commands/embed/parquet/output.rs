//! Vectors in a Parquet file. Its directory is at its end, so that a file that is not whole cannot be read: what is done goes to another
//! file first, a small Parquet file for each group of rows, and the groups are put together at the end. A run that goes on finds the groups
//! that are whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, FloatType};
use parquet::data_type::{DataType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::reader::ChunkReader;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::TypePtr;

use super::schema::{properties, schema};
use crate::args::Precision;
use crate::commands::embed::row_file::{Layout, RowFile, beside};
use crate::commands::embed::rows::{Part, Row, bits, scaled};

/// Rows of a group.
const GROUP_ROWS: usize = 4096;

/// Bytes of texts and vectors behind which a group ends earlier.
const GROUP_BYTES: usize = 64 << 20;

/// What a file of groups begins with; the number of rows that the whole file beside it has already follows.
const MAGIC: &[u8; 8] = b"TANDEMPQ";

/// Opens the output at `path`, or one that `goes_on`.
pub(in crate::commands::embed) fn open_output(path: &Path, layout: Layout, goes_on: bool) -> io::Result<Box<dyn RowFile>> {
    Ok(Box::new(ParquetFile::open(path, layout, goes_on)?))
}

struct ParquetFile {
    path: PathBuf,
    partial: PathBuf,
    /// Groups, each behind its length.
    groups: File,
    layout: Layout,
    schema: TypePtr,
    properties: WriterPropertiesPtr,
    /// Rows of the whole file that is gone on with.
    n_base: usize,
    n_rows: usize,
    group: Group,
}

/// The columns of a group that is being filled.
#[derive(Default)]
struct Group {
    index: Vec<i64>,
    parts: [Vec<i64>; 3],
    texts: Vec<ByteArray>,
    n_tokens: Vec<i64>,
    truncated: Vec<bool>,
    vectors: Vec<f32>,
    n_bytes: usize,
}

impl ParquetFile {
    fn open(path: &Path, layout: Layout, goes_on: bool) -> io::Result<Self> {
        let partial = beside(path, "partial");
        let (schema, properties) = (schema(&layout)?, Arc::new(properties()?));
        let mut groups = File::options().read(true).write(true).create(true).truncate(!goes_on).open(&partial)?;
        // What is in the place is gone on with, not what `--force` replaces.
        let n_whole = if goes_on && path.exists() { n_rows(&read_metadata(&File::open(path)?)?)? } else { 0 };
        let mut header = [0; 16];
        let is_new = groups.read_exact(&mut header).is_err() || &header[..8] != MAGIC;
        let mut n_base = if is_new { n_whole } else { number(&header)? };
        if is_new || (n_base > 0 && n_whole > n_base) {
            // The whole file has the groups already when a process ended between naming it and removing them.
            n_base = n_whole;
            groups.set_len(0)?;
            groups.seek(SeekFrom::Start(0))?;
            groups.write_all(MAGIC)?;
            groups.write_all(&(n_base as u64).to_le_bytes())?;
        } else if n_base > n_whole {
            return Err(io::Error::other(format!(
                "`{}`, whose rows it follows, has {n_whole} rows and not {n_base}",
                path.display()
            )));
        }
        let mut file = Self {
            path: path.into(),
            partial,
            groups,
            layout,
            schema,
            properties,
            n_base,
            n_rows: n_base,
            group: Group::default(),
        };
        file.find_end()?;
        Ok(file)
    }

    /// Counts the rows of the whole groups, and cuts off what follows them.
    fn find_end(&mut self) -> io::Result<()> {
        let mut end = MAGIC.len() as u64 + 8;
        self.groups.seek(SeekFrom::Start(end))?;
        while let Ok((group, length)) = next_group(&mut self.groups) {
            let Some(n) = read_metadata(&group).ok().and_then(|metadata| n_rows(&metadata).ok()) else { break };
            self.n_rows += n;
            end += 8 + length;
        }
        self.groups.set_len(end)?;
        self.groups.seek(SeekFrom::Start(end)).map(|_| ())
    }

    /// Appends the group, and begins another.
    fn write_group(&mut self) -> io::Result<()> {
        let group = std::mem::take(&mut self.group);
        if group.index.is_empty() {
            return Ok(());
        }
        let mut writer = SerializedFileWriter::new(Vec::new(), self.schema.clone(), self.properties.clone())?;
        let mut columns = writer.next_row_group()?;
        group.write(&self.layout, &mut columns)?;
        columns.close()?;
        let bytes = writer.into_inner()?;
        let mut framed = (bytes.len() as u64).to_le_bytes().to_vec();
        framed.extend(bytes);
        self.groups.write_all(&framed)?;
        self.n_rows += group.index.len();
        Ok(())
    }
}

impl RowFile for ParquetFile {
    fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.group.push(row, &self.layout);
        if self.group.index.len() >= GROUP_ROWS || self.group.n_bytes >= GROUP_BYTES { self.write_group() } else { Ok(()) }
    }

    /// Groups have the same rows however often a run is stopped, so that the rows of one that is not full are left to the next run.
    fn flush(&mut self) -> io::Result<()> {
        self.groups.flush()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.write_group()?;
        if self.n_base > 0 && self.n_rows == self.n_base {
            return fs::remove_file(&self.partial);
        }
        let whole = beside(&self.path, "whole");
        let mut writer = SerializedFileWriter::new(File::create(&whole)?, self.schema.clone(), self.properties.clone())?;
        if self.n_base > 0 {
            append(&mut writer, &File::open(&self.path)?)?;
        }
        self.groups.seek(SeekFrom::Start(MAGIC.len() as u64 + 8))?;
        let mut n_rows = self.n_base;
        while n_rows < self.n_rows {
            n_rows += append(&mut writer, &next_group(&mut self.groups)?.0)?;
        }
        writer.into_inner()?.sync_all()?;
        fs::rename(&whole, &self.path)?;
        fs::remove_file(&self.partial)
    }
}

impl Group {
    fn push(&mut self, row: &Row<'_>, layout: &Layout) {
        self.index.push(row.index as i64);
        if let Some(Part { chunk, start, end }) = row.part {
            self.parts.iter_mut().zip([chunk, start, end]).for_each(|(column, value)| column.push(value as i64));
        }
        if let Some(text) = row.text.filter(|_| layout.has_text) {
            self.texts.push(ByteArray::from(text));
            self.n_bytes += text.len();
        }
        self.n_tokens.push(row.n_tokens as i64);
        self.truncated.push(row.n_cut > 0);
        self.vectors.extend(row.vector);
        self.n_bytes += size_of_val(row.vector);
    }

    fn write(&self, layout: &Layout, out: &mut SerializedRowGroupWriter<'_, Vec<u8>>) -> Result<()> {
        write_column::<Int64Type>(out, &self.index)?;
        for part in self.parts.iter().filter(|_| layout.has_chunks) {
            write_column::<Int64Type>(out, part)?;
        }
        if layout.has_text {
            write_column::<ByteArrayType>(out, &self.texts)?;
        }
        write_column::<Int64Type>(out, &self.n_tokens)?;
        write_column::<BoolType>(out, &self.truncated)?;
        let vectors = || self.vectors.chunks(layout.dimensions.max(1));
        let width = layout.precision.width(layout.dimensions);
        match layout.precision {
            Precision::F32 => write_lists::<FloatType>(out, &self.vectors, width),
            Precision::F16 => {
                let half = |value: &f32| FixedLenByteArray::from(f16::from_f32(*value).to_le_bytes().to_vec());
                write_lists::<FixedLenByteArrayType>(out, &self.vectors.iter().map(half).collect::<Vec<_>>(), width)
            }
            Precision::Int8 => {
                write_lists::<Int32Type>(out, &vectors().flat_map(scaled).map(i32::from).collect::<Vec<_>>(), width)
            }
            Precision::Binary => {
                write_lists::<Int32Type>(out, &vectors().flat_map(bits).map(i32::from).collect::<Vec<_>>(), width)
            }
        }?;
        Ok(())
    }
}

fn write_column<T: DataType>(out: &mut SerializedRowGroupWriter<'_, Vec<u8>>, values: &[T::T]) -> Result<()> {
    let Some(mut column) = out.next_column()? else { return Ok(()) };
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

/// Values as lists of `width`: level 1 says that a value is there, and that it goes on with the list of the one before.
fn write_lists<T: DataType>(out: &mut SerializedRowGroupWriter<'_, Vec<u8>>, values: &[T::T], width: usize) -> Result<()> {
    let Some(mut column) = out.next_column()? else { return Ok(()) };
    let repetition: Vec<i16> = (0..values.len()).map(|i| i16::from(i % width.max(1) > 0)).collect();
    column.typed::<T>().write_batch(values, Some(&vec![1; values.len()]), Some(&repetition))?;
    column.close()
}

/// Appends the groups of `file`, as they are, and says how many rows they have.
fn append<R: ChunkReader>(writer: &mut SerializedFileWriter<File>, file: &R) -> io::Result<usize> {
    let metadata = read_metadata(file)?;
    for group in metadata.row_groups() {
        let mut out = writer.next_row_group()?;
        for column in group.columns() {
            let result = ColumnCloseResult {
                bytes_written: column.compressed_size() as u64,
                rows_written: group.num_rows() as u64,
                metadata: column.clone(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            out.append_column(file, result)?;
        }
        out.close()?;
    }
    n_rows(&metadata)
}

/// The group that `file` stands before, and its length.
fn next_group(file: &mut File) -> io::Result<(bytes::Bytes, u64)> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let left = file.metadata()?.len().saturating_sub(file.stream_position()?);
    if length > left {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut group = Vec::new();
    file.take(length).read_to_end(&mut group)?;
    Ok((group.into(), length))
}

fn read_metadata<R: ChunkReader>(file: &R) -> io::Result<ParquetMetaData> {
    Ok(ParquetMetaDataReader::new().parse_and_finish(file)?)
}

fn n_rows(metadata: &ParquetMetaData) -> io::Result<usize> {
    usize::try_from(metadata.file_metadata().num_rows()).map_err(io::Error::other)
}

/// The number behind the magic of a header.
fn number(header: &[u8; 16]) -> io::Result<usize> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[8..]);
    usize::try_from(u64::from_le_bytes(bytes)).map_err(io::Error::other)
}
