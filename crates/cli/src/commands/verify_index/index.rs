//! Some rows of an index: texts with their vectors.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use half::f16;
use serde_json::Value;
use tandem::Error;
use tandem::embedding::IndexRow;

use crate::args::VerifyIndexArgs;
use crate::commands::embed::input::Texts;
use crate::failure::Usage;

/// The most bytes of a header of `.npy`.
const MAX_HEADER: usize = 1 << 16;

/// The most bytes of a line: a vector of 65,536 dimensions with a text of 16 MB.
const MAX_LINE: u64 = 20 << 20;

/// Which rows are taken: the longest texts, by which a cut is seen, and some at even distances.
fn choose(lengths: &[usize], n: usize) -> Vec<usize> {
    if n >= lengths.len() {
        return (0..lengths.len()).collect();
    }
    let n = n.max(1);
    let mut by_length: Vec<usize> = (0..lengths.len()).collect();
    by_length.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut chosen: Vec<usize> = by_length.into_iter().take(n.div_ceil(4)).collect();
    let (n_even, last) = (n - chosen.len(), lengths.len().saturating_sub(1));
    chosen.extend((0..n_even).map(|i| if n_even == 1 { last / 2 } else { i * last / (n_even - 1) }));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// The rows that are compared, and how many there are.
///
/// # Errors
/// When the file is none of the known formats, damaged, empty, or has no such fields.
pub(super) fn sample(args: &VerifyIndexArgs) -> Result<(Vec<IndexRow>, usize)> {
    let extension = args.index.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
    let (rows, n_rows) = match extension.as_str() {
        "jsonl" | "ndjson" => of_lines(args)?,
        "npy" => of_array(args)?,
        _ => {
            let hint = "name a file that ends in `.jsonl` or `.npy`, as `tandem embed --output` writes them";
            return Err(Usage::new(format!("`{}` is not an index that can be read", args.index.display()), hint).into());
        }
    };
    let width = rows.first().map_or(0, |row| row.vector.len());
    if let Some(other) = rows.iter().find(|row| row.vector.len() != width || width == 0) {
        return Err(bad(&args.index, format!("has vectors of {width} and of {} dimensions", other.vector.len())).into());
    }
    if let Some(row) = rows.iter().find(|row| row.vector.iter().any(|value| !value.is_finite())) {
        return Err(bad(&args.index, format!("the vector of {:?} has a value that is not finite", shortened(&row.text))).into());
    }
    Ok((rows, n_rows))
}

fn of_lines(args: &VerifyIndexArgs) -> Result<(Vec<IndexRow>, usize)> {
    let lengths: Vec<usize> = lines(&args.index)?.map(|line| line.map(|line| line.len())).collect::<Result<_>>()?;
    if lengths.is_empty() {
        return Err(bad(&args.index, "has no rows".into()).into());
    }
    let chosen = choose(&lengths, args.rows);
    let mut rows = Vec::with_capacity(chosen.len());
    for (number, line) in lines(&args.index)?.enumerate() {
        let line = line?;
        if chosen.binary_search(&number).is_ok() {
            rows.push(row_of(args, number, &line)?);
        }
    }
    Ok((rows, lengths.len()))
}

fn row_of(args: &VerifyIndexArgs, number: usize, line: &[u8]) -> Result<IndexRow> {
    let wrong = |problem: String| Error::BadFile {
        file: format!("{}:{}", args.index.display(), number + 1),
        problem,
        hint: Some("name the fields with `--field` and `--vector-field`".into()),
        source: None,
    };
    let value: Value = serde_json::from_slice(line).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    let text = value.get(&args.field).and_then(Value::as_str);
    let text = text.ok_or_else(|| wrong(format!("has no text in field `{}`", args.field)))?;
    let vector = value.get(&args.vector_field).and_then(Value::as_array);
    let vector = vector.ok_or_else(|| wrong(format!("has no vector in field `{}`", args.vector_field)))?;
    let number = |value: &Value| value.as_f64().map(|value| value as f32);
    let vector: Option<Vec<f32>> = vector.iter().map(number).collect();
    let vector = vector.ok_or_else(|| wrong(format!("field `{}` is not a list of numbers", args.vector_field)))?;
    Ok(IndexRow { text: text.into(), vector })
}

/// The lines of a file, without those that are empty.
fn lines(path: &Path) -> Result<impl Iterator<Item = Result<Vec<u8>>>> {
    let opened = File::open(path).map_err(|error| Error::bad_file(path.display().to_string(), "cannot be opened", error))?;
    let (mut reader, path) = (BufReader::with_capacity(1 << 16, opened), path.to_owned());
    Ok(std::iter::from_fn(move || {
        loop {
            let mut line = Vec::new();
            match reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(n) if n as u64 > MAX_LINE => {
                    return Some(Err(bad(&path, format!("has a line of more than {MAX_LINE} bytes")).into()));
                }
                Ok(_) if line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(_) => return Some(Ok(line)),
                Err(error) => return Some(Err(error).with_context(|| format!("`{}` cannot be read", path.display()))),
            }
        }
    }))
}

/// An array of NumPy's.
struct Array {
    file: File,
    start: u64,
    n_rows: usize,
    width: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    F32,
    F16,
    I8,
}

fn of_array(args: &VerifyIndexArgs) -> Result<(Vec<IndexRow>, usize)> {
    let Some(input) = &args.input else {
        return Err(Usage::new("an array has no texts", "name the file that it was made of with `--input`").into());
    };
    let mut array = Array::open(&args.index)?;
    let texts = || Texts::open(Vec::new(), Some(input), &args.field);
    let lengths: Vec<usize> = texts()?.map(|text| text.map(|text| text.len())).collect::<Result<_>>()?;
    if lengths.len() != array.n_rows || array.n_rows == 0 {
        let problem = format!("has {} rows, and `{}` has {} texts", array.n_rows, input.display(), lengths.len());
        return Err(bad(&args.index, problem)
            .with_hint("an index of chunks is read from `.jsonl`, where each row has its text")
            .into());
    }
    let chosen = choose(&lengths, args.rows);
    let mut rows = Vec::with_capacity(chosen.len());
    for (number, text) in texts()?.enumerate() {
        if chosen.binary_search(&number).is_ok() {
            let vector =
                array.row(number).map_err(|error| Error::bad_file(args.index.display().to_string(), "is cut short", error))?;
            rows.push(IndexRow { text: text?, vector });
        }
    }
    Ok((rows, lengths.len()))
}

impl Array {
    /// Reads the header, versions 1 to 3 (`numpy/lib/format.py`).
    fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut file = File::open(path).map_err(|error| Error::bad_file(&name, "cannot be opened", error))?;
        let cut = |error| Error::bad_file(&name, "is not an array of NumPy's, or is cut short", error);
        let mut magic = [0; 8];
        file.read_exact(&mut magic).map_err(cut)?;
        if &magic[..6] != b"\x93NUMPY" {
            return Err(bad(path, "is not an array of NumPy's".into()).into());
        }
        let mut size = [0; 4];
        let n_size = if magic[6] == 1 { 2 } else { 4 };
        file.read_exact(&mut size[..n_size]).map_err(cut)?;
        let n_header = u32::from_le_bytes(size) as usize;
        if n_header > MAX_HEADER {
            return Err(bad(path, format!("its header of {n_header} bytes is too long")).into());
        }
        let mut header = vec![0; n_header];
        file.read_exact(&mut header).map_err(cut)?;
        let header = String::from_utf8_lossy(&header).into_owned();
        let after = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
        let kind = match after("descr").and_then(|rest| rest.split('\'').nth(1)) {
            Some("<f4") => Kind::F32,
            Some("<f2") => Kind::F16,
            Some("|i1") => Kind::I8,
            other => {
                return Err(bad(
                    path,
                    format!("its values are `{}`; `<f4`, `<f2` and `|i1` are read", other.unwrap_or_default()),
                )
                .into());
            }
        };
        let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next()).unwrap_or_default();
        let sizes: Vec<usize> = shape.split(',').filter_map(|size| size.trim().parse().ok()).collect();
        let &[n_rows, width] = sizes.as_slice() else {
            return Err(bad(path, format!("its shape is ({shape}), which is not rows of vectors")).into());
        };
        if after("fortran_order").is_some_and(|rest| rest.starts_with("True")) {
            return Err(bad(path, "is stored by columns".into()).into());
        }
        Ok(Self { file, start: (8 + n_size + n_header) as u64, n_rows, width: width.min(1 << 20), kind })
    }

    fn row(&mut self, number: usize) -> std::io::Result<Vec<f32>> {
        let size = match self.kind {
            Kind::F32 => 4,
            Kind::F16 => 2,
            Kind::I8 => 1,
        };
        let mut bytes = vec![0; self.width * size];
        self.file.seek(SeekFrom::Start(self.start + (number * bytes.len()) as u64))?;
        self.file.read_exact(&mut bytes)?;
        Ok(match self.kind {
            Kind::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Kind::F16 => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            Kind::I8 => bytes.iter().map(|byte| f32::from(i8::from_le_bytes([*byte]))).collect(),
        })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn bad(path: &Path, problem: String) -> Error {
    Error::BadFile { file: path.display().to_string(), problem, hint: None, source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_some_others_are_chosen() {
        let lengths: Vec<usize> = (0..100).map(|i| if i == 37 { 500 } else { i % 10 }).collect();
        let chosen = choose(&lengths, 8);
        assert!(chosen.contains(&37) && chosen.contains(&0) && chosen.contains(&99) && chosen.is_sorted());
        assert_eq!(choose(&[3, 1], 32), [0, 1]);
        assert_eq!(choose(&[5], 1), [0]);
        assert!(choose(&[], 3).is_empty());
    }
}
