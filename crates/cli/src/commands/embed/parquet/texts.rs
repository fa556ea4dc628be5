//! Texts in a column of a Parquet file, some rows at a time.

use std::collections::VecDeque;
use std::fs::File;

use anyhow::Result;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tandem::Error;

/// Rows that are read together.
const TOGETHER: usize = 256;

/// What the column of a group may expand to, and how many times its size it may expand to beyond that: pages are decompressed whole.
const MAX_EXPANDED: i64 = 1 << 30;
const MAX_EXPANSION: i64 = 100;

/// The texts of a column, in the order of the rows.
pub(in crate::commands::embed) struct ParquetTexts {
    reader: SerializedFileReader<File>,
    name: String,
    field: String,
    column: usize,
    /// The most bytes of a text.
    max_bytes: u64,
    /// The level that a value has, where there is one.
    max_level: i16,
    /// The group that is read, and the rows of it that are not read yet.
    group: Option<(ColumnReaderImpl<ByteArrayType>, usize)>,
    /// The group that follows.
    next_group: usize,
    /// `None` is a null.
    read: VecDeque<Option<ByteArray>>,
    row: u64,
    n_rows: u64,
}

/// This build has it.
pub(in crate::commands::embed) fn check_feature() -> Result<()> {
    Ok(())
}

impl ParquetTexts {
    /// The texts of the column `field`, dotted where it is within another, of at most `max_bytes` each.
    ///
    /// # Errors
    /// When the file cannot be read, or has no such column of texts.
    pub(in crate::commands::embed) fn open(file: File, name: String, field: &str, max_bytes: u64) -> Result<Self> {
        let reader = SerializedFileReader::new(file)
            .map_err(|error| Error::bad_file(&name, "is not a Parquet file, or is damaged", error))?;
        let (metadata, schema) = (reader.metadata().file_metadata(), reader.metadata().file_metadata().schema_descr());
        let Some(column) = schema.columns().iter().position(|column| column.path().string() == field) else {
            let columns: Vec<String> = schema.columns().iter().map(|column| format!("`{}`", column.path().string())).collect();
            let problem = format!("has no column `{field}`; there are {}", columns.join(", "));
            return Err(wrong(&name, problem, Some("name the column that has the text with `--field`")).into());
        };
        let described = schema.column(column);
        let is_text = described.physical_type() == Type::BYTE_ARRAY
            && (described.logical_type_ref().is_none() || described.converted_type() == parquet::basic::ConvertedType::UTF8);
        if !is_text || described.max_rep_level() > 0 {
            let kind = if described.max_rep_level() > 0 { "lists".to_owned() } else { described.physical_type().to_string() };
            let problem = format!("column `{field}` has values of the type {kind}, not texts");
            return Err(wrong(&name, problem, Some("name the column that has the text with `--field`")).into());
        }
        let n_rows = u64::try_from(metadata.num_rows()).unwrap_or_default();
        let (group, read, max_level) = (None, VecDeque::new(), described.max_def_level());
        Ok(Self { reader, name, field: field.into(), column, max_bytes, max_level, group, next_group: 0, read, row: 0, n_rows })
    }

    pub(in crate::commands::embed) fn next(&mut self) -> Result<Option<String>> {
        while self.read.is_empty() {
            if !self.read_more()? {
                return Ok(None);
            }
        }
        let Some(value) = self.read.pop_front() else { return Ok(None) };
        self.row += 1;
        let bad = |problem: String| wrong(&format!("{}:{}", self.name, self.row), problem, None);
        let Some(value) = value else { return Err(bad(format!("column `{}` has no value", self.field)).into()) };
        if value.len() as u64 > self.max_bytes {
            return Err(bad(format!("the text is longer than the {} bytes that it may have", self.max_bytes)).into());
        }
        match String::from_utf8(value.data().to_vec()) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(bad(format!("is not valid UTF-8: {}", error.utf8_error())).into()),
        }
    }

    /// The row that was read last, counted from 1.
    pub(in crate::commands::embed) fn row(&self) -> u64 {
        self.row
    }

    /// The share of the rows that were read.
    pub(in crate::commands::embed) fn share(&self) -> f64 {
        self.row as f64 / self.n_rows.max(1) as f64
    }

    /// Reads some rows; `false` at the end.
    fn read_more(&mut self) -> Result<bool> {
        let next = self.row + 1;
        let bad = |name: &str, error| Error::bad_file(name, format!("its row {next} cannot be read"), error);
        let Some((reader, left)) = &mut self.group else {
            return self.open_group().map_err(|error| bad(&self.name, error).into());
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let most = self.max_level;
        let read = reader.read_records((*left).min(TOGETHER), Some(&mut levels), None, &mut values);
        let (n_rows, ..) = read.map_err(|error| bad(&self.name, error))?;
        if n_rows == 0 && *left > 0 {
            let missing = ParquetError::EOF(format!("{left} more rows were announced"));
            return Err(bad(&self.name, missing).into());
        }
        *left -= n_rows.min(*left);
        if *left == 0 {
            self.group = None;
        }
        let mut values = values.into_iter();
        match most {
            0 => self.read.extend(values.map(Some)),
            _ => self.read.extend(levels.iter().map(|level| if *level == most { values.next() } else { None })),
        }
        Ok(true)
    }

    /// Goes to the group that follows; `false` behind the last.
    fn open_group(&mut self) -> Result<bool, ParquetError> {
        if self.next_group >= self.reader.num_row_groups() {
            return Ok(false);
        }
        let group = self.reader.get_row_group(self.next_group)?;
        self.next_group += 1;
        let n_rows = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
        let column = group.metadata().column(self.column);
        let (stored, size) = (column.compressed_size().max(1), column.uncompressed_size());
        if size > MAX_EXPANDED && size / stored > MAX_EXPANSION {
            return Err(ParquetError::General(format!("{stored} bytes are said to expand to {size}")));
        }
        match group.get_column_reader(self.column)? {
            ColumnReader::ByteArrayColumnReader(reader) if n_rows > 0 => self.group = Some((reader, n_rows)),
            _ => {}
        }
        Ok(true)
    }
}

fn wrong(file: &str, problem: String, hint: Option<&str>) -> Error {
    Error::BadFile { file: file.into(), problem, hint: hint.map(Into::into), source: None }
}
