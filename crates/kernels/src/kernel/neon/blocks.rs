//! The weights of one block as vectors, in order.
#![expect(unsafe_code, reason = "codes are loaded from addresses")]

use std::arch::aarch64::*;

use crate::quantize::BLOCK;

/// Vectors of floats of a block.
pub(super) const VECTORS: usize = BLOCK / 4;

/// Bytes of a block of eight bits.
pub(super) const EIGHT: usize = BLOCK;

/// Bytes of a block of four bits.
pub(super) const FOUR: usize = BLOCK / 2;

/// The codes of a block as unsigned bytes: `SIZE` is [`EIGHT`] or [`FOUR`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn unsigned<const SIZE: usize>(codes: &[u8; SIZE]) -> [uint8x16_t; 2] {
    const { assert!(SIZE == EIGHT || SIZE == FOUR) };
    // SAFETY: the array has 16 bytes, and of eight bits 32.
    unsafe {
        if SIZE == EIGHT {
            return [vld1q_u8(codes.as_ptr()), vld1q_u8(codes.as_ptr().add(16))];
        }
        let both = vld1q_u8(codes.as_ptr());
        [vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8::<4>(both)]
    }
}

/// Codes as signed bytes: the integers of eight bits, and the codes of four bits as they are, which are below 16.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn signed<const SIZE: usize>(codes: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(if SIZE == EIGHT { veorq_u8(codes, vdupq_n_u8(128)) } else { codes })
}

/// The weights of a block: its integers times `scale`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn floats<const SIZE: usize>(codes: &[u8; SIZE], scale: f32) -> [float32x4_t; VECTORS] {
    let mut floats = [vdupq_n_f32(0.0); VECTORS];
    for (codes, floats) in unsigned::<SIZE>(codes).into_iter().zip(floats.as_chunks_mut::<4>().0) {
        let mut integers = signed::<SIZE>(codes);
        if SIZE == FOUR {
            integers = vsubq_s8(integers, vdupq_n_s8(8));
        }
        for (half, floats) in
            [vmovl_s8(vget_low_s8(integers)), vmovl_high_s8(integers)].into_iter().zip(floats.as_chunks_mut::<2>().0)
        {
            let wide = [vmovl_s16(vget_low_s16(half)), vmovl_high_s16(half)];
            for (wide, float) in wide.into_iter().zip(floats) {
                *float = vmulq_n_f32(vcvtq_f32_s32(wide), scale);
            }
        }
    }
    floats
}
