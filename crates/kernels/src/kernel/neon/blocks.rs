//! The weights of one block as vectors, in order.
#![expect(unsafe_code, reason = "codes are loaded from addresses")]

use std::arch::aarch64::*;

use crate::quantize::BLOCK;

/// Vectors of floats of a block.
pub(super) const VECTORS: usize = BLOCK / 4;

/// The codes of a block of `B` bits as unsigned bytes; `codes` begins with them.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn unsigned<const B: usize>(codes: &[u8]) -> [uint8x16_t; 2] {
    let codes = &codes[..B * BLOCK / 8];
    // SAFETY: the slice has the 32 bytes (`B` is 8) or 16 bytes (4) that are loaded.
    unsafe {
        if B == 8 {
            return [vld1q_u8(codes.as_ptr()), vld1q_u8(codes.as_ptr().add(16))];
        }
        let both = vld1q_u8(codes.as_ptr());
        [vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8::<4>(both)]
    }
}

/// Codes as signed bytes: the integers of eight bits, and the codes of four bits as they are, which are below 16.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn signed<const B: usize>(codes: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(if B == 8 { veorq_u8(codes, vdupq_n_u8(128)) } else { codes })
}

/// The weights of a block of `B` bits: its integers times `scale`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn floats<const B: usize>(codes: &[u8], scale: f32) -> [float32x4_t; VECTORS] {
    let mut floats = [vdupq_n_f32(0.0); VECTORS];
    for (codes, floats) in unsigned::<B>(codes).into_iter().zip(floats.as_chunks_mut::<4>().0) {
        let mut integers = signed::<B>(codes);
        if B == 4 {
            integers = vsubq_s8(integers, vdupq_n_s8(8));
        }
        for (half, floats) in [vmovl_s8(vget_low_s8(integers)), vmovl_high_s8(integers)].into_iter().zip(floats.as_chunks_mut::<2>().0) {
            let wide = [vmovl_s16(vget_low_s16(half)), vmovl_high_s16(half)];
            for (wide, float) in wide.into_iter().zip(floats) {
                *float = vmulq_n_f32(vcvtq_f32_s32(wide), scale);
            }
        }
    }
    floats
}
