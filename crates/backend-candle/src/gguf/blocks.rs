//! Decodes GGML's block formats into integers, scales and offsets of 32 values at a time.
//!
//! The layouts: `ggml/src/ggml-common.h` and `dequantize_row_*` of `ggml/src/ggml-quants.c` in
//! <https://github.com/ggml-org/llama.cpp>.

use half::f16;
use tandem_core::DType;
use tandem_core::gguf::TensorType;
use tandem_kernels::quantize::{BLOCK, Bits};

use crate::weights::{bytes_of, widen};

/// The code of zero in four bits.
const ZERO_OF_FOUR: i8 = 8;

/// 32 values, `numbers[i] * scales[i / 16] + offset`.
struct Group {
    numbers: [i8; BLOCK],
    scales: [f32; 2],
    offset: f32,
}

/// The destination of a row of quantised weights.
pub(super) struct Target<'m> {
    pub(super) bits: Bits,
    /// `[blocks, bits.block_bytes()]`
    pub(super) codes: &'m mut [u8],
    /// `[blocks]`
    pub(super) scales: &'m mut [f32],
    /// `[blocks]`; empty if the matrix has no offsets.
    pub(super) offsets: &'m mut [f32],
}

/// Whether the blocks of a type have a minimum beside their scale.
pub(super) fn has_offsets(kind: TensorType) -> bool {
    matches!(kind, TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K)
}

/// Writes the values of a row.
pub(super) fn floats(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    match kind.dtype() {
        dtype @ (DType::F32 | DType::F16 | DType::Bf16) => widen(dtype, bytes, out),
        _ => {
            let mut rest = out.as_chunks_mut::<BLOCK>().0.iter_mut();
            groups(kind, bytes, &mut |group| {
                if let Some(out) = rest.next() {
                    *out = group.values();
                }
            });
        }
    }
}

/// Writes the codes, scales and offsets of a row. Integers that fit are kept; floats and Q6_K are quantised.
pub(super) fn quantized(kind: TensorType, bytes: &[u8], target: Target<'_>) {
    let Target { bits, codes, scales, offsets } = target;
    if let dtype @ (DType::F32 | DType::F16 | DType::Bf16) = kind.dtype() {
        let mut values = vec![0.0; bytes.len() / bytes_of(dtype)];
        widen(dtype, bytes, &mut values);
        bits.quantize(&values, codes, scales);
        return;
    }
    let mut block = 0;
    groups(kind, bytes, &mut |group| {
        let codes = &mut codes[block * bits.block_bytes()..][..bits.block_bytes()];
        if group.scales[0] == group.scales[1] {
            scales[block] = group.scales[0];
            write_codes(bits, &group.numbers, codes);
            if let Some(offset) = offsets.get_mut(block) {
                *offset = group.offset;
            }
        } else {
            bits.quantize(&group.values(), codes, &mut scales[block..=block]);
        }
        block += 1;
    });
}

impl Group {
    fn values(&self) -> [f32; BLOCK] {
        std::array::from_fn(|i| f32::from(self.numbers[i]) * self.scales[i / 16] + self.offset)
    }
}

/// Writes integers in the layout of [`Bits`].
fn write_codes(bits: Bits, numbers: &[i8; BLOCK], codes: &mut [u8]) {
    match bits {
        Bits::Eight => codes.iter_mut().zip(numbers).for_each(|(code, number)| *code = number.cast_unsigned() ^ 128),
        Bits::Four => {
            let half = |i: usize| (numbers[i] + ZERO_OF_FOUR).cast_unsigned();
            codes.iter_mut().enumerate().for_each(|(i, code)| *code = half(i) | half(i + BLOCK / 2) << 4);
        }
    }
}

/// Decodes every block of a row of a quantised type.
fn groups(kind: TensorType, bytes: &[u8], each: &mut dyn FnMut(&Group)) {
    for block in bytes.chunks_exact(kind.block_bytes()) {
        match kind {
            TensorType::Q8_0 => each(&plain(std::array::from_fn(|i| block[2 + i].cast_signed()), half(block, 0), 0.0)),
            TensorType::Q4_0 => each(&plain(nibbles(&block[2..], 8), half(block, 0), 0.0)),
            TensorType::Q4_1 => each(&lifted(nibbles(&block[4..], 8), 8, half(block, 0), half(block, 2))),
            TensorType::Q5_0 => each(&plain(fives(&block[6..], &block[2..]), half(block, 0), 0.0)),
            TensorType::Q5_1 => each(&lifted(fives(&block[8..], &block[4..]), 16, half(block, 0), half(block, 2))),
            TensorType::Q4K | TensorType::Q5K => k_with_minimums(kind, block, each),
            TensorType::Q6K => q6_k(block, each),
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => {}
            _ => {}
        }
    }
}

fn plain(numbers: [i8; BLOCK], scale: f32, offset: f32) -> Group {
    Group { numbers, scales: [scale; 2], offset }
}

/// A group whose integers are `zero` less than those of the file, whose values are `integer * scale + minimum`.
fn lifted(numbers: [i8; BLOCK], zero: u8, scale: f32, minimum: f32) -> Group {
    plain(numbers, scale, f32::from(zero) * scale + minimum)
}

/// Four bits each, less `zero`: value `i` in the low half of byte `i`, value `i + 16` in the high half.
fn nibbles(bytes: &[u8], zero: i8) -> [i8; BLOCK] {
    std::array::from_fn(|i| (bytes[i % 16] >> (4 * (i / 16)) & 15).cast_signed() - zero)
}

/// Five bits each, less 16: four as in [`nibbles`], the fifth in bit `i` of `high`.
fn fives(bytes: &[u8], high: &[u8]) -> [i8; BLOCK] {
    let low = nibbles(bytes, 0);
    std::array::from_fn(|i| low[i] + ((high[i / 8] >> (i % 8) & 1) << 4).cast_signed() - 16)
}

/// Q4_K and Q5_K: eight groups, two for every 32 bytes of four bits each, with scales and minimums of six bits.
fn k_with_minimums(kind: TensorType, block: &[u8], each: &mut dyn FnMut(&Group)) {
    let (scale, minimum, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    let (high, low) = if kind == TensorType::Q5K { (Some(&block[16..48]), &block[48..]) } else { (None, &block[16..]) };
    let zero = if high.is_some() { 16 } else { 8 };
    for group in 0..8 {
        let bytes = &low[group / 2 * BLOCK..][..BLOCK];
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
