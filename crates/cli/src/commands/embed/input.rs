//! The texts of `tandem embed`: arguments, lines, or records of a file, one at a time.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::Value;
use tandem::Error;

use super::parquet::ParquetTexts;
use crate::failure::Usage;

/// The most bytes of a line: a text that long has millions of tokens, and no model takes them.
const MAX_LINE: u64 = 16 << 20;

/// What standard input is called in messages.
const STANDARD_INPUT: &str = "standard input";

/// How records are told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A text for each line.
    Lines,
    /// A JSON object for each line, or a string.
    JsonLines,
}

/// Texts, in order.
pub(in crate::commands) struct Texts {
    source: Source,
    /// What they are read from; nothing where they are arguments.
    name: Option<Rc<str>>,
    /// Bytes of the whole input, where they are known.
    pub(super) size: Option<u64>,
}

/// Where a text stands in the input.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Place {
    /// Counted from 0.
    pub(in crate::commands) index: usize,
    /// The file with the line or the row of a table; nothing for an argument.
    line: Option<(Rc<str>, u64)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text {}", self.index + 1)?;
        self.line.as_ref().map_or(Ok(()), |(name, line)| write!(f, " (`{name}:{line}`)"))
    }
}

/// The error about one of some texts, with the place in the input that `place` knows for its number among them.
pub(in crate::commands) fn placed(error: Error, place: impl FnOnce(usize) -> String) -> anyhow::Error {
    match error {
        Error::BadText { index, source } => anyhow::Error::from(*source).context(format!("{} cannot be used", place(index))),
        other => other.into(),
    }
}

enum Source {
    Given(std::vec::IntoIter<String>),
    Lines(Lines),
    Table(Table),
    Parquet(Box<ParquetTexts>),
}

struct Lines {
    reader: Box<dyn BufRead>,
    name: String,
    form: Form,
    field: String,
    n_lines: usize,
    n_bytes: u64,
}

struct Table {
    reader: csv::Reader<Box<dyn Read>>,
    name: String,
    column: usize,
    /// Where the record that was read last begins.
    line: u64,
}

impl Texts {
    /// Those of the command line, of a file, or of standard input.
    ///
    /// # Errors
    /// [`Usage`] when there are none; when a file cannot be opened or has no such field.
    pub(in crate::commands) fn open(texts: Vec<String>, file: Option<&Path>, field: &str) -> Result<Self> {
        if !texts.is_empty() {
            return Ok(Self { source: Source::Given(texts.into_iter()), name: None, size: None });
        }
        let Some(path) = file.filter(|path| *path != Path::new("-")) else { return Self::standard_input(field) };
        let name = path.display().to_string();
        let opened = File::open(path).map_err(|error| Error::bad_file(&name, "cannot be opened", error))?;
        let size = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
        let shown: Rc<str> = name.as_str().into();
        let source = match extension.as_str() {
            "csv" | "tsv" => Source::Table(Table::open(buffered(opened), name, field, extension == "tsv")?),
            "parquet" => Source::Parquet(Box::new(ParquetTexts::open(opened, name, field, MAX_LINE)?)),
            "jsonl" | "ndjson" => Source::Lines(Lines::new(buffered(opened), name, Form::JsonLines, field)),
            _ => Source::Lines(Lines::new(buffered(opened), name, Form::Lines, field)),
        };
        Ok(Self { source, name: Some(shown), size })
    }

    fn standard_input(field: &str) -> Result<Self> {
        if io::stdin().is_terminal() {
            let hint = "give texts as arguments, name a file with `--input`, or pipe lines in: `tandem embed MODEL < lines.txt`";
            return Err(Usage::new("there are no texts", hint).into());
        }
        let reader = Box::new(BufReader::with_capacity(1 << 16, io::stdin()));
        let lines = Lines::new(reader, STANDARD_INPUT.into(), Form::Lines, field);
        Ok(Self { source: Source::Lines(lines), name: Some(STANDARD_INPUT.into()), size: None })
    }

    /// The place of the text that was read last, which is the one numbered `index`.
    pub(in crate::commands) fn place(&self, index: usize) -> Place {
        let line = match &self.source {
            Source::Given(_) => 0,
            Source::Lines(lines) => lines.n_lines as u64,
            Source::Table(table) => table.line,
            Source::Parquet(texts) => texts.row(),
        };
        Place { index, line: self.name.clone().map(|name| (name, line)) }
    }

    /// Bytes of the input that were read.
    pub(super) fn n_bytes(&self) -> u64 {
        match &self.source {
            Source::Given(_) => 0,
            Source::Lines(lines) => lines.n_bytes,
            Source::Table(table) => table.reader.position().byte(),
            Source::Parquet(texts) => (self.size.unwrap_or_default() as f64 * texts.share()) as u64,
        }
    }
}

impl Iterator for Texts {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        match &mut self.source {
            Source::Given(texts) => texts.next().map(Ok),
            Source::Lines(lines) => lines.next().transpose(),
            Source::Table(table) => table.next().transpose(),
            Source::Parquet(texts) => texts.next().transpose(),
        }
    }
}

impl Lines {
    fn new(reader: Box<dyn BufRead>, name: String, form: Form, field: &str) -> Self {
        Self { reader, name, form, field: field.into(), n_lines: 0, n_bytes: 0 }
    }

    fn next(&mut self) -> Result<Option<String>> {
        loop {
            let mut line = Vec::new();
            let limited = self.reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line);
            let n = limited.with_context(|| format!("`{}` cannot be read", self.name))?;
            if n == 0 {
                return Ok(None);
            }
            self.n_lines += 1;
            self.n_bytes += n as u64;
            if n as u64 > MAX_LINE {
                return Err(self.bad(format!("is longer than the {MAX_LINE} bytes that a line may have")).into());
            }
            for end in [b'\n', b'\r'] {
                if line.last() == Some(&end) {
                    line.pop();
                }
            }
            let line = String::from_utf8(line).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                let byte = error.as_bytes()[at];
                self.bad(format!("is not valid UTF-8: byte {byte:#04x} at offset {at} of the line"))
                    .with_hint("convert the file first, for example with `iconv -f LATIN1 -t UTF-8`")
            })?;
            match self.form {
                Form::Lines => return Ok(Some(line)),
                // A file may end with an empty line.
                Form::JsonLines if line.trim().is_empty() => {}
                Form::JsonLines => return self.text_of(&line).map(Some),
            }
        }
    }

    fn text_of(&self, line: &str) -> Result<String> {
        let value: Value = serde_json::from_str(line).map_err(|error| self.bad(format!("is not JSON: {error}")))?;
        let text = match &value {
            Value::String(_) => Some(&value),
            Value::Object(object) => object.get(&self.field),
            _ => None,
        };
        match text {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(self.bad(format!("field `{}` is not a text", self.field)).into()),
            None => Err(self
                .bad(format!("has no field `{}`", self.field))
                .with_hint("name the field that has the text with `--field`")
                .into()),
        }
    }

    fn bad(&self, problem: String) -> Error {
        Error::BadFile { file: format!("{}:{}", self.name, self.n_lines), problem, hint: None, source: None }
    }
}

impl Table {
    fn open(reader: Box<dyn Read>, name: String, field: &str, has_tabs: bool) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new().delimiter(if has_tabs { b'\t' } else { b',' }).from_reader(reader);
        let headers = reader.headers().map_err(|error| Error::bad_file(&name, "its header cannot be read", error))?;
        let Some(column) = headers.iter().position(|header| header == field) else {
            let columns: Vec<String> = headers.iter().map(|header| format!("`{header}`")).collect();
            return Err(Error::BadFile {
                file: name,
                problem: format!("has no column `{field}`; there are {}", columns.join(", ")),
                hint: Some("name the column that has the text with `--field`".into()),
                source: None,
            }
            .into());
        };
        Ok(Self { reader, name, column, line: 0 })
    }

    fn next(&mut self) -> Result<Option<String>> {
        let mut record = csv::StringRecord::new();
        self.line = self.reader.position().line();
        let place = format!("{}:{}", self.name, self.line);
        let bad = |problem: String| Error::BadFile { file: place, problem, hint: None, source: None };
        match self.reader.read_record(&mut record) {
            Ok(false) => Ok(None),
            Ok(true) if record.as_slice().len() as u64 > MAX_LINE => {
                Err(bad(format!("the record is longer than the {MAX_LINE} bytes that it may have")).into())
            }
            Ok(true) => Ok(record.get(self.column).map(str::to_owned)),
            Err(error) => Err(bad(error.to_string()).into()),
        }
    }
}

fn buffered(file: File) -> Box<BufReader<File>> {
    Box::new(BufReader::with_capacity(1 << 16, file))
}
