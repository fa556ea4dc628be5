//! Products of tiles in AVX2 and AVX-512, and the transposition of rows into tiles.

/// The kernels for one width. The sums of `$vectors` vectors of rows, a part of a tile, with as many inputs as the last of `$inputs` fill
/// the registers; of half a tile they are the sums of `$half` vectors.
macro_rules! tiles {
    ($module:ident, $features:literal, $vector:ident, $lanes:literal, $vectors:literal, $half:literal, $($inputs:literal)+,
     $all:ident, $zero:ident, $fused:ident, $plus:ident, $transposed:path) => {
        pub(in crate::kernel) mod $module {
            use std::arch::x86_64::*;

            use crate::tiles::{Lanes, TILE};
            use crate::kernel::x86::$module::{load, store};

            /// See [`Isa::tile`](crate::isa::Isa::tile).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn tile(weights: &[f32], inputs: &[f32], sums: &mut [f32]) {
                match sums.len() / TILE {
                    $($inputs => {
                        let inputs = inputs.as_chunks::<$inputs>().0.iter();
                        of::<$inputs, $vectors>(weights, inputs, TILE / ($vectors * $lanes), sums);
                    })+
                    n => unreachable!("{n} inputs are more than a tile takes"),
                }
            }

            /// See [`Isa::columns_tile`](crate::isa::Isa::columns_tile).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn columns_tile(
                columns: &[f32],
                inputs: &[f32],
                stride: usize,
                lanes: Lanes,
                sums: &mut [f32],
            ) {
                match (sums.len() / TILE, lanes) {
                    $(($inputs, Lanes::All) => {
                        let inputs = inputs.chunks(stride).map(|row| row.first_chunk().expect("a row has all inputs"));
                        of::<$inputs, $vectors>(columns, inputs, TILE / ($vectors * $lanes), sums);
                    }
                    ($inputs, Lanes::Half) => {
                        let inputs = inputs.chunks(stride).map(|row| row.first_chunk().expect("a row has all inputs"));
                        of::<$inputs, $half>(columns, inputs, TILE / 2 / ($half * $lanes), sums);
                    })+
                    (n, _) => unreachable!("{n} inputs are more than a tile takes"),
                }
            }

            /// The first `n_parts` times `V` vectors of a tile.
            #[inline]
            #[target_feature(enable = $features)]
            fn of<'i, const N: usize, const V: usize>(
                weights: &[f32],
                inputs: impl Iterator<Item = &'i [f32; N]> + Clone,
                n_parts: usize,
                sums: &mut [f32],
            ) {
                for part in 0..n_parts {
                    let mut totals = [[$zero(); V]; N];
                    for (weights, inputs) in weights.as_chunks::<TILE>().0.iter().zip(inputs.clone()) {
                        let mut loaded = [$zero(); V];
                        for (loaded, weights) in loaded.iter_mut().zip(&weights.as_chunks().0[part * V..(part + 1) * V]) {
                            *loaded = load(weights);
                        }
                        for (totals, input) in totals.iter_mut().zip(inputs) {
                            let input = $all(*input);
                            for (total, weights) in totals.iter_mut().zip(&loaded) {
                                *total = $fused(*weights, input, *total);
                            }
                        }
                    }
                    for (totals, sums) in totals.iter().zip(sums.as_chunks_mut::<TILE>().0) {
                        for (total, sums) in totals.iter().zip(&mut sums.as_chunks_mut().0[part * V..(part + 1) * V]) {
                            store($plus(*total, load(sums)), sums);
                        }
                    }
                }
            }

            /// See [`Isa::transpose`](crate::isa::Isa::transpose): how many columns and rows are done is the result; the rest is left.
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn transpose(rows: &[f32], stride: usize, inner: usize, out: &mut [f32]) -> (usize, usize) {
                let n_rows = ((rows.len() - inner) / stride + 1) / $lanes * $lanes;
                let inner = inner / $lanes * $lanes;
                for first in (0..n_rows).step_by($lanes) {
                    for start in (0..inner).step_by($lanes) {
                        let mut square = [$zero(); $lanes];
                        for (r, square) in square.iter_mut().enumerate() {
                            *square = load(rows[(first + r) * stride + start..].first_chunk().expect("rows have the inner length"));
                        }
                        let square = $transposed(square);
                        for (out, column) in out[start * TILE..].chunks_exact_mut(TILE).zip(square) {
                            store(column, out[first..].first_chunk_mut().expect("a tile is whole vectors"));
                        }
                    }
                }
                (inner, n_rows)
            }
        }
    };
}

tiles!(
    avx2,
    "avx2,fma,f16c",
    __m256,
    8,
    2,
    2,
    1 2 3 4 5 6,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    super::transposed_avx2
);
tiles!(
    avx512,
    "avx512f",
    __m512,
    16,
    2,
    1,
    1 2 3 4 5 6 7 8 9 10 11 12,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    super::transposed_avx512
);

use std::arch::x86_64::*;

/// Row `i` of the result is column `i` of `rows`: squares of four within each 128 bits first, which are then exchanged.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn transposed_avx2(rows: [__m256; 8]) -> [__m256; 8] {
    let mut fours = rows;
    for (four, rows) in fours.as_chunks_mut::<4>().0.iter_mut().zip(rows.as_chunks::<4>().0) {
        let [a, b, c, d] = *rows;
        let (low, high) = (
            [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)].map(|pair| _mm256_castps_pd(pair)),
            [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)].map(|pair| _mm256_castps_pd(pair)),
        );
        *four = [
            _mm256_castpd_ps(_mm256_unpacklo_pd(low[0], low[1])),
            _mm256_castpd_ps(_mm256_unpackhi_pd(low[0], low[1])),
            _mm256_castpd_ps(_mm256_unpacklo_pd(high[0], high[1])),
            _mm256_castpd_ps(_mm256_unpackhi_pd(high[0], high[1])),
        ];
    }
    std::array::from_fn(|i| {
        let (upper, lower) = (fours[i % 4], fours[4 + i % 4]);
        if i < 4 { _mm256_permute2f128_ps::<0x20>(upper, lower) } else { _mm256_permute2f128_ps::<0x31>(upper, lower) }
    })
}

/// As `transposed_avx2`, of twice the width.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed_avx512(rows: [__m512; 16]) -> [__m512; 16] {
    let mut fours = rows;
    for (four, rows) in fours.as_chunks_mut::<4>().0.iter_mut().zip(rows.as_chunks::<4>().0) {
        let [a, b, c, d] = *rows;
        // Closures would be functions of their own, without these instructions.
        let (low, high) = (
            [_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d))],
            [_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d))],
        );
        *four = [
            _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1])),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1])),
            _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1])),
            _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1])),
        ];
    }
    let mut out = rows;
    for i in 0..4 {
        let [a, b, c, d] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
        let first = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d)];
        let second = [_mm512_shuffle_f32x4::<0xEE>(a, b), _mm512_shuffle_f32x4::<0xEE>(c, d)];
        out[i] = _mm512_shuffle_f32x4::<0x88>(first[0], first[1]);
        out[4 + i] = _mm512_shuffle_f32x4::<0xDD>(first[0], first[1]);
        out[8 + i] = _mm512_shuffle_f32x4::<0x88>(second[0], second[1]);
        out[12 + i] = _mm512_shuffle_f32x4::<0xDD>(second[0], second[1]);
    }
    out
}
