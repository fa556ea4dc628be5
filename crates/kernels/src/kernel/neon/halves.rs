//! Slices of f16. The crate `half` converts them one by one on processors without arithmetic in f16, although NEON has conversions.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::aarch64::*;

use half::f16;

use super::asm::{narrowed_f16, widened_f16};

/// Values of a vector.
const LANES: usize = 8;

/// See [`Float::widen`](crate::float::Float::widen).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn widen(values: &[f16], out: &mut [f32]) {
    let (values, last) = values.as_chunks::<LANES>();
    let (out, last_out) = out.as_chunks_mut::<LANES>();
    for (values, out) in values.iter().zip(out) {
        widen_eight(values, out);
    }
    let (mut padded, mut widened) = ([f16::ZERO; LANES], [0.0; LANES]);
    padded[..last.len()].copy_from_slice(last);
    widen_eight(&padded, &mut widened);
    last_out.copy_from_slice(&widened[..last.len()]);
}

/// See [`Float::narrow`](crate::float::Float::narrow).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn narrow(values: &[f32], out: &mut [f16]) {
    let (values, last) = values.as_chunks::<LANES>();
    let (out, last_out) = out.as_chunks_mut::<LANES>();
    for (values, out) in values.iter().zip(out) {
        narrow_eight(values, out);
    }
    let (mut padded, mut narrowed) = ([0.0; LANES], [f16::ZERO; LANES]);
    padded[..last.len()].copy_from_slice(last);
    narrow_eight(&padded, &mut narrowed);
    last_out.copy_from_slice(&narrowed[..last.len()]);
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_eight(values: &[f16; LANES], out: &mut [f32; LANES]) {
    // SAFETY: the arrays have eight values of two and of four bytes.
    unsafe {
        let [low, high] = widened_f16(vld1q_u16(values.as_ptr().cast()));
        vst1q_f32(out.as_mut_ptr(), low);
        vst1q_f32(out.as_mut_ptr().add(LANES / 2), high);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn narrow_eight(values: &[f32; LANES], out: &mut [f16; LANES]) {
    // SAFETY: the arrays have eight values of four and of two bytes.
    unsafe {
        let wide = [vld1q_f32(values.as_ptr()), vld1q_f32(values.as_ptr().add(LANES / 2))];
        vst1q_u16(out.as_mut_ptr().cast(), narrowed_f16(wide));
    }
}
