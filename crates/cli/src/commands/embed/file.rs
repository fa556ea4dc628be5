//! The file that vectors are written to: under another name until it is whole, so that a run that was stopped goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tandem::Error;

use super::rows::Row;
use crate::args::{Precision, VectorFormat};

/// Bytes before the rows of a `.npy` file: enough for a header of any number of rows, and a multiple of 64 as NumPy has it.
const HEADER: usize = 128;

/// What is written, and how.
pub(super) struct Layout {
    pub(super) format: VectorFormat,
    pub(super) precision: Precision,
    pub(super) dimensions: usize,
    pub(super) has_text: bool,
}

/// A file of vectors that grows.
pub(super) struct VectorFile {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    layout: Layout,
    row: Vec<u8>,
    /// Rows that it has.
    pub(super) n_rows: usize,
}

impl VectorFile {
    /// A new file, or with `resume` one that goes on behind its last whole row. `fingerprint` is written beside it, and on resuming has to be
    /// what is there.
    ///
    /// # Errors
    /// When there is a file in the place and neither `resume` nor `force` says what to do with it; when what was made before was made in
    /// another way.
    pub(super) fn open(path: &Path, layout: Layout, fingerprint: &Value, resume: bool, force: bool) -> Result<Self> {
        let partial = beside(path, "partial");
        let printed = beside(path, "fingerprint.json");
        if path.is_dir() {
            return Err(bad(path, "is a directory", "name a file").into());
        }
        let is_there = path.exists() || partial.exists();
        if is_there && !resume && !force {
            let hint = "go on with `--resume`, replace it with `--force`, or name another file";
            return Err(bad(if path.exists() { path } else { &partial }, "exists already", hint).into());
        }
        let written = |error| Error::bad_file(partial.display().to_string(), "cannot be written", error);
        let mut file = Self {
            path: path.into(),
            partial: partial.clone(),
            row: Vec::new(),
            n_rows: 0,
            file: if is_there && resume {
                check_fingerprint(&printed, fingerprint)?;
                if !partial.exists() {
                    fs::rename(path, &partial).map_err(written)?;
                }
                BufWriter::new(OpenOptions::new().read(true).write(true).open(&partial).map_err(written)?)
            } else {
                BufWriter::new(File::create(&partial).map_err(written)?)
            },
            layout,
        };
        if is_there && resume {
            file.find_end().map_err(written)?;
        } else {
            fs::write(&printed, format!("{fingerprint:#}\n"))
                .map_err(|error| Error::bad_file(printed.display().to_string(), "cannot be written", error))?;
            file.start().map_err(written)?;
        }
        Ok(file)
    }

    /// Appends a row.
    pub(super) fn write(&mut self, row: &Row<'_>) -> Result<()> {
        self.row.clear();
        match self.layout.format {
            VectorFormat::Npy => self.layout.precision.write(row.vector, &mut self.row),
            _ => {
                let text = row.text.filter(|_| self.layout.has_text);
                Row { text, ..*row }.write_json(self.layout.precision, &mut self.row)?;
            }
        }
        self.n_rows += 1;
        self.file.write_all(&self.row).with_context(|| self.cannot())
    }

    /// Hands what was written to the system.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.file.flush().with_context(|| self.cannot())
    }

    /// Gives the whole file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        let finish = |this: &mut Self| -> io::Result<()> {
            if this.layout.format == VectorFormat::Npy {
                let header = this.header();
                this.file.seek(SeekFrom::Start(0))?;
                this.file.write_all(&header)?;
            }
            this.file.flush()?;
            this.file.get_ref().sync_all()?;
            fs::rename(&this.partial, &this.path)
        };
        finish(&mut self).with_context(|| self.cannot())
    }

    /// Where what is done so far lies.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    fn start(&mut self) -> io::Result<()> {
        if self.layout.format == VectorFormat::Npy {
            let header = self.header();
            self.file.write_all(&header)?;
        }
        Ok(())
    }

    /// Counts the whole rows, and cuts off what follows them: a process that is killed leaves a part of one.
    fn find_end(&mut self) -> io::Result<()> {
        let file = self.file.get_mut();
        let end = match self.layout.format {
            VectorFormat::Npy => {
                let row = self.layout.precision.row_bytes(self.layout.dimensions) as u64;
                let rows = file.metadata()?.len().saturating_sub(HEADER as u64) / row.max(1);
                self.n_rows = usize::try_from(rows).map_err(io::Error::other)?;
                HEADER as u64 + rows * row
            }
            _ => {
                let (mut reader, mut line, mut end) = (BufReader::new(&*file), Vec::new(), 0);
                while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
                    end += line.len() as u64;
                    self.n_rows += 1;
                    line.clear();
                }
                end
            }
        };
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        if self.layout.format == VectorFormat::Npy && self.n_rows == 0 {
            self.file.seek(SeekFrom::Start(0))?;
            self.start()?;
        }
        Ok(())
    }

    /// The first bytes of a `.npy` file, version 1.0 (`numpy/lib/format.py`), padded so that it has one size for any number of rows.
    fn header(&self) -> Vec<u8> {
        let Layout { precision, dimensions, .. } = self.layout;
        let shape = format!("({}, {})", self.n_rows, precision.width(dimensions));
        let described = format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", precision.numpy());
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        header.extend(((HEADER - 10) as u16).to_le_bytes());
        header.extend(described.bytes());
        header.resize(HEADER - 1, b' ');
        header.push(b'\n');
        header
    }

    fn cannot(&self) -> String {
        format!("`{}` cannot be written", self.partial.display())
    }
}

/// What was made before has to have been made in the same way.
fn check_fingerprint(file: &Path, expected: &Value) -> Result<()> {
    let name = file.display().to_string();
    let hint = "start anew with `--force`, or name another file";
    let read = fs::read(file).map_err(|error| Error::bad_file(&name, "cannot be read", error).with_hint(hint))?;
    let found: Value =
        serde_json::from_slice(&read).map_err(|error| Error::bad_file(&name, "is not JSON", error).with_hint(hint))?;
    if found == *expected {
        return Ok(());
    }
    // The id is only a hash of the rest.
    let differs = differences("", &found, expected).into_iter().find(|differs| !differs.starts_with("`id`")).unwrap_or_default();
    Err(bad(file, &format!("the file was made in another way: {differs}"), hint).into())
}

/// The fields in which two documents differ, with both values.
fn differences(place: &str, found: &Value, expected: &Value) -> Vec<String> {
    match (found, expected) {
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            let of = |object: &serde_json::Map<String, Value>, key: &str| object.get(key).cloned().unwrap_or_default();
            keys.flat_map(|key| differences(&format!("{place}.{key}"), &of(one, key), &of(other, key))).collect()
        }
        (one, other) if one == other => Vec::new(),
        (one, other) => vec![format!("`{}` was {one} and is {other}", place.trim_start_matches('.'))],
    }
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn bad(path: &Path, problem: &str, hint: &str) -> Error {
    Error::BadFile { file: path.display().to_string(), problem: problem.into(), hint: Some(hint.into()), source: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layout(format: VectorFormat) -> Layout {
        Layout { format, precision: Precision::F32, dimensions: 3, has_text: true }
    }

    fn write(file: &mut VectorFile, rows: std::ops::Range<usize>) {
        for index in rows {
            file.write(&Row { index, text: Some("x"), n_tokens: 1, n_cut: 0, vector: &[index as f32, 0.5, 0.25] }).unwrap();
        }
    }

    #[test]
    fn a_file_that_was_cut_anywhere_goes_on_to_the_same_bytes() {
        for format in [VectorFormat::Jsonl, VectorFormat::Npy] {
            let dir = tempfile::tempdir().unwrap();
            let (whole, path) = (dir.path().join("whole"), dir.path().join("vectors"));
            let mut file = VectorFile::open(&whole, layout(format), &json!({"a": 1}), false, false).unwrap();
            write(&mut file, 0..20);
            file.finish().unwrap();
            let expected = fs::read(&whole).unwrap();
            for cut in (0..expected.len()).step_by(37) {
                fs::write(beside(&path, "partial"), &expected[..cut]).unwrap();
                fs::write(beside(&path, "fingerprint.json"), "{\"a\": 1}").unwrap();
                let mut file = VectorFile::open(&path, layout(format), &json!({"a": 1}), true, false).unwrap();
                let done = file.n_rows;
                write(&mut file, done..20);
                file.finish().unwrap();
                assert_eq!(fs::read(&path).unwrap(), expected, "{format:?} cut at {cut}");
                fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn what_is_there_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vectors.npy");
        fs::write(&path, "mine").unwrap();
        let open = |print: Value, resume, force| VectorFile::open(&path, layout(VectorFormat::Npy), &print, resume, force).err();
        assert!(open(json!({}), false, false).unwrap().to_string().contains("exists already"));
        assert!(open(json!({}), true, false).unwrap().to_string().contains("cannot be read"));
        fs::write(beside(&path, "fingerprint.json"), "{\"space\": {\"pooling\": \"mean\"}}").unwrap();
        let error = open(json!({"space": {"pooling": "cls"}}), true, false).unwrap().to_string();
        assert!(error.contains("`space.pooling` was \"mean\" and is \"cls\""), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
