//! The file that vectors are written to: under another name until it is whole, so that a run that was stopped goes on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tandem::Error;

use super::array::ArrayFile;
use super::lines::LineFile;
use super::parquet;
use super::row_file::{Layout, RowFile, beside};
use super::rows::Row;
use crate::args::VectorFormat;

/// A file of vectors that grows.
pub(super) struct VectorFile {
    partial: PathBuf,
    rows: Box<dyn RowFile>,
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
        let goes_on = is_there && resume;
        if goes_on {
            check_fingerprint(&printed, fingerprint)?;
        }
        let rows: io::Result<Box<dyn RowFile>> = match layout.format {
            VectorFormat::Npy => ArrayFile::open(path, layout, goes_on).map(|file| Box::new(file) as _),
            VectorFormat::Parquet => parquet::open_output(path, layout, goes_on),
            VectorFormat::Jsonl | VectorFormat::Table => LineFile::open(path, layout, goes_on).map(|file| Box::new(file) as _),
        };
        let rows = rows.map_err(|error| Error::bad_file(partial.display().to_string(), "cannot be written", error))?;
        if !goes_on {
            fs::write(&printed, format!("{fingerprint:#}\n"))
                .map_err(|error| Error::bad_file(printed.display().to_string(), "cannot be written", error))?;
        }
        Ok(Self { partial, rows })
    }

    /// Rows that an earlier run, and this one so far, have left for the next.
    pub(super) fn n_rows(&self) -> usize {
        self.rows.n_rows()
    }

    /// Appends a row.
    pub(super) fn write(&mut self, row: &Row<'_>) -> Result<()> {
        self.rows.write(row).with_context(|| cannot(&self.partial))
    }

    /// Hands what was written to the system.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.rows.flush().with_context(|| cannot(&self.partial))
    }

    /// Gives the whole file its name.
    pub(super) fn finish(self) -> Result<()> {
        self.rows.finish().with_context(|| cannot(&self.partial))
    }

    /// Where what is done so far lies.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }
}

fn cannot(partial: &Path) -> String {
    format!("`{}` cannot be written", partial.display())
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

fn bad(path: &Path, problem: &str, hint: &str) -> Error {
    Error::BadFile { file: path.display().to_string(), problem: problem.into(), hint: Some(hint.into()), source: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::rows::Part;
    use super::*;
    use crate::args::Precision;

    fn layout(format: VectorFormat) -> Layout {
        Layout { format, precision: Precision::F32, dimensions: 3, has_text: true, has_chunks: true }
    }

    fn write(file: &mut VectorFile, rows: std::ops::Range<usize>) {
        for index in rows {
            let part = Some(Part { chunk: 0, start: 0, end: 1 });
            file.write(&Row { index, part, text: Some("x"), n_tokens: 1, n_cut: 0, vector: &[index as f32, 0.5, 0.25] }).unwrap();
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
            // An array has its chunks beside it, and each of the two may be behind the other.
            let chunks = fs::read(beside(&whole, "chunks.npy")).ok();
            for cut in (0..expected.len()).step_by(37) {
                fs::write(beside(&path, "partial"), &expected[..cut]).unwrap();
                fs::write(beside(&path, "fingerprint.json"), "{\"a\": 1}").unwrap();
                if let Some(chunks) = &chunks {
                    fs::write(beside(&path, "chunks.npy.partial"), &chunks[..cut * 7 % chunks.len()]).unwrap();
                }
                let mut file = VectorFile::open(&path, layout(format), &json!({"a": 1}), true, false).unwrap();
                let done = file.n_rows();
                write(&mut file, done..20);
                file.finish().unwrap();
                assert_eq!(fs::read(&path).unwrap(), expected, "{format:?} cut at {cut}");
                assert_eq!(fs::read(beside(&path, "chunks.npy")).ok(), chunks, "{format:?} cut at {cut}");
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
