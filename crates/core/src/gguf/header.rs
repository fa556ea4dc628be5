//! The header: counts, metadata, descriptions of tensors; and what must hold between them.

use std::collections::HashMap;

use super::metadata::Value;
use super::reader::{Reader, shown};
use super::tensor::Entry;
use crate::error::{Error, Result};

const MAGIC: [u8; 4] = *b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// Published files have some dozens of keys and some thousands of tensors.
const MAX_ENTRIES: u64 = 1 << 16;

/// The least that an entry of metadata takes: the length of its key, one character, a type, a value of one byte.
const MIN_KEY_BYTES: u64 = 8 + 1 + 4 + 1;

/// The least that the description of a tensor takes: the length of its name, one character, a count, one dimension, a type, an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// The longest key that the format allows, in bytes.
const MAX_KEY: usize = (1 << 16) - 1;

/// Where tensors begin when the file does not say: at multiples of so many bytes.
const DEFAULT_ALIGNMENT: u64 = 32;

/// The largest alignment that makes sense, a page of the largest kind.
const MAX_ALIGNMENT: u64 = 1 << 21;

/// What the header says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: HashMap<String, Value>,
    pub(super) tensors: HashMap<String, Entry>,
}

impl Header {
    /// Reads and checks the header of the whole file `bytes`, which is to be of the type `kind`: `model` or `adapter`.
    pub(super) fn read(bytes: &[u8], file: &str, kind: &str) -> Result<Self> {
        let mut reader = Reader::new(bytes, file);
        check_magic(&mut reader)?;
        let n_tensors = count(&mut reader, "tensor_count")?;
        let n_keys = count(&mut reader, "metadata_kv_count")?;
        within(&reader, "metadata_kv_count", n_keys, MIN_KEY_BYTES)?;
        let mut metadata = HashMap::new();
        for _ in 0..n_keys {
            let key = key(&mut reader)?;
            let value = Value::read(&mut reader, &key)?;
            if metadata.contains_key(&key) {
                return Err(Error::bad_field(file, key, "stands there twice"));
            }
            metadata.insert(key, value);
        }
        refuse_other_kinds(&metadata, bytes, file, kind)?;
        let alignment = alignment(&metadata, file)?;
        within(&reader, "tensor_count", n_tensors, MIN_TENSOR_BYTES)?;
        let mut tensors = HashMap::new();
        for _ in 0..n_tensors {
            let (name, entry) = Entry::read(&mut reader, alignment)?;
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(Error::bad_field(file, name, "the tensor stands there twice"));
            }
        }
        super::tensor::place(&mut tensors, (reader.position() as u64).next_multiple_of(alignment), bytes.len(), file)?;
        Ok(Self { metadata, tensors })
    }
}

fn check_magic(reader: &mut Reader<'_>) -> Result<()> {
    let bad = |problem: String, hint: &str| Error::BadFile {
        file: reader.file().into(),
        problem,
        hint: Some(hint.into()),
        source: None,
    };
    let start = reader.bytes(0..reader.left().min(MAGIC.len()));
    if start != MAGIC {
        let problem = match start {
            [] => "is not a GGUF file: it is empty".to_owned(),
            start => format!("is not a GGUF file: it begins with `{}`, not with `GGUF`", shown(start)),
        };
        return Err(bad(problem, "the file is damaged, or something else was saved under its name: obtain it again"));
    }
    reader.array::<4>("its first four bytes")?;
    let version = reader.u32("its version")?;
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    if VERSIONS.contains(&version.swap_bytes()) {
        return Err(Error::Unsupported {
            what: format!("the GGUF file `{}`", reader.file()),
            reason: "its numbers are big-endian".into(),
            hint: Some(
                "obtain the little-endian file, or turn it around with `gguf-convert-endian` of the Python package `gguf`".into(),
            ),
        });
    }
    Err(Error::Unsupported {
        what: format!("version {version} of the GGUF file `{}`", reader.file()),
        reason: "versions 2 and 3 are read".into(),
        hint: Some("obtain a newer file, or convert the checkpoint again".into()),
    })
}

fn count(reader: &mut Reader<'_>, what: &str) -> Result<u64> {
    let n = reader.u64(what)?;
    if n <= MAX_ENTRIES {
        return Ok(n);
    }
    Err(Error::bad_field(reader.file(), what, format!("is {n}, more than the {MAX_ENTRIES} that a file may have")))
}

/// A count that the rest of the file can hold, each entry of at least `least` bytes.
fn within(reader: &Reader<'_>, what: &str, n: u64, least: u64) -> Result<()> {
    if n.saturating_mul(least) <= reader.left() as u64 {
        return Ok(());
    }
    let problem = format!("is {n}, more than the {} bytes that follow can hold", reader.left());
    Err(Error::bad_field(reader.file(), what, problem))
}

/// A key: ASCII that can be shown, as the format has it.
fn key(reader: &mut Reader<'_>) -> Result<String> {
    let range = reader.string("a key of its metadata")?;
    let bytes = reader.bytes(range);
    let problem = match bytes.len() {
        0 => "a key of the metadata is empty",
        n if n > MAX_KEY => "a key of the metadata is longer than 65535 bytes",
        _ if !bytes.iter().all(u8::is_ascii_graphic) => "a key of the metadata is not made of printable ASCII",
        _ => return Ok(String::from_utf8_lossy(bytes).into_owned()),
    };
    Err(Error::bad_field(reader.file(), shown(bytes), problem))
}

fn alignment(metadata: &HashMap<String, Value>, file: &str) -> Result<u64> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= MAX_ALIGNMENT => Ok(*n),
        Some(Value::Unsigned(n)) => {
            Err(Error::bad_field(file, KEY, format!("is {n}, and must be a power of two up to {MAX_ALIGNMENT}")))
        }
        Some(other) => Err(Error::bad_field(file, KEY, format!("is {}, not a number without sign", other.kind()))),
    }
}

/// Parts of a file in several, projectors of images, and adapters where a model is expected, or the other way around.
fn refuse_other_kinds(metadata: &HashMap<String, Value>, bytes: &[u8], file: &str, expected: &str) -> Result<()> {
    let unsupported =
        |what: String, reason: &str, hint: &str| Error::Unsupported { what, reason: reason.into(), hint: Some(hint.into()) };
    if let Some(Value::Unsigned(n)) = metadata.get("split.count")
        && *n > 1
    {
        return Err(unsupported(
            format!("the GGUF file `{file}`, one of {n} parts"),
            "a model in several GGUF files is not read",
            "merge them with llama.cpp: `llama-gguf-split --merge FIRST MERGED`",
        ));
    }
    let kind = match metadata.get("general.type") {
        Some(Value::String(range)) => &bytes[range.clone()],
        _ => b"model",
    };
    if kind == expected.as_bytes() {
        return Ok(());
    }
    let (reason, hint) = match (expected, kind) {
        ("model", b"adapter") => ("only whole models are read", "give the file of the model itself, and this one as its adapter"),
        ("model", _) => ("only whole models are read", "give the file of the model itself"),
        _ => ("an adapter is expected, of the type `adapter`", "llama.cpp's `convert_lora_to_gguf.py` writes one"),
    };
    Err(unsupported(format!("the GGUF file `{file}` of type `{}`", shown(kind)), reason, hint))
}
