//! The float kernels in AVX2 and AVX-512: one macro, two widths.
//!
//! Several rows of weights are multiplied with all inputs at once, so that a loaded input is used more than once and the sums of several
//! rows hide the latency of each other's additions.

mod blocks;
pub(super) mod bytes;
mod halves;
pub(super) mod pairs;
pub(super) mod scores;
pub(super) mod strips;
mod sums;
pub(super) mod tiles;
pub(super) mod vnni;

/// The kernels for one width. `$tall` is how many rows of weights go together with five to eight inputs, so that sums fill the registers; of
/// weighted sums, `$tallest` vectors of columns go together with up to `$few` columns of weights.
macro_rules! loops {
    ($module:ident, $features:literal, $vector:ident, $lanes:literal, $tall:literal, $tallest:literal, $few:literal,
     $load:ident, $store:ident, $all:ident, $zero:ident, $fused:ident, $plus:ident, $sum:path, $sums:path, $eight:path, $four:path) => {
        #[expect(unsafe_code, reason = "vectors are loaded from addresses")]
        pub(super) mod $module {
            use std::arch::x86_64::*;

            use half::{bf16, f16};
            use tandem_core::DType;

            use super::SUMS;
            use super::halves::$module as halves;
            pub(in crate::kernel) use super::tiles::$module::{columns_tile, tile, transpose};
            use crate::float::Float;
            use crate::quantize::{BLOCK, Bits, Blocks};
            use crate::tiles::TILE;

            /// See [`Isa::products`](crate::isa::Isa::products).
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

            /// One input: one row after the other, because memory is read fastest in one stream. Several sums hide the latency of
            /// additions.
            #[target_feature(enable = $features)]
            fn by_row<F: Float>(weights: &[F], input: &[f32], columns: usize, out: &mut [f32]) {
                let (input, input_rest) = input.as_chunks::<$lanes>();
                let grouped = super::grouped(columns, $lanes);
                let (inputs, last_inputs) = (input[..grouped].as_chunks::<SUMS>().0, &input[grouped..]);
                for (row, out) in weights.chunks_exact(columns).zip(out) {
                    let (row, row_rest) = row.as_chunks::<$lanes>();
                    let (rows, last_rows) = (row[..grouped].as_chunks::<SUMS>().0, &row[grouped..]);
                    let mut sums = [$zero(); SUMS];
                    for (row, input) in rows.iter().zip(inputs) {
                        super::fetch_all(row.as_flattened());
                        for ((sum, row), input) in sums.iter_mut().zip(row).zip(input) {
                            *sum = $fused(widened(row), load(input), *sum);
                        }
                    }
                    for (row, input) in last_rows.iter().zip(last_inputs) {
                        sums[0] = $fused(widened(row), load(input), sums[0]);
                    }
                    let [a, b, c, d] = sums;
                    *out = $sum($plus($plus(a, b), $plus(c, d))) + dot(row_rest, input_rest);
                }
            }

            #[target_feature(enable = $features)]
            fn tiles<F: Float, const R: usize, const N: usize>(weights: &[F], inputs: &[f32], columns: usize, out: &mut [f32]) {
                let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i * columns..(i + 1) * columns]);
                let mut weights = weights.chunks_exact(R * columns);
                let mut out = out.chunks_exact_mut(R * N);
                for (weights, out) in (&mut weights).zip(&mut out) {
                    float_tile::<F, R, N>(weights, &inputs, columns, out);
                }
                for (row, out) in weights.remainder().chunks_exact(columns).zip(out.into_remainder().chunks_exact_mut(N)) {
                    float_tile::<F, 1, N>(row, &inputs, columns, out);
                }
            }

            /// The sums are those of [`by_row`], in its order, so that an input has the same bits whatever it is multiplied together
            /// with: first all vectors of its first sum, then those of its second, and so on.
            #[target_feature(enable = $features)]
            fn float_tile<F: Float, const R: usize, const N: usize>(
                weights: &[F],
                inputs: &[&[f32]; N],
                columns: usize,
                out: &mut [f32],
            ) {
                // Cut to one length, so that the loop needs no bounds checks.
                let whole = columns / $lanes;
                let rows: [&[F]; R] = std::array::from_fn(|r| &weights[r * columns..(r + 1) * columns]);
                let row_vectors = rows.map(|row| &row.as_chunks::<$lanes>().0[..whole]);
                let input_vectors = inputs.map(|input| &input.as_chunks::<$lanes>().0[..whole]);
                let grouped = super::grouped(columns, $lanes);
                let mut totals = [[$zero(); N]; R];
                add_vectors(&row_vectors, &input_vectors, (0..grouped).step_by(SUMS), &mut totals);
                add_vectors(&row_vectors, &input_vectors, grouped..whole, &mut totals);
                if grouped > 0 {
                    let mut others = [[[$zero(); N]; R]; SUMS - 1];
                    for (first, sums) in (1..).zip(&mut others) {
                        add_vectors(&row_vectors, &input_vectors, (first..grouped).step_by(SUMS), sums);
                    }
                    let [b, c, d] = &others;
                    for (r, totals) in totals.iter_mut().enumerate() {
                        for (i, total) in totals.iter_mut().enumerate() {
                            *total = $plus($plus(*total, b[r][i]), $plus(c[r][i], d[r][i]));
                        }
                    }
                }
                let mut added = [0.0; $lanes];
                store($sums(totals.as_flattened()), &mut added);
                out[..R * N].copy_from_slice(&added[..R * N]);
                let rest = whole * $lanes;
                if rest < columns {
                    for (row, out) in rows.iter().zip(out.chunks_exact_mut(N)) {
                        for (input, out) in inputs.iter().zip(out) {
                            *out += dot(&row[rest..], &input[rest..]);
                        }
                    }
                }
            }

            /// Adds the products of the vectors at `places` of rows and inputs to `sums`.
            #[inline]
            #[target_feature(enable = $features)]
            fn add_vectors<F: Float, const R: usize, const N: usize>(
                rows: &[&[[F; $lanes]]; R],
                inputs: &[&[[f32; $lanes]]; N],
                places: impl Iterator<Item = usize>,
                sums: &mut [[$vector; N]; R],
            ) {
                for i in places {
                    let loaded: [$vector; N] = std::array::from_fn(|n| load(&inputs[n][i]));
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        super::fetch(&row[i]);
                        let weight = widened(&row[i]);
                        for (sum, loaded) in sums.iter_mut().zip(&loaded) {
                            *sum = $fused(weight, *loaded, *sum);
                        }
                    }
                }
            }

            /// What remains of a row after its whole vectors.
            fn dot<F: Float>(weights: &[F], input: &[f32]) -> f32 {
                weights.iter().zip(input).map(|(weight, input)| weight.widened() * input).sum()
            }

            /// See [`Isa::block_products`](crate::isa::Isa::block_products).
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
                let blocks = columns / BLOCK;
                let rows: [Blocks<'_>; R] = std::array::from_fn(|r| weights.rows(r..r + 1, columns));
                let inputs = inputs.map(|input| &input.as_chunks::<BLOCK>().0[..blocks]);
                let mut sums = [[$zero(); N]; R];
                for block in 0..blocks {
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let codes = &row.codes[block * (B * BLOCK / 8)..];
                        super::fetch(codes);
                        let scale = row.scales[block];
                        let floats = if B == 8 { $eight(codes, scale) } else { $four(codes, scale) };
                        for (part, weight) in floats.into_iter().enumerate() {
                            for (sum, input) in sums.iter_mut().zip(&inputs) {
                                *sum = $fused(weight, load(&input[block].as_chunks().0[part]), *sum);
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

            /// See [`Blocks::dequantize`].
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn dequantize(weights: Blocks<'_>, out: &mut [f32]) {
                let blocks = weights.codes.chunks_exact(weights.bits.block_bytes()).zip(weights.scales);
                for ((codes, scale), out) in blocks.zip(out.as_chunks_mut::<BLOCK>().0) {
                    let floats = match weights.bits {
                        Bits::Eight => $eight(codes, *scale),
                        Bits::Four => $four(codes, *scale),
                    };
                    floats.into_iter().zip(out.as_chunks_mut().0).for_each(|(vector, out)| store(vector, out));
                }
            }

            /// See [`Isa::weighted_sums`](crate::isa::Isa::weighted_sums).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn weighted_sums<F: Float>(weights: &[f32], values: &[F], width: usize, out: &mut [f32]) {
                match out.len() / width {
                    1 => sums_of::<F, 1>(weights, values, width, out),
                    2 => sums_of::<F, 2>(weights, values, width, out),
                    3 => sums_of::<F, 3>(weights, values, width, out),
                    4 => sums_of::<F, 4>(weights, values, width, out),
                    5 => sums_of::<F, 5>(weights, values, width, out),
                    6 => sums_of::<F, 6>(weights, values, width, out),
                    7 => sums_of::<F, 7>(weights, values, width, out),
                    _ => sums_of::<F, 8>(weights, values, width, out),
                }
            }

            #[target_feature(enable = $features)]
            fn sums_of<F: Float, const N: usize>(weights: &[f32], values: &[F], width: usize, out: &mut [f32]) {
                let mut start = 0;
                while N <= $few && start + $tallest * $lanes <= width {
                    sums_from::<F, N, $tallest>(weights, values, width, start, out);
                    start += $tallest * $lanes;
                }
                while start + $tall * $lanes <= width {
                    sums_from::<F, N, $tall>(weights, values, width, start, out);
                    start += $tall * $lanes;
                }
                while start + $lanes <= width {
                    sums_from::<F, N, 1>(weights, values, width, start, out);
                    start += $lanes;
                }
                for (weights, values) in weights.as_chunks::<N>().0.iter().zip(values.chunks_exact(width)) {
                    for (weight, out) in weights.iter().zip(out.chunks_exact_mut(width)) {
                        out[start..].iter_mut().zip(&values[start..]).for_each(|(out, value)| *out += weight * value.widened());
                    }
                }
            }

            /// The columns of `V` vectors from `start` on: the sums stay in registers.
            #[target_feature(enable = $features)]
            fn sums_from<F: Float, const N: usize, const V: usize>(
                weights: &[f32],
                values: &[F],
                width: usize,
                start: usize,
                out: &mut [f32],
            ) {
                let mut sums = [[$zero(); V]; N];
                for (weights, values) in weights.as_chunks::<N>().0.iter().zip(values.chunks_exact(width)) {
                    let values = &values[start..start + V * $lanes];
                    if size_of_val(values) >= super::LINE {
                        super::fetch_all(values);
                    }
                    let mut loaded = [$zero(); V];
                    for (loaded, values) in loaded.iter_mut().zip(values.as_chunks().0) {
                        *loaded = widened(values);
                    }
                    for (sums, weight) in sums.iter_mut().zip(weights) {
                        let weight = $all(*weight);
                        for (sum, loaded) in sums.iter_mut().zip(&loaded) {
                            *sum = $fused(weight, *loaded, *sum);
                        }
                    }
                }
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(width)) {
                    for (sum, out) in sums.iter().zip(out[start..start + V * $lanes].as_chunks_mut().0) {
                        store($plus(*sum, load(out)), out);
                    }
                }
            }

            /// See [`Isa::add_tiles`](crate::isa::Isa::add_tiles). Two sums for each output hide the latency of additions.
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn add_tiles<F: Float>(tiles: &[F], inputs: &[f32], out: &mut [f32]) {
                const V: usize = TILE / $lanes;
                let (pairs, last) = inputs.as_chunks::<2>();
                for (tile, out) in tiles.chunks_exact(inputs.len() * TILE).zip(out.as_chunks_mut::<TILE>().0) {
                    super::fetch_all(tile);
                    let mut sums = [[$zero(); V]; 2];
                    let (rows, last_row) = tile.split_at(pairs.len() * 2 * TILE);
                    for (rows, inputs) in rows.as_chunks::<{ 2 * TILE }>().0.iter().zip(pairs) {
                        for ((row, input), sums) in rows.as_chunks::<TILE>().0.iter().zip(inputs).zip(&mut sums) {
                            let input = $all(*input);
                            for (sum, weights) in sums.iter_mut().zip(row.as_chunks().0) {
                                *sum = $fused(widened(weights), input, *sum);
                            }
                        }
                    }
                    for (row, input) in last_row.as_chunks::<TILE>().0.iter().zip(last) {
                        let input = $all(*input);
                        for (sum, weights) in sums[0].iter_mut().zip(row.as_chunks().0) {
                            *sum = $fused(widened(weights), input, *sum);
                        }
                    }
                    let [even, odd] = sums;
                    for ((even, odd), out) in even.into_iter().zip(odd).zip(out.as_chunks_mut().0) {
                        store($plus($plus(even, odd), load(out)), out);
                    }
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn load(values: &[f32; $lanes]) -> $vector {
                // SAFETY: the array has one value for each lane.
                unsafe { $load(values.as_ptr()) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn store(vector: $vector, values: &mut [f32; $lanes]) {
                // SAFETY: the array has one value for each lane.
                unsafe { $store(values.as_mut_ptr(), vector) }
            }

            /// As [`load`], of floats of any width.
            #[inline]
            #[target_feature(enable = $features)]
            fn widened<F: Float>(values: &[F; $lanes]) -> $vector {
                let values = values.as_ptr();
                // SAFETY: the array has one value for each lane, and `Float` guarantees that `DTYPE` is the type of `F`.
                unsafe {
                    match F::DTYPE {
                        DType::F16 => halves::f16(values.cast::<f16>()),
                        DType::Bf16 => halves::bf16(values.cast::<bf16>()),
                        _ => $load(values.cast::<f32>()),
                    }
                }
            }
        }
    };
}

/// Sums of a long row of floats: they hide the latency of additions where there is one input.
const SUMS: usize = 4;

/// Rows of fewer floats, such as keys, have one sum: the additions of one row overlap with those of the next.
const LONG_ROW: usize = 512;

/// The vectors of a row of `columns` that are divided among [`SUMS`] sums; the first has those that remain too.
fn grouped(columns: usize, lanes: usize) -> usize {
    if columns < LONG_ROW { 0 } else { columns / lanes / SUMS * SUMS }
}

/// How many bytes ahead weights are prefetched. Rows are short and several are read side by side, so the processor's own prefetcher
/// starts anew with each of them and decoding waits for memory; the bench `engines` measures it.
const AHEAD: usize = 8192;

/// Prefetches what lies [`AHEAD`] bytes after the start of `weights`, mostly rows that come next.
#[inline(always)]
#[expect(unsafe_code, reason = "an instruction without a safe form")]
fn fetch<T>(weights: &[T]) {
    // SAFETY: a prefetch is a hint: it has no visible effect and does not fault, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(weights.as_ptr().wrapping_byte_add(AHEAD).cast())
    };
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// As [`fetch`], of as many bytes as `weights` are.
#[inline(always)]
fn fetch_all<T>(weights: &[T]) {
    weights.chunks(LINE / size_of::<T>()).for_each(fetch);
}

loops!(
    avx2,
    "avx2,fma,f16c",
    __m256,
    8,
    1,
    2,
    6,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    super::sums::sum_avx2,
    super::sums::sums_avx2,
    super::blocks::eight_avx2,
    super::blocks::four_avx2
);
loops!(
    avx512,
    "avx512f",
    __m512,
    16,
    2,
    4,
    7,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_reduce_add_ps,
    super::sums::sums_avx512,
    super::blocks::eight_avx512,
    super::blocks::four_avx512
);
