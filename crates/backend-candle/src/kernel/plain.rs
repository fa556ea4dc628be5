//! The loops in plain Rust, for processors without wide vectors.

use super::TILE;
use crate::quantize::{BLOCK, Blocks};

/// Sums that run side by side: what the compiler turns into one vector register or two.
const LANES: usize = 8;

/// See [`Level::products`](super::Level::products).
pub(super) fn products(weights: &[f32], inputs: &[f32], columns: usize, out: &mut [f32]) {
    let n = inputs.len() / columns;
    for (row, out) in weights.chunks_exact(columns).zip(out.chunks_exact_mut(n)) {
        for (input, out) in inputs.chunks_exact(columns).zip(out) {
            *out = dot(row, input);
        }
    }
}

/// See [`Level::block_products`](super::Level::block_products).
pub(super) fn block_products(weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
    let n = inputs.len() / columns;
    let mut floats = [0.0; BLOCK];
    out.fill(0.0);
    for (row, out) in out.chunks_exact_mut(n).enumerate() {
        for block in 0..columns / BLOCK {
            weights.rows(row..row + 1, columns).block(block).dequantize(&mut floats);
            for (input, out) in inputs.chunks_exact(columns).zip(out.iter_mut()) {
                *out += dot(&floats, &input[block * BLOCK..(block + 1) * BLOCK]);
            }
        }
    }
}

/// See [`Level::weighted_sums`](super::Level::weighted_sums).
pub(super) fn weighted_sums(weights: &[f32], values: &[f32], width: usize, out: &mut [f32]) {
    let n = out.len() / width;
    for (weights, values) in weights.chunks_exact(n).zip(values.chunks_exact(width)) {
        for (weight, out) in weights.iter().zip(out.chunks_exact_mut(width)) {
            out.iter_mut().zip(values).for_each(|(out, value)| *out += weight * value);
        }
    }
}

/// See [`Level::tile`](super::Level::tile).
pub(super) fn tile(weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
    let n = sums.len() / TILE;
    for (weights, inputs) in weights.as_chunks::<TILE>().0.iter().zip(inputs.chunks_exact(n)) {
        for (input, sums) in inputs.iter().zip(sums.as_chunks_mut::<TILE>().0) {
            sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * input);
        }
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for (sum, (left, right)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum += left * right;
        }
    }
    sums.iter().sum::<f32>() + left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum::<f32>()
}
