//! Reads the fields of one message, tracks the position for errors, and enforces the limits on hostile files.

use std::cell::Cell;

use crate::error::{At, Error, Result};
use crate::wire::{Field, Fields, Payload, Slice, WireError, varint};

/// Graphs within graphs; control flow in real models nests two or three deep.
const MAX_DEPTH: usize = 16;
/// Messages, names and list entries of one file, which bounds their memory; a decoder of 100 layers has fewer than 100 thousand.
const MAX_ITEMS: usize = 2_000_000;

/// The remaining budget of a file, counted down while it is read.
pub(crate) struct Limits<'f> {
    pub(crate) file: &'f str,
    items: Cell<usize>,
    depth: Cell<usize>,
}

/// One level of nesting, until it is dropped.
pub(crate) struct Depth<'l>(&'l Cell<usize>);

/// The fields of one message.
pub(super) struct Reader<'l, 'a> {
    limits: &'l Limits<'l>,
    at: &'l At<'l>,
    fields: Fields<'a>,
    /// A bit for each field number that has appeared and may appear once only.
    seen: u32,
}

impl<'f> Limits<'f> {
    pub(crate) fn new(file: &'f str) -> Self {
        Self { file, items: Cell::new(MAX_ITEMS), depth: Cell::new(MAX_DEPTH) }
    }

    /// Goes one graph deeper.
    pub(super) fn enter(&self, at: &At<'_>) -> Result<Depth<'_>> {
        let left = self.depth.get().checked_sub(1);
        self.depth
            .set(left.ok_or_else(|| Error::bad_field(self.file, at, format!("graphs are nested more than {MAX_DEPTH} deep")))?);
        Ok(Depth(&self.depth))
    }

    fn count(&self, at: &At<'_>, items: usize) -> Result<()> {
        let left = self.items.get().checked_sub(items);
        self.items.set(left.ok_or_else(|| {
            Error::bad_field(self.file, at, format!("the file has more than {MAX_ITEMS} messages, names and list entries"))
        })?);
        Ok(())
    }
}

impl Drop for Depth<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

impl<'l, 'a> Reader<'l, 'a> {
    pub(super) fn new(limits: &'l Limits<'l>, at: &'l At<'l>, message: Slice<'a>) -> Self {
        Self { limits, at, fields: Fields::new(message), seen: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>> {
        self.fields.next().map_err(|WireError { offset, problem }| {
            let problem = format!("at byte {offset}: {problem}");
            match self.at.to_string() {
                root if root.is_empty() => {
                    Error::bad_file(self.limits.file, problem).with_hint("is it a whole ONNX file? download it again")
                }
                field => Error::bad_field(self.limits.file, field, problem).with_hint("download the file again"),
            }
        })
    }

    /// A nested message or bytes, which counts as an item.
    pub(super) fn message(&self, field: &Field<'a>, at: &At<'_>) -> Result<Slice<'a>> {
        self.limits.count(at, 1)?;
        match field.payload {
            Payload::Bytes(slice) => Ok(slice),
            _ => Err(self.mistyped(at, "bytes")),
        }
    }

    pub(super) fn text(&self, field: &Field<'a>, at: &At<'_>) -> Result<String> {
        let bytes = self.message(field, at)?.bytes;
        let text = std::str::from_utf8(bytes);
        let text =
            text.map_err(|_| Error::bad_field(self.limits.file, at, format!("`{}` is not UTF-8", bytes.escape_ascii())))?;
        Ok(text.to_owned())
    }

    pub(super) fn int(&self, field: &Field<'a>, at: &At<'_>) -> Result<i64> {
        match field.payload {
            Payload::Varint(value) => Ok(value.cast_signed()),
            _ => Err(self.mistyped(at, "a number")),
        }
    }

    pub(super) fn float(&self, field: &Field<'a>, at: &At<'_>) -> Result<f32> {
        match field.payload {
            Payload::Fixed32(bits) => Ok(f32::from_bits(bits)),
            _ => Err(self.mistyped(at, "a float")),
        }
    }

    /// Integers of a repeated field, packed or one by one.
    pub(super) fn ints(&self, field: &Field<'a>, at: &At<'_>, values: &mut Vec<i64>) -> Result<()> {
        let Payload::Bytes(Slice { mut bytes, start }) = field.payload else {
            self.limits.count(at, 1)?;
            values.push(self.int(field, at)?);
            return Ok(());
        };
        self.limits.count(at, bytes.len())?;
        while !bytes.is_empty() {
            let (value, length) = varint(bytes)
                .map_err(|problem| Error::bad_field(self.limits.file, at, format!("in the list at byte {start}: {problem}")))?;
            values.push(value.cast_signed());
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Floats of a repeated field, packed or one by one.
    pub(super) fn floats(&self, field: &Field<'a>, at: &At<'_>, values: &mut Vec<f32>) -> Result<()> {
        let Payload::Bytes(slice) = field.payload else {
            self.limits.count(at, 1)?;
            values.push(self.float(field, at)?);
            return Ok(());
        };
        let (chunks, rest) = slice.bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(Error::bad_field(self.limits.file, at, format!("a list of floats of {} bytes", slice.bytes.len())));
        }
        self.limits.count(at, chunks.len())?;
        values.extend(chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        Ok(())
    }

    /// Counts the entries of a typed data list, packed or one by one, without keeping them. `width` is the bytes of an entry; `None` is for
    /// varints.
    pub(super) fn count_entries(&self, field: &Field<'a>, at: &At<'_>, width: Option<usize>) -> Result<usize> {
        match (field.payload, width) {
            (Payload::Bytes(slice), Some(width)) if slice.bytes.len() % width == 0 => Ok(slice.bytes.len() / width),
            (Payload::Bytes(slice), None) => Ok(slice.bytes.iter().filter(|&&byte| byte < 0x80).count()),
            (Payload::Fixed32(_), Some(4)) | (Payload::Fixed64, Some(8)) | (Payload::Varint(_), None) => Ok(1),
            _ => Err(self.mistyped(at, "a list of numbers")),
        }
    }

    pub(super) fn once_message(&mut self, field: &Field<'a>, name: &'static str) -> Result<Slice<'a>> {
        self.once(field, name)?;
        self.message(field, &self.at.field(name))
    }

    pub(super) fn once_text(&mut self, field: &Field<'a>, name: &'static str) -> Result<String> {
        self.once(field, name)?;
        self.text(field, &self.at.field(name))
    }

    pub(super) fn once_int(&mut self, field: &Field<'a>, name: &'static str) -> Result<i64> {
        self.once(field, name)?;
        self.int(field, &self.at.field(name))
    }

    /// Refuses a second value of a field. Protobuf would take the last or merge them; if this reader checked one and the engine used the
    /// other, the check could be bypassed.
    fn once(&mut self, field: &Field<'a>, name: &'static str) -> Result<()> {
        let bit = 1_u32 << (field.number % 32);
        if self.seen & bit != 0 {
            return Err(Error::bad_field(self.limits.file, self.at.field(name), "the field appears twice"));
        }
        self.seen |= bit;
        Ok(())
    }

    fn mistyped(&self, at: &At<'_>, expected: &str) -> Error {
        Error::bad_field(self.limits.file, at, format!("the field's wire type is not that of {expected}"))
    }
}
