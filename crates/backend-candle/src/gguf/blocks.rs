//! GGML's blocks as our kernels take them: floats, or codes with a scale and an offset for 32 values.

use tandem_core::DType;
use tandem_core::gguf::TensorType;
use tandem_kernels::quantize::{BLOCK, Bits};

use crate::weights::{bytes_of, widen};

/// The code of zero in four bits.
const ZERO_OF_FOUR: i8 = 8;

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
            kind.each_group(bytes, &mut |group| {
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
    kind.each_group(bytes, &mut |group| {
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
