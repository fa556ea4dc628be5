//! The loops in AVX2 and AVX-512: one text, two widths.
//!
//! Several rows of weights are multiplied with all inputs at once, so that an input loaded is used more than once and the sums of
//! several rows hide the latency of each other's additions.

mod blocks;
pub(super) mod bytes;
mod halves;
pub(super) mod tiles;
pub(super) mod vnni;

use std::arch::x86_64::*;

/// Writes the loops for one width. `$tall` is how many rows of weights go together with up to eight inputs: sums fill the registers.
macro_rules! loops {
    ($module:ident, $features:literal, $vector:ident, $lanes:literal, $tall:literal,
     $load:ident, $store:ident, $all:ident, $zero:ident, $fused:ident, $plus:ident, $sum:path, $halves:ident, $eight:path, $four:path) => {
        #[expect(unsafe_code, reason = "a vector is loaded from an address")]
        pub(super) mod $module {
            use std::arch::x86_64::*;

            use half::{bf16, f16};
            use tandem_core::DType;

            use super::halves::$halves as halves;
            use crate::float::Float;
            use crate::quantize::{BLOCK, Bits, Blocks};

            /// See [`Level::products`](super::super::Level::products).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn products<F: Float>(weights: &[F], inputs: &[f32], columns: usize, out: &mut [f32]) {
                match inputs.len() / columns {
                    1 => by_row(weights, inputs, columns, out),
                    2 => tiles::<F, 4, 2>(weights, inputs, columns, out),
                    3 => tiles::<F, 2, 3>(weights, inputs, columns, out),
                    4 => tiles::<F, 2, 4>(weights, inputs, columns, out),
                    5 => tiles::<F, $tall, 5>(weights, inputs, columns, out),
                    6 => tiles::<F, $tall, 6>(weights, inputs, columns, out),
                    7 => tiles::<F, $tall, 7>(weights, inputs, columns, out),
                    _ => tiles::<F, $tall, 8>(weights, inputs, columns, out),
                }
            }

            /// With one input, a row after the other: memory is read fastest in one stream. Sums side by side hide the latency of
            /// additions.
            #[target_feature(enable = $features)]
            fn by_row<F: Float>(weights: &[F], input: &[f32], columns: usize, out: &mut [f32]) {
                const SUMS: usize = 4;
                for (row, out) in weights.chunks_exact(columns).zip(out) {
                    let mut sums = [$zero(); SUMS];
                    let mut rows = row.chunks_exact(SUMS * $lanes);
                    let mut inputs = input.chunks_exact(SUMS * $lanes);
                    for (row, input) in (&mut rows).zip(&mut inputs) {
                        super::fetch_all(row);
                        for (i, sum) in sums.iter_mut().enumerate() {
                            *sum = $fused(widened(row, i * $lanes), load(input, i * $lanes), *sum);
                        }
                    }
                    let (row, input) = (rows.remainder(), inputs.remainder());
                    let whole = row.len() - row.len() % $lanes;
                    for start in (0..whole).step_by($lanes) {
                        sums[0] = $fused(widened(row, start), load(input, start), sums[0]);
                    }
                    let rest = row[whole..].iter().zip(&input[whole..]).map(|(w, x)| w.widened() * x).sum::<f32>();
                    let [a, b, c, d] = sums;
                    *out = $sum($plus($plus(a, b), $plus(c, d))) + rest;
                }
            }

            #[target_feature(enable = $features)]
            fn tiles<F: Float, const R: usize, const N: usize>(weights: &[F], inputs: &[f32], columns: usize, out: &mut [f32]) {
                let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i * columns..(i + 1) * columns]);
                let mut weights = weights.chunks_exact(R * columns);
                let mut out = out.chunks_exact_mut(R * N);
                for (weights, out) in (&mut weights).zip(&mut out) {
                    tile::<F, R, N>(weights, &inputs, columns, out);
                }
                for (row, out) in weights.remainder().chunks_exact(columns).zip(out.into_remainder().chunks_exact_mut(N)) {
                    tile::<F, 1, N>(row, &inputs, columns, out);
                }
            }

            #[target_feature(enable = $features)]
            fn tile<F: Float, const R: usize, const N: usize>(
                weights: &[F],
                inputs: &[&[f32]; N],
                columns: usize,
                out: &mut [f32],
            ) {
                let rows: [&[F]; R] = std::array::from_fn(|r| &weights[r * columns..(r + 1) * columns]);
                let whole = columns - columns % $lanes;
                let mut sums = [[$zero(); N]; R];
                for start in (0..whole).step_by($lanes) {
                    let mut loaded = [$zero(); N];
                    for (loaded, input) in loaded.iter_mut().zip(inputs) {
                        *loaded = load(input, start);
                    }
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        super::fetch(&row[start..]);
                        let weight = widened(row, start);
                        for (sum, loaded) in sums.iter_mut().zip(&loaded) {
                            *sum = $fused(weight, *loaded, *sum);
                        }
                    }
                }
                for (r, (sums, row)) in sums.iter().zip(&rows).enumerate() {
                    for (i, (sum, input)) in sums.iter().zip(inputs).enumerate() {
                        let rest = row[whole..].iter().zip(&input[whole..]).map(|(w, x)| w.widened() * x).sum::<f32>();
                        out[r * N + i] = $sum(*sum) + rest;
                    }
                }
            }

            /// See [`Level::block_products`](super::super::Level::block_products).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn block_products(weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
                match weights.bits {
                    Bits::Eight => of_bits::<8>(weights, inputs, columns, out),
                    Bits::Four => of_bits::<4>(weights, inputs, columns, out),
                }
            }

            #[target_feature(enable = $features)]
            fn of_bits<const B: usize>(weights: Blocks<'_>, inputs: &[f32], columns: usize, out: &mut [f32]) {
                match inputs.len() / columns {
                    1 => block_tiles::<B, 4, 1>(weights, inputs, columns, out),
                    2 => block_tiles::<B, 2, 2>(weights, inputs, columns, out),
                    3 => block_tiles::<B, 1, 3>(weights, inputs, columns, out),
                    4 => block_tiles::<B, 1, 4>(weights, inputs, columns, out),
                    5 => block_tiles::<B, 1, 5>(weights, inputs, columns, out),
                    6 => block_tiles::<B, 1, 6>(weights, inputs, columns, out),
                    7 => block_tiles::<B, 1, 7>(weights, inputs, columns, out),
                    _ => block_tiles::<B, 1, 8>(weights, inputs, columns, out),
                }
            }

            #[target_feature(enable = $features)]
            fn block_tiles<const B: usize, const R: usize, const N: usize>(
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
                    block_tile::<B, R, N>(weights, &inputs, columns, &mut out[first * N..(first + R) * N]);
                }
                for row in whole..rows {
                    let weights = weights.rows(row..row + 1, columns);
                    block_tile::<B, 1, N>(weights, &inputs, columns, &mut out[row * N..(row + 1) * N]);
                }
            }

            #[target_feature(enable = $features)]
            fn block_tile<const B: usize, const R: usize, const N: usize>(
                weights: Blocks<'_>,
                inputs: &[&[f32]; N],
                columns: usize,
                out: &mut [f32],
            ) {
                let rows: [Blocks<'_>; R] = std::array::from_fn(|r| weights.rows(r..r + 1, columns));
                let mut sums = [[$zero(); N]; R];
                for block in 0..columns / BLOCK {
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let codes = &row.codes[block * (B * BLOCK / 8)..];
                        super::fetch(codes);
                        let scale = row.scales[block];
                        let floats = if B == 8 { $eight(codes, scale) } else { $four(codes, scale) };
                        for (part, weight) in floats.into_iter().enumerate() {
                            for (sum, input) in sums.iter_mut().zip(inputs) {
                                *sum = $fused(weight, load(input, block * BLOCK + part * $lanes), *sum);
                            }
                        }
                    }
                }
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(N)) {
                    for (sum, out) in sums.iter().zip(out) {
                        *out = $sum(*sum);
                    }
                }
            }

            /// See [`Level::weighted_sums`](super::super::Level::weighted_sums).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn weighted_sums(weights: &[f32], values: &[f32], width: usize, out: &mut [f32]) {
                match out.len() / width {
                    1 => sums_of::<1>(weights, values, width, out),
                    2 => sums_of::<2>(weights, values, width, out),
                    3 => sums_of::<3>(weights, values, width, out),
                    4 => sums_of::<4>(weights, values, width, out),
                    5 => sums_of::<5>(weights, values, width, out),
                    6 => sums_of::<6>(weights, values, width, out),
                    7 => sums_of::<7>(weights, values, width, out),
                    _ => sums_of::<8>(weights, values, width, out),
                }
            }

            #[target_feature(enable = $features)]
            fn sums_of<const N: usize>(weights: &[f32], values: &[f32], width: usize, out: &mut [f32]) {
                let mut start = 0;
                while start + $tall * $lanes <= width {
                    sums_from::<N, $tall>(weights, values, width, start, out);
                    start += $tall * $lanes;
                }
                while start + $lanes <= width {
                    sums_from::<N, 1>(weights, values, width, start, out);
                    start += $lanes;
                }
                for (weights, values) in weights.as_chunks::<N>().0.iter().zip(values.chunks_exact(width)) {
                    for (weight, out) in weights.iter().zip(out.chunks_exact_mut(width)) {
                        out[start..].iter_mut().zip(&values[start..]).for_each(|(out, value)| *out += weight * value);
                    }
                }
            }

            /// The columns of `V` vectors from `start` on: the sums stay in registers.
            #[target_feature(enable = $features)]
            fn sums_from<const N: usize, const V: usize>(
                weights: &[f32],
                values: &[f32],
                width: usize,
                start: usize,
                out: &mut [f32],
            ) {
                let mut sums = [[$zero(); V]; N];
                for (weights, values) in weights.as_chunks::<N>().0.iter().zip(values.chunks_exact(width)) {
                    let mut loaded = [$zero(); V];
                    for (v, loaded) in loaded.iter_mut().enumerate() {
                        *loaded = load(values, start + v * $lanes);
                    }
                    for (sums, weight) in sums.iter_mut().zip(weights) {
                        let weight = $all(*weight);
                        for (sum, loaded) in sums.iter_mut().zip(&loaded) {
                            *sum = $fused(weight, *loaded, *sum);
                        }
                    }
                }
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(width)) {
                    for (v, sum) in sums.iter().enumerate() {
                        add(&mut out[start + v * $lanes..][..$lanes], *sum);
                    }
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn add(out: &mut [f32], vector: $vector) {
                debug_assert_eq!(out.len(), $lanes, "a whole vector is added");
                let mut lanes = [0.0; $lanes];
                // SAFETY: the array has as many places as the vector lanes.
                unsafe { $store(lanes.as_mut_ptr(), vector) };
                out.iter_mut().zip(lanes).for_each(|(out, lane)| *out += lane);
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn load(values: &[f32], start: usize) -> $vector {
                debug_assert!(start + $lanes <= values.len(), "a whole vector is loaded");
                // SAFETY: callers take whole vectors within the slice: `start` is below its length rounded down to lanes.
                unsafe { $load(values.as_ptr().add(start)) }
            }

            /// As [`load`], of floats of any width.
            #[inline]
            #[target_feature(enable = $features)]
            fn widened<F: Float>(values: &[F], start: usize) -> $vector {
                debug_assert!(start + $lanes <= values.len(), "a whole vector is loaded");
                // SAFETY: as in `load`, and `DTYPE` says of what type they are.
                unsafe {
                    let first = values.as_ptr().add(start);
                    match F::DTYPE {
                        DType::F16 => halves::f16(first.cast::<f16>()),
                        DType::Bf16 => halves::bf16(first.cast::<bf16>()),
                        _ => $load(first.cast::<f32>()),
                    }
                }
            }
        }
    };
}

/// How far ahead of what is read weights are fetched. Rows are short and several are read side by side: what the processor fetches by
/// itself starts anew with each of them, and a pass waits for memory. The bench `engines` tells.
const AHEAD: usize = 8192;

/// Fetches what lies [`AHEAD`] bytes after the start of `weights`: mostly of rows that come next. Where nothing is, nothing is fetched.
#[inline(always)]
#[expect(unsafe_code, reason = "an instruction without a safe form")]
fn fetch<T>(weights: &[T]) {
    // SAFETY: a prefetch reads nothing that the program sees and faults nowhere.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(weights.as_ptr().wrapping_byte_add(AHEAD).cast())
    };
}

/// Bytes that are fetched at once.
const LINE: usize = 64;

/// As [`fetch`], of as many bytes as `weights` are.
#[inline(always)]
fn fetch_all<T>(weights: &[T]) {
    weights.chunks(LINE / size_of::<T>()).for_each(fetch);
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_avx2(of: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(of), _mm256_extractf128_ps(of, 1));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
}

loops!(
    avx2,
    "avx2,fma,f16c",
    __m256,
    8,
    1,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    super::sum_avx2,
    avx2,
    super::blocks::eight_avx2,
    super::blocks::four_avx2
);
loops!(
    avx512,
    "avx512f",
    __m512,
    16,
    2,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_reduce_add_ps,
    avx512,
    super::blocks::eight_avx512,
    super::blocks::four_avx512
);
