//! The metadata: keys with values of thirteen types, and typed access to them.

use std::ops::Range;

use serde_json::Value as Json;

use super::Gguf;
use super::reader::Reader;
use crate::error::{Error, Result};

/// The longest list that is read: published ones, of merges, have some half a million.
const MAX_LISTED: u64 = 1 << 22;

/// A value. Strings and arrays are where they lie in the file: they were walked through, and nothing was copied.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array { kind: Kind, n: usize, range: Range<usize> },
}

/// The type of a value, by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of their numbers.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self> {
        let number = reader.u32(&format!("the type of `{key}`"))?;
        let kind = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number)).copied();
        kind.ok_or_else(|| Error::bad_field(reader.file(), key, format!("is of type {number}, which GGUF does not define")))
    }

    /// Bytes of a value; `None` where that depends on the value.
    fn size(self) -> Option<u64> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String | Self::Array => return None,
        })
    }
}

impl Value {
    /// Reads the type and the value of `key`.
    pub(super) fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self> {
        let what = format!("the value of `{key}`");
        let kind = Kind::read(reader, key)?;
        match kind {
            Kind::Array => Self::read_array(reader, key),
            Kind::String => Ok(Self::String(reader.string(&what)?)),
            _ => {
                let range = reader.range(kind.size().unwrap_or(0), &what)?;
                let bytes = reader.bytes(range);
                scalar(kind, bytes).ok_or_else(|| Error::bad_field(reader.file(), key, "is a boolean that is neither 0 nor 1"))
            }
        }
    }

    fn read_array(reader: &mut Reader<'_>, key: &str) -> Result<Self> {
        let what = format!("the list `{key}`");
        let kind = Kind::read(reader, key)?;
        let n = reader.u64(&what)?;
        let start = reader.position();
        match kind.size() {
            Some(size) => {
                reader.range(n.saturating_mul(size), &what)?;
            }
            None if kind == Kind::Array => {
                return Err(Error::bad_field(reader.file(), key, "is a list of lists, which no model has"));
            }
            None if n > MAX_LISTED => {
                return Err(Error::bad_field(reader.file(), key, format!("lists {n} strings, more than {MAX_LISTED}")));
            }
            None => {
                for _ in 0..n {
                    reader.string(&what)?;
                }
            }
        }
        let n = usize::try_from(n).map_err(|_| Error::bad_field(reader.file(), key, "is longer than memory"))?;
        Ok(Self::Array { kind, n, range: start..reader.position() })
    }

    /// Its type in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "a number without sign",
            Self::Signed(_) => "a number with a sign",
            Self::Float(_) => "a floating-point number",
            Self::Bool(_) => "a boolean",
            Self::String(_) => "a string",
            Self::Array { .. } => "a list",
        }
    }
}

impl Gguf {
    /// A whole number that is not negative.
    pub(super) fn integer(&self, key: &str) -> Result<Option<u64>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(Value::Signed(n)) => {
                u64::try_from(*n).map(Some).map_err(|_| self.bad(key, format!("is {n}, and must not be negative")))
            }
            Some(other) => Err(self.wrong_type(key, other, "a whole number")),
        }
    }

    /// A number, whole or not, that is finite.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(n)) if n.is_finite() => Ok(Some(*n)),
            Some(Value::Float(n)) => Err(self.bad(key, format!("is {n}, which is not a finite number"))),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(self.wrong_type(key, other, "a number")),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_type(key, other, "a boolean")),
        }
    }

    /// A text.
    pub(super) fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(range)) => self.text(key, range.clone()).map(Some),
            Some(other) => Err(self.wrong_type(key, other, "a string")),
        }
    }

    /// A list of texts.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.header.metadata.get(key) else { return Ok(None) };
        let Value::Array { kind: Kind::String, range, .. } = value else {
            return Err(self.wrong_type(key, value, "a list of strings"));
        };
        let mut reader = Reader::new(&self.content[range.clone()], &self.file);
        let mut strings = Vec::new();
        while reader.left() > 0 {
            let string = reader.string(key)?;
            strings.push(self.text(key, range.start + string.start..range.start + string.end)?);
        }
        Ok(Some(strings))
    }

    /// A list of whole numbers that are not negative.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<u64>>> {
        let Some(value) = self.header.metadata.get(key) else { return Ok(None) };
        let Value::Array { kind, n, range } = value else { return Err(self.wrong_type(key, value, "a list of whole numbers")) };
        if *n as u64 > MAX_LISTED {
            return Err(self.bad(key, format!("lists {n} numbers, more than {MAX_LISTED}")));
        }
        let size = kind.size().unwrap_or(1) as usize;
        let one = |bytes: &[u8]| match scalar(*kind, bytes) {
            Some(Value::Unsigned(n)) => Ok(n),
            Some(Value::Signed(n)) => u64::try_from(n).map_err(|_| self.bad(key, format!("has {n}, which is negative"))),
            _ => Err(self.wrong_type(key, value, "a list of whole numbers")),
        };
        self.content[range.clone()].chunks_exact(size).map(one).collect::<Result<_>>().map(Some)
    }

    /// An error about `key`.
    pub(super) fn bad(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::bad_field(&self.file, key, problem)
    }

    /// The error for a key that must be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        self.bad(key, "is missing")
    }

    /// A JSON string, or null where the metadata has no `key`.
    pub(super) fn json_string(&self, key: &str) -> Result<Json> {
        Ok(self.string(key)?.map_or(Json::Null, Json::from))
    }

    fn wrong_type(&self, key: &str, value: &Value, wanted: &str) -> Error {
        self.bad(key, format!("is {}, not {wanted}", value.kind()))
    }

    fn text(&self, key: &str, range: Range<usize>) -> Result<&str> {
        std::str::from_utf8(&self.content[range]).map_err(|_| self.bad(key, "has text that is not UTF-8"))
    }
}

/// A value of a type that has a size; `None` for a boolean that is neither, and for other types.
fn scalar(kind: Kind, bytes: &[u8]) -> Option<Value> {
    let wide = |fill: u8| {
        let mut wide = [fill; 8];
        wide.iter_mut().zip(bytes).for_each(|(wide, byte)| *wide = *byte);
        wide
    };
    let sign = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xFF } else { 0 };
    Some(match kind {
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Value::Unsigned(u64::from_le_bytes(wide(0))),
        Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => Value::Signed(i64::from_le_bytes(wide(sign))),
        Kind::F32 => Value::Float(f64::from(f32::from_le_bytes(*bytes.first_chunk()?))),
        Kind::F64 => Value::Float(f64::from_le_bytes(*bytes.first_chunk()?)),
        Kind::Bool => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return None,
        },
        Kind::String | Kind::Array => return None,
    })
}
