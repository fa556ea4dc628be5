//! Vectors as they are written: types of values, lines of JSON, rows of NumPy's arrays.

use std::io::Write;

use half::f16;
use serde::Serialize;

use crate::args::Precision;

/// What is written of one text, or of one chunk of it.
pub(super) struct Row<'r> {
    pub(super) index: usize,
    pub(super) part: Option<Part>,
    pub(super) text: Option<&'r str>,
    pub(super) n_tokens: usize,
    pub(super) n_cut: usize,
    pub(super) vector: &'r [f32],
}

/// Which chunk of its text it is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Part {
    /// Counted from 0 in each text.
    pub(super) chunk: usize,
    /// Its first character in the text, counted in code points as Python does.
    pub(super) start: usize,
    /// The first character behind it.
    pub(super) end: usize,
}

#[derive(Serialize)]
struct JsonRow<'r, V: Serialize> {
    index: usize,
    #[serde(flatten)]
    part: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'r str>,
    n_tokens: usize,
    #[serde(skip_serializing_if = "is_false")]
    truncated: bool,
    embedding: V,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Precision {
    /// The name of NumPy for the type.
    pub(super) fn numpy(self) -> &'static str {
        match self {
            Self::F32 => "<f4",
            Self::F16 => "<f2",
            Self::Int8 => "|i1",
            Self::Binary => "|u1",
        }
    }

    /// Values of a row for vectors of `dimensions`.
    pub(super) fn width(self, dimensions: usize) -> usize {
        if self == Self::Binary { dimensions.div_ceil(8) } else { dimensions }
    }

    /// Bytes of a row for vectors of `dimensions`.
    pub(super) fn row_bytes(self, dimensions: usize) -> usize {
        let size = match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Int8 | Self::Binary => 1,
        };
        size * self.width(dimensions)
    }

    /// Appends the bytes of a row to `out`, little-endian.
    pub(super) fn write(self, vector: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => vector.iter().for_each(|value| out.extend(value.to_le_bytes())),
            Self::F16 => vector.iter().for_each(|value| out.extend(f16::from_f32(*value).to_le_bytes())),
            Self::Int8 => out.extend(scaled(vector).iter().map(|value| value.to_le_bytes()[0])),
            Self::Binary => out.extend(bits(vector)),
        }
    }
}

impl Row<'_> {
    /// Appends it as one line of JSON.
    pub(super) fn write_json(&self, precision: Precision, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match precision {
            Precision::F32 => self.write_json_of(self.vector, out),
            // The shortest text of a 16-bit value would be read as another one by a reader of 32 bits.
            Precision::F16 => {
                self.write_json_of(self.vector.iter().map(|value| f16::from_f32(*value).to_f32()).collect::<Vec<_>>(), out)
            }
            Precision::Int8 => self.write_json_of(scaled(self.vector), out),
            Precision::Binary => self.write_json_of(bits(self.vector), out),
        }
    }

    fn write_json_of(&self, embedding: impl Serialize, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let &Self { index, part, text, n_tokens, n_cut, .. } = self;
        serde_json::to_writer(&mut *out, &JsonRow { index, part, text, n_tokens, truncated: n_cut > 0, embedding })?;
        // Nothing fails to be added to a vector.
        let _ = out.write_all(b"\n");
        Ok(())
    }
}

/// Scaled so that the largest is 127: the angle to other vectors stays, to within rounding.
pub(super) fn scaled(vector: &[f32]) -> Vec<i8> {
    let largest = vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    vector.iter().map(|value| (value * scale).round() as i8).collect()
}

/// A bit for each value, as `numpy.packbits(vector > 0)`.
pub(super) fn bits(vector: &[f32]) -> Vec<u8> {
    vector
        .chunks(8)
        .map(|values| values.iter().enumerate().fold(0, |byte, (i, value)| byte | (u8::from(*value > 0.0) << (7 - i))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: [f32; 9] = [0.5, -0.25, 0.0, 1.0, -1.0, 0.1, 0.2, -0.3, 0.7];

    #[test]
    fn rows_have_the_bytes_that_numpy_expects() {
        for precision in [Precision::F32, Precision::F16, Precision::Int8, Precision::Binary] {
            let mut out = Vec::new();
            precision.write(&VECTOR, &mut out);
            assert_eq!(out.len(), precision.row_bytes(VECTOR.len()), "{precision:?}");
        }
        assert_eq!(scaled(&VECTOR), [64, -32, 0, 127, -127, 13, 25, -38, 89]);
        assert_eq!(bits(&VECTOR), [0b1001_0110, 0b1000_0000]);
        assert_eq!(scaled(&[0.0; 3]), [0; 3]);
    }

    #[test]
    fn a_line_of_json_has_what_is_there() {
        let line = |part, text, n_cut, precision| {
            let mut out = Vec::new();
            Row { index: 3, part, text, n_tokens: 5, n_cut, vector: &VECTOR[..2] }.write_json(precision, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            line(None, Some("a"), 0, Precision::F32),
            "{\"index\":3,\"text\":\"a\",\"n_tokens\":5,\"embedding\":[0.5,-0.25]}\n"
        );
        let part = Some(Part { chunk: 1, start: 4, end: 9 });
        assert_eq!(
            line(part, None, 0, Precision::Int8),
            "{\"index\":3,\"chunk\":1,\"start\":4,\"end\":9,\"n_tokens\":5,\"embedding\":[127,-64]}\n"
        );
        assert_eq!(
            line(None, None, 2, Precision::Int8),
            "{\"index\":3,\"n_tokens\":5,\"truncated\":true,\"embedding\":[127,-64]}\n"
        );
    }
}
