//! The protobuf wire format: reading fields as borrowed slices, and writing them.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

use std::ops::Range;

/// One field of a message.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) payload: Payload<'a>,
    /// Tag and payload, as positions in the file.
    pub(crate) range: Range<usize>,
}

/// The payload of a field, by wire type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    Varint(u64),
    Fixed64,
    Bytes(Slice<'a>),
    Fixed32(u32),
}

/// Bytes with their position in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) start: usize,
}

/// Invalid wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WireError {
    pub(crate) offset: usize,
    pub(crate) problem: &'static str,
}

/// The fields of one message, in file order.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    start: usize,
    at: usize,
}

impl<'a> Slice<'a> {
    /// A whole file or buffer.
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes, start: 0 }
    }

    /// Where the bytes lie in the file.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes.len()
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: Slice<'a>) -> Self {
        Self { bytes: message.bytes, start: message.start, at: 0 }
    }

    /// The next field; `None` at the end of the message.
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let begin = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(self.error(begin, "a field number out of range"))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => self.fixed::<8>().map(|_| Payload::Fixed64)?,
            2 => Payload::Bytes(self.delimited()?),
            5 => Payload::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(self.error(begin, "a wire type that ONNX does not use")),
        };
        Ok(Some(Field { number, payload, range: self.start + begin..self.start + self.at }))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let begin = self.at;
        let (value, length) = varint(&self.bytes[begin..]).map_err(|problem| self.error(begin, problem))?;
        self.at += length;
        Ok(value)
    }

    fn delimited(&mut self) -> Result<Slice<'a>, WireError> {
        let begin = self.at;
        let length = self.varint()?;
        let rest = &self.bytes[self.at..];
        let bytes = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let bytes = bytes.ok_or(self.error(begin, "a length beyond the end of its message: the file is truncated or damaged"))?;
        let start = self.start + self.at;
        self.at += bytes.len();
        Ok(Slice { bytes, start })
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = self.bytes[self.at..].first_chunk().ok_or(self.error(self.at, "the message ends within a number"))?;
        self.at += N;
        Ok(*bytes)
    }

    fn error(&self, at: usize, problem: &'static str) -> WireError {
        WireError { offset: self.start + at, problem }
    }
}

/// The varint at the start of `bytes`, and its length.
pub(crate) fn varint(bytes: &[u8]) -> Result<(u64, usize), &'static str> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok((value, index + 1));
        }
    }
    Err(if bytes.len() < 10 { "the message ends within a number" } else { "a number of more than 64 bits" })
}

/// Writes a number with its tag.
pub(crate) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value.cast_unsigned());
}

/// Writes a float with its tag.
pub(crate) fn put_float(out: &mut Vec<u8>, number: u32, value: f32) {
    put_varint(out, u64::from(number) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes bytes, text or a message with tag and length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_round_trip(value: i64, number in 1_u32..1 << 29) {
            let mut bytes = Vec::new();
            put_int(&mut bytes, number, value);
            let field = Fields::new(Slice::whole(&bytes)).next().unwrap().unwrap();
            prop_assert_eq!(field.number, number);
            prop_assert_eq!(field.range, 0..bytes.len());
            prop_assert!(matches!(field.payload, Payload::Varint(read) if read.cast_signed() == value));
        }

        #[test]
        fn arbitrary_bytes_give_fields_or_an_error(bytes: Vec<u8>) {
            let mut fields = Fields::new(Slice::whole(&bytes));
            let mut end = 0;
            while let Ok(Some(field)) = fields.next() {
                prop_assert_eq!(field.range.start, end);
                end = field.range.end;
            }
            prop_assert!(end <= bytes.len());
        }
    }

    #[test]
    fn invalid_wire_format_error_has_the_offset() {
        let check = |bytes: &[u8], offset: usize, problem| {
            let error = Fields::new(Slice { bytes, start: 100 }).next().unwrap_err();
            assert_eq!(error, WireError { offset: 100 + offset, problem }, "{bytes:?}");
        };
        check(&[0x08, 0x80], 1, "the message ends within a number");
        check(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], 1, "a number of more than 64 bits");
        check(&[0x00, 0x00], 0, "a field number out of range");
        check(&[0x0b], 0, "a wire type that ONNX does not use");
        check(&[0x0d, 1, 2, 3], 1, "the message ends within a number");
        check(&[0x0a, 2, 3], 1, "a length beyond the end of its message: the file is truncated or damaged");
    }
}
