//! Products of tiles, and the transposition of rows into tiles.

use std::arch::aarch64::*;

use super::floats::{load, store};
use crate::tiles::{Lanes, TILE};

/// Values of a vector.
const LANES: usize = 4;

/// Vectors of rows that go together: their sums with six inputs fill the registers.
const VECTORS: usize = 4;

/// See [`Isa::tile`](crate::isa::Isa::tile).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn tile(weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
    let n = sums.len() / TILE;
    columns_tile(weights, inputs, n, Lanes::All, sums);
}

/// See [`Isa::columns_tile`](crate::isa::Isa::columns_tile).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn columns_tile(columns: &[f32], inputs: &[f32], stride: usize, lanes: Lanes, sums: &mut [f32]) {
    match sums.len() / TILE {
        1 => of::<1>(columns, inputs, stride, lanes, sums),
        2 => of::<2>(columns, inputs, stride, lanes, sums),
        3 => of::<3>(columns, inputs, stride, lanes, sums),
        4 => of::<4>(columns, inputs, stride, lanes, sums),
        5 => of::<5>(columns, inputs, stride, lanes, sums),
        6 => of::<6>(columns, inputs, stride, lanes, sums),
        n => unreachable!("{n} inputs are more than a tile takes"),
    }
}

#[target_feature(enable = "neon")]
fn of<const N: usize>(weights: &[f32], inputs: &[f32], stride: usize, lanes: Lanes, sums: &mut [f32]) {
    for part in 0..lanes.number() / (VECTORS * LANES) {
        let own = part * VECTORS..(part + 1) * VECTORS;
        let mut totals = [[vdupq_n_f32(0.0); VECTORS]; N];
        for (weights, inputs) in weights.as_chunks::<TILE>().0.iter().zip(inputs.chunks(stride)) {
            let inputs: &[f32; N] = inputs.first_chunk().expect("a row has all inputs");
            let mut loaded = [vdupq_n_f32(0.0); VECTORS];
            for (loaded, weights) in loaded.iter_mut().zip(&weights.as_chunks().0[own.clone()]) {
                *loaded = load(weights);
            }
            for (totals, input) in totals.iter_mut().zip(inputs) {
                for (total, weights) in totals.iter_mut().zip(&loaded) {
                    *total = vfmaq_n_f32(*total, *weights, *input);
                }
            }
        }
        for (totals, sums) in totals.iter().zip(sums.as_chunks_mut::<TILE>().0) {
            for (total, sums) in totals.iter().zip(&mut sums.as_chunks_mut().0[own.clone()]) {
                store(vaddq_f32(*total, load(sums)), sums);
            }
        }
    }
}

/// See [`Isa::transpose`](crate::isa::Isa::transpose): how many columns and rows are done is the result; the rest is left.
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn transpose(rows: &[f32], stride: usize, inner: usize, out: &mut [f32]) -> (usize, usize) {
    let n_rows = ((rows.len() - inner) / stride + 1) / LANES * LANES;
    let inner = inner / LANES * LANES;
    for first in (0..n_rows).step_by(LANES) {
        for start in (0..inner).step_by(LANES) {
            let mut square = [vdupq_n_f32(0.0); LANES];
            for (r, square) in square.iter_mut().enumerate() {
                *square = load(rows[(first + r) * stride + start..].first_chunk().expect("rows have the inner length"));
            }
            for (out, column) in out[start * TILE..].chunks_exact_mut(TILE).zip(transposed(square)) {
                store(column, out[first..].first_chunk_mut().expect("a tile is whole vectors"));
            }
        }
    }
    (inner, n_rows)
}

/// Row `i` of the result is column `i` of the rows.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn transposed([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let (even_ab, odd_ab) = (vreinterpretq_f64_f32(vtrn1q_f32(a, b)), vreinterpretq_f64_f32(vtrn2q_f32(a, b)));
    let (even_cd, odd_cd) = (vreinterpretq_f64_f32(vtrn1q_f32(c, d)), vreinterpretq_f64_f32(vtrn2q_f32(c, d)));
    [
        vreinterpretq_f32_f64(vtrn1q_f64(even_ab, even_cd)),
        vreinterpretq_f32_f64(vtrn1q_f64(odd_ab, odd_cd)),
        vreinterpretq_f32_f64(vtrn2q_f64(even_ab, even_cd)),
        vreinterpretq_f32_f64(vtrn2q_f64(odd_ab, odd_cd)),
    ]
}
