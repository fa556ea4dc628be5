//! Products and sums of floats. What has 16 bits is widened in registers.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::aarch64::*;

use tandem_core::DType;

use super::asm::widened_f16;
use super::blocks::{EIGHT, FOUR, floats};
pub(in crate::kernel) use super::tiles::{columns_tile, tile, transpose};
use crate::float::Float;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::tiles::TILE;

/// Values of a vector.
const LANES: usize = 4;

/// Columns that are read at a time, two vectors with a sum for each: a vector of f16 or bf16.
const PAIR: usize = 2 * LANES;

/// The most inputs whose sums fit the registers, with those of two rows.
const TOGETHER: usize = 4;

/// See [`Isa::products`](crate::isa::Isa::products).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn products<F: Float>(weights: &[F], inputs: &[f32], columns: usize, out: &mut [f32]) {
    let n = inputs.len() / columns;
    match n {
        1 => by_rows::<F, 4, 1>(weights, inputs, columns, n, out),
        2 => by_rows::<F, 4, 2>(weights, inputs, columns, n, out),
        3 => by_rows::<F, 2, 3>(weights, inputs, columns, n, out),
        4 => by_rows::<F, 2, 4>(weights, inputs, columns, n, out),
        // Each two rows are read twice, the second time from the nearest cache.
        _ => {
            let (first, rest) = inputs.split_at(TOGETHER * columns);
            for (weights, out) in weights.chunks(2 * columns).zip(out.chunks_mut(2 * n)) {
                by_rows::<F, 2, 4>(weights, first, columns, n, out);
                let out = &mut out[TOGETHER..];
                match n - TOGETHER {
                    1 => by_rows::<F, 2, 1>(weights, rest, columns, n, out),
                    2 => by_rows::<F, 2, 2>(weights, rest, columns, n, out),
                    3 => by_rows::<F, 2, 3>(weights, rest, columns, n, out),
                    _ => by_rows::<F, 2, 4>(weights, rest, columns, n, out),
                }
            }
        }
    }
}

/// The products of `R` rows at a time with `N` inputs; `stride` is what the outputs of two rows are apart.
#[target_feature(enable = "neon")]
fn by_rows<F: Float, const R: usize, const N: usize>(
    weights: &[F],
    inputs: &[f32],
    columns: usize,
    stride: usize,
    out: &mut [f32],
) {
    let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i * columns..(i + 1) * columns]);
    for (weights, out) in weights.chunks(R * columns).zip(out.chunks_mut(R * stride)) {
        if weights.len() == R * columns {
            rows_of::<F, R, N>(weights, &inputs, columns, stride, out);
        } else {
            for (row, out) in weights.chunks_exact(columns).zip(out.chunks_mut(stride)) {
                rows_of::<F, 1, N>(row, &inputs, columns, stride, out);
            }
        }
    }
}

/// A product is added up in one order whatever `R` and `N` are, so that an input has the same bits whatever it is multiplied together with.
#[target_feature(enable = "neon")]
fn rows_of<F: Float, const R: usize, const N: usize>(
    weights: &[F],
    inputs: &[&[f32]; N],
    columns: usize,
    stride: usize,
    out: &mut [f32],
) {
    // Cut to one length, so that the loop needs no bounds checks.
    let whole = columns / PAIR;
    let rows: [&[F]; R] = std::array::from_fn(|r| &weights[r * columns..(r + 1) * columns]);
    let row_pairs = rows.map(|row| &row.as_chunks::<PAIR>().0[..whole]);
    let input_pairs = inputs.map(|input| &input.as_chunks::<PAIR>().0[..whole]);
    let mut sums = [[[vdupq_n_f32(0.0); 2]; N]; R];
    for i in 0..whole {
        let mut loaded = [[vdupq_n_f32(0.0); 2]; N];
        for (loaded, input) in loaded.iter_mut().zip(&input_pairs) {
            *loaded = load_pair(&input[i]);
        }
        for (sums, row) in sums.iter_mut().zip(&row_pairs) {
            let weight = widened(&row[i]);
            for (sum, loaded) in sums.iter_mut().zip(&loaded) {
                *sum = [vfmaq_f32(sum[0], weight[0], loaded[0]), vfmaq_f32(sum[1], weight[1], loaded[1])];
            }
        }
    }
    let rest = whole * PAIR;
    for ((sums, row), out) in sums.iter().zip(&rows).zip(out.chunks_mut(stride)) {
        let mut totals = [vdupq_n_f32(0.0); TOGETHER];
        for (total, [even, odd]) in totals.iter_mut().zip(sums) {
            *total = vaddq_f32(*even, *odd);
        }
        let mut added = [0.0; LANES];
        store(sums_of_lanes(totals), &mut added);
        out[..N].copy_from_slice(&added[..N]);
        if rest < columns {
            for (input, out) in inputs.iter().zip(out) {
                *out += row[rest..].iter().zip(&input[rest..]).map(|(weight, input)| weight.widened() * input).sum::<f32>();
            }
        }
    }
}

/// The sum of the lanes of each vector: neighbours first.
#[inline]
#[target_feature(enable = "neon")]
fn sums_of_lanes([a, b, c, d]: [float32x4_t; 4]) -> float32x4_t {
    vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))
}

/// See [`Isa::block_products`](crate::isa::Isa::block_products).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn block_products(weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
    match weights.bits {
        Bits::Eight => of_size::<EIGHT>(weights, inputs, columns, out),
        Bits::Four => of_size::<FOUR>(weights, inputs, columns, out),
    }
}

#[target_feature(enable = "neon")]
fn of_size<const SIZE: usize>(weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
    match inputs.len() / columns {
        1 => block_tiles::<SIZE, 4, 1>(weights, inputs, columns, out),
        2 => block_tiles::<SIZE, 2, 2>(weights, inputs, columns, out),
        3 => block_tiles::<SIZE, 1, 3>(weights, inputs, columns, out),
        4 => block_tiles::<SIZE, 1, 4>(weights, inputs, columns, out),
        5 => block_tiles::<SIZE, 1, 5>(weights, inputs, columns, out),
        6 => block_tiles::<SIZE, 1, 6>(weights, inputs, columns, out),
        7 => block_tiles::<SIZE, 1, 7>(weights, inputs, columns, out),
        _ => block_tiles::<SIZE, 1, 8>(weights, inputs, columns, out),
    }
}

#[target_feature(enable = "neon")]
fn block_tiles<const SIZE: usize, const R: usize, const N: usize>(
    weights: Blocks<'_>,
    inputs: &[f32],
    columns: usize,
    out: &mut [f32],
) {
    let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i * columns..(i + 1) * columns]);
    let rows = out.len() / N;
    let whole = rows - rows % R;
    for first in (0..whole).step_by(R) {
        let weights = weights.rows(first..first + R, columns);
        block_tile::<SIZE, R, N>(weights, &inputs, columns, &mut out[first * N..(first + R) * N]);
    }
    for row in whole..rows {
        let weights = weights.rows(row..row + 1, columns);
        block_tile::<SIZE, 1, N>(weights, &inputs, columns, &mut out[row * N..(row + 1) * N]);
    }
}

#[target_feature(enable = "neon")]
fn block_tile<const SIZE: usize, const R: usize, const N: usize>(
    weights: Blocks<'_>,
    inputs: &[&[f32]; N],
    columns: usize,
    out: &mut [f32],
) {
    let blocks = columns / BLOCK;
    // Cut to one length, so that the loop needs no bounds checks.
    let rows: [Blocks<'_>; R] = std::array::from_fn(|r| weights.rows(r..r + 1, columns));
    let rows = rows.map(|row| (&row.codes.as_chunks::<SIZE>().0[..blocks], &row.scales[..blocks]));
    let inputs = inputs.map(|input| &input.as_chunks::<BLOCK>().0[..blocks]);
    let mut sums = [[[vdupq_n_f32(0.0); 2]; N]; R];
    for block in 0..blocks {
        for (sums, (codes, scales)) in sums.iter_mut().zip(&rows) {
            let floats = floats(&codes[block], scales[block]);
            for (pair, weight) in floats.as_chunks::<2>().0.iter().enumerate() {
                for (sum, input) in sums.iter_mut().zip(&inputs) {
                    let loaded = load_pair(&input[block].as_chunks().0[pair]);
                    *sum = [vfmaq_f32(sum[0], weight[0], loaded[0]), vfmaq_f32(sum[1], weight[1], loaded[1])];
                }
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(N)) {
        for ([even, odd], out) in sums.iter().zip(out) {
            let total = vaddq_f32(*even, *odd);
            *out = vgetq_lane_f32::<0>(sums_of_lanes([total; 4]));
        }
    }
}

/// See [`Blocks::dequantize`].
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn dequantize(weights: Blocks<'_>, out: &mut [f32]) {
    match weights.bits {
        Bits::Eight => dequantize_blocks::<EIGHT>(weights, out),
        Bits::Four => dequantize_blocks::<FOUR>(weights, out),
    }
}

#[target_feature(enable = "neon")]
fn dequantize_blocks<const SIZE: usize>(weights: Blocks<'_>, out: &mut [f32]) {
    let blocks = weights.codes.as_chunks::<SIZE>().0.iter().zip(weights.scales);
    for ((codes, scale), out) in blocks.zip(out.as_chunks_mut::<BLOCK>().0) {
        for (vector, out) in floats(codes, *scale).into_iter().zip(out.as_chunks_mut().0) {
            store(vector, out);
        }
    }
}

/// See [`Isa::weighted_sums`](crate::isa::Isa::weighted_sums).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn weighted_sums<F: Float>(weights: &[f32], values: &[F], width: usize, out: &mut [f32]) {
    match out.len() / width {
        1 => sums_of::<F, 1, 2>(weights, values, width, out),
        2 => sums_of::<F, 2, 2>(weights, values, width, out),
        3 => sums_of::<F, 3, 2>(weights, values, width, out),
        4 => sums_of::<F, 4, 2>(weights, values, width, out),
        5 => sums_of::<F, 5, 1>(weights, values, width, out),
        6 => sums_of::<F, 6, 1>(weights, values, width, out),
        7 => sums_of::<F, 7, 1>(weights, values, width, out),
        _ => sums_of::<F, 8, 1>(weights, values, width, out),
    }
}

#[target_feature(enable = "neon")]
fn sums_of<F: Float, const N: usize, const V: usize>(weights: &[f32], values: &[F], width: usize, out: &mut [f32]) {
    let mut start = 0;
    while start + V * PAIR <= width {
        sums_from::<F, N, V>(weights, values, width, start, out);
        start += V * PAIR;
    }
    while start + PAIR <= width {
        sums_from::<F, N, 1>(weights, values, width, start, out);
        start += PAIR;
    }
    for (weights, values) in weights.as_chunks::<N>().0.iter().zip(values.chunks_exact(width)) {
        for (weight, out) in weights.iter().zip(out.chunks_exact_mut(width)) {
            out[start..].iter_mut().zip(&values[start..]).for_each(|(out, value)| *out += weight * value.widened());
        }
    }
}

/// The columns of `V` pairs of vectors from `start` on: the sums stay in registers.
#[target_feature(enable = "neon")]
fn sums_from<F: Float, const N: usize, const V: usize>(
    weights: &[f32],
    values: &[F],
    width: usize,
    start: usize,
    out: &mut [f32],
) {
    let mut sums = [[[vdupq_n_f32(0.0); 2]; V]; N];
    for (weights, values) in weights.as_chunks::<N>().0.iter().zip(values.chunks_exact(width)) {
        let values = &values[start..start + V * PAIR];
        for (pair, values) in values.as_chunks::<PAIR>().0.iter().enumerate() {
            let loaded = widened(values);
            for (sums, weight) in sums.iter_mut().zip(weights) {
                let [even, odd] = sums[pair];
                sums[pair] = [vfmaq_n_f32(even, loaded[0], *weight), vfmaq_n_f32(odd, loaded[1], *weight)];
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(width)) {
        for (sum, out) in sums.as_flattened().iter().zip(out[start..start + V * PAIR].as_chunks_mut().0) {
            store(vaddq_f32(*sum, load(out)), out);
        }
    }
}

/// See [`Isa::add_tiles`](crate::isa::Isa::add_tiles). Two sums for each output hide the latency of additions.
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn add_tiles<F: Float>(tiles: &[F], inputs: &[f32], out: &mut [f32]) {
    for (tile, out) in tiles.chunks_exact(inputs.len() * TILE).zip(out.as_chunks_mut::<TILE>().0) {
        let mut sums = [[[vdupq_n_f32(0.0); 2]; TILE / PAIR]; 2];
        for (i, (row, input)) in tile.as_chunks::<TILE>().0.iter().zip(inputs).enumerate() {
            for (sum, weights) in sums[i % 2].iter_mut().zip(row.as_chunks::<PAIR>().0) {
                let weights = widened(weights);
                *sum = [vfmaq_n_f32(sum[0], weights[0], *input), vfmaq_n_f32(sum[1], weights[1], *input)];
            }
        }
        let [even, odd] = &sums;
        for ((even, odd), out) in even.as_flattened().iter().zip(odd.as_flattened()).zip(out.as_chunks_mut().0) {
            store(vaddq_f32(vaddq_f32(*even, *odd), load(out)), out);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(values: &[f32; LANES]) -> float32x4_t {
    // SAFETY: the array has one value for each lane.
    unsafe { vld1q_f32(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store(vector: float32x4_t, values: &mut [f32; LANES]) {
    // SAFETY: the array has one value for each lane.
    unsafe { vst1q_f32(values.as_mut_ptr(), vector) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_pair(values: &[f32; PAIR]) -> [float32x4_t; 2] {
    // SAFETY: the array has one value for each of the eight lanes.
    unsafe { [vld1q_f32(values.as_ptr()), vld1q_f32(values.as_ptr().add(LANES))] }
}

/// As [`load_pair`], of floats of any width.
#[inline]
#[target_feature(enable = "neon")]
fn widened<F: Float>(values: &[F; PAIR]) -> [float32x4_t; 2] {
    let values = values.as_ptr();
    // SAFETY: the array has eight values of the type that `DTYPE` names, which `Float` guarantees: 16 bytes, or 32 of f32.
    unsafe {
        match F::DTYPE {
            DType::F16 => widened_f16(vld1q_u16(values.cast())),
            DType::Bf16 => widened_bf16(vld1q_u16(values.cast())),
            _ => load_pair(&*values.cast::<[f32; PAIR]>()),
        }
    }
}

/// A bf16 is the upper half of an f32.
#[inline]
#[target_feature(enable = "neon")]
fn widened_bf16(halves: uint16x8_t) -> [float32x4_t; 2] {
    let zeros = vdupq_n_u16(0);
    [vreinterpretq_f32_u16(vzip1q_u16(zeros, halves)), vreinterpretq_f32_u16(vzip2q_u16(zeros, halves))]
}
