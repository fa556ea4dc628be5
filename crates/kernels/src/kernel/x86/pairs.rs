//! Products of pairs of bf16 with the dot products of AVX-512 (`vdpbf16ps`).
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::x86_64::*;

use crate::tiles::{Lanes, TILE};

/// See [`PairProducts::add`](crate::kernel::PairProducts::add).
#[target_feature(enable = "avx512f,avx512bf16")]
pub(in crate::kernel) fn add(columns: &[[u32; TILE]], inputs: &[u32], stride: usize, lanes: Lanes, sums: &mut [f32]) {
    match lanes {
        Lanes::All => of_lanes::<2>(columns, inputs, stride, sums),
        Lanes::Half => of_lanes::<1>(columns, inputs, stride, sums),
    }
}

/// The first `V` vectors of a tile.
#[target_feature(enable = "avx512f,avx512bf16")]
fn of_lanes<const V: usize>(columns: &[[u32; TILE]], inputs: &[u32], stride: usize, sums: &mut [f32]) {
    match sums.len() / TILE {
        1 => of::<1, V>(columns, inputs, stride, sums),
        2 => of::<2, V>(columns, inputs, stride, sums),
        3 => of::<3, V>(columns, inputs, stride, sums),
        4 => of::<4, V>(columns, inputs, stride, sums),
        5 => of::<5, V>(columns, inputs, stride, sums),
        6 => of::<6, V>(columns, inputs, stride, sums),
        7 => of::<7, V>(columns, inputs, stride, sums),
        8 => of::<8, V>(columns, inputs, stride, sums),
        9 => of::<9, V>(columns, inputs, stride, sums),
        10 => of::<10, V>(columns, inputs, stride, sums),
        11 => of::<11, V>(columns, inputs, stride, sums),
        _ => of::<12, V>(columns, inputs, stride, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn of<const N: usize, const V: usize>(columns: &[[u32; TILE]], inputs: &[u32], stride: usize, sums: &mut [f32]) {
    let mut totals = [[_mm512_setzero_ps(); V]; N];
    for (columns, inputs) in columns.iter().zip(inputs.chunks(stride)) {
        let inputs: &[u32; N] = inputs.first_chunk().expect("a row has all inputs");
        let mut loaded = [_mm512_setzero_si512(); V];
        for (loaded, words) in loaded.iter_mut().zip(columns.as_chunks::<16>().0) {
            // SAFETY: the array has sixteen words of four bytes.
            *loaded = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        }
        for (totals, pair) in totals.iter_mut().zip(inputs) {
            let pair = halves(_mm512_set1_epi32(pair.cast_signed()));
            for (total, loaded) in totals.iter_mut().zip(&loaded) {
                *total = _mm512_dpbf16_ps(*total, halves(*loaded), pair);
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums.as_chunks_mut::<TILE>().0) {
        for (total, sums) in totals.iter().zip(sums.as_chunks_mut::<16>().0) {
            // SAFETY: the array has sixteen floats.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(*total, _mm512_loadu_ps(sums.as_ptr()))) };
        }
    }
}

/// The same bits as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn halves(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes that may have any value.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(words) }
}
