//! Decodes GGML's block formats into integers, scales and offsets of 32 values at a time.
//!
//! The layouts: `ggml/src/ggml-common.h` and `dequantize_row_*` of `ggml/src/ggml-quants.c` in
//! <https://github.com/ggml-org/llama.cpp>.

use half::f16;

use super::types::TensorType;

/// Values of a [`Group`].
const VALUES: usize = 32;

/// 32 values that follow each other in a row: `numbers[i] * scales[i / 16] + offset`.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The integers, with a sign.
    pub numbers: [i8; VALUES],
    /// The scale of each half.
    pub scales: [f32; 2],
    /// What is added to every value.
    pub offset: f32,
}

impl Group {
    /// The values in f32.
    pub fn values(&self) -> [f32; VALUES] {
        std::array::from_fn(|i| f32::from(self.numbers[i]) * self.scales[i / 16] + self.offset)
    }
}

impl TensorType {
    /// Decodes whole blocks of a quantised type: calls `each` with the groups in their order. Floats have none.
    pub fn each_group(self, bytes: &[u8], each: &mut dyn FnMut(&Group)) {
        for block in bytes.chunks_exact(self.block_bytes()) {
            match self {
                Self::Q8_0 => each(&plain(std::array::from_fn(|i| block[2 + i].cast_signed()), half(block, 0), 0.0)),
                Self::Q4_0 => each(&plain(nibbles(&block[2..], 8), half(block, 0), 0.0)),
                Self::Q4_1 => each(&lifted(nibbles(&block[4..], 8), 8, half(block, 0), half(block, 2))),
                Self::Q5_0 => each(&plain(fives(&block[6..], &block[2..]), half(block, 0), 0.0)),
                Self::Q5_1 => each(&lifted(fives(&block[8..], &block[4..]), 16, half(block, 0), half(block, 2))),
                Self::Q4K | Self::Q5K => k_with_minimums(self, block, each),
                Self::Q6K => q6_k(block, each),
                Self::F32 | Self::F16 | Self::Bf16 => {}
            }
        }
    }
}

fn plain(numbers: [i8; VALUES], scale: f32, offset: f32) -> Group {
    Group { numbers, scales: [scale; 2], offset }
}

/// A group whose integers are `zero` less than those of the file, whose values are `integer * scale + minimum`.
fn lifted(numbers: [i8; VALUES], zero: u8, scale: f32, minimum: f32) -> Group {
    plain(numbers, scale, f32::from(zero) * scale + minimum)
}

/// Four bits each, less `zero`: value `i` in the low half of byte `i`, value `i + 16` in the high half.
fn nibbles(bytes: &[u8], zero: i8) -> [i8; VALUES] {
    std::array::from_fn(|i| (bytes[i % 16] >> (4 * (i / 16)) & 15).cast_signed() - zero)
}

/// Five bits each, less 16: four as in [`nibbles`], the fifth in bit `i` of `high`.
fn fives(bytes: &[u8], high: &[u8]) -> [i8; VALUES] {
    let low = nibbles(bytes, 0);
    std::array::from_fn(|i| low[i] + ((high[i / 8] >> (i % 8) & 1) << 4).cast_signed() - 16)
}

/// Q4_K and Q5_K: eight groups, two for every 32 bytes of four bits each, with scales and minimums of six bits.
fn k_with_minimums(kind: TensorType, block: &[u8], each: &mut dyn FnMut(&Group)) {
    let (scale, minimum, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    let (high, low) = if kind == TensorType::Q5K { (Some(&block[16..48]), &block[48..]) } else { (None, &block[16..]) };
    let zero = if high.is_some() { 16 } else { 8 };
    for group in 0..8 {
        let bytes = &low[group / 2 * VALUES..][..VALUES];
        let numbers = std::array::from_fn(|i| {
            let fifth = high.map_or(0, |high| (high[i] >> group & 1) << 4);
            ((bytes[i] >> (4 * (group % 2)) & 15) | fifth).cast_signed() - zero
        });
        let (own_scale, own_minimum) = six_bits(packed, group);
        each(&lifted(numbers, zero.cast_unsigned(), scale * f32::from(own_scale), -minimum * f32::from(own_minimum)));
    }
}

/// Scale and minimum of a group: `get_scale_min_k4`.
fn six_bits(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let scale = packed[group + 4] & 15 | packed[group - 4] >> 6 << 4;
    let minimum = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
    (scale, minimum)
}

/// Q6_K: two halves of 128 values; the low four bits of value `i` and `i + 64` of a half share a byte, the high two bits of `i`,
/// `i + 32`, `i + 64` and `i + 96` another.
fn q6_k(block: &[u8], each: &mut dyn FnMut(&Group)) {
    let (low, high, scales, scale) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for group in 0..8 {
        let (part, quarter) = (group / 4, group % 4);
        let (low, high) = (&low[64 * part..], &high[32 * part..]);
        let numbers = std::array::from_fn(|i| {
            let low = low[32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
            (low | (high[i] >> (2 * quarter) & 3) << 4).cast_signed() - 32
        });
        let own = |i: usize| scale * f32::from(scales[2 * group + i].cast_signed());
        each(&Group { numbers, scales: [own(0), own(1)], offset: 0.0 });
    }
}

/// The f16 at byte `at`.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
