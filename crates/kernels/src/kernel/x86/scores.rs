//! Products of a few inputs with many short rows of f16, such as queries with keys: sums of four rows lie side by side in a vector, so that
//! little is left to add at their end.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::x86_64::*;

use half::f16;

/// Columns that are read together, a vector of halves.
pub(in crate::kernel) const TOGETHER: usize = 16;

/// Rows of a vector of sums.
const SIDE_BY_SIDE: usize = 4;

/// Rows whose sums are in registers at once.
const ROWS: usize = 2 * SIDE_BY_SIDE;

/// As [`Isa::products`](crate::isa::Isa::products), of whole [`TOGETHER`] columns.
#[target_feature(enable = "avx512f,avx512dq")]
pub(in crate::kernel) fn avx512(weights: &[f16], inputs: &[f32], columns: usize, out: &mut [f32]) {
    match inputs.len() / columns {
        1 => of::<1>(weights, inputs, columns, out),
        2 => of::<2>(weights, inputs, columns, out),
        3 => of::<3>(weights, inputs, columns, out),
        4 => of::<4>(weights, inputs, columns, out),
        5 => of::<5>(weights, inputs, columns, out),
        6 => of::<6>(weights, inputs, columns, out),
        7 => of::<7>(weights, inputs, columns, out),
        _ => of::<8>(weights, inputs, columns, out),
    }
}

/// The usual widths of a head are known to the compiler.
#[target_feature(enable = "avx512f,avx512dq")]
fn of<const N: usize>(weights: &[f16], inputs: &[f32], columns: usize, out: &mut [f32]) {
    match columns {
        64 => blocks::<N, 4>(weights, inputs, 4, out),
        128 => blocks::<N, 8>(weights, inputs, 8, out),
        _ => blocks::<N, 0>(weights, inputs, columns / TOGETHER, out),
    }
}

/// Of rows of `parts` times [`TOGETHER`] columns, which are `P` unless that is 0.
#[target_feature(enable = "avx512f,avx512dq")]
fn blocks<const N: usize, const P: usize>(weights: &[f16], inputs: &[f32], parts: usize, out: &mut [f32]) {
    let size = ROWS * parts;
    let inputs = &inputs.as_chunks::<SIDE_BY_SIDE>().0[..N * parts * 4];
    let (weights, mut out) = (weights.as_chunks::<TOGETHER>().0, out.chunks_exact_mut(ROWS * N));
    let mut whole = weights.chunks_exact(size);
    for (weights, out) in (&mut whole).zip(&mut out) {
        block::<N, P>(weights, inputs, parts, out);
    }
    let (rest, out) = (whole.remainder(), out.into_remainder());
    if !rest.is_empty() {
        let (mut padded, mut sums) = (vec![[f16::ZERO; TOGETHER]; size], [0.0; 8 * ROWS]);
        padded[..rest.len()].copy_from_slice(rest);
        block::<N, P>(&padded, inputs, parts, &mut sums[..ROWS * N]);
        out.copy_from_slice(&sums[..out.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn block<const N: usize, const P: usize>(
    weights: &[[f16; TOGETHER]],
    inputs: &[[f32; SIDE_BY_SIDE]],
    parts: usize,
    out: &mut [f32],
) {
    let parts = if P == 0 { parts } else { P };
    // Cut to one length, so that the loop needs no bounds checks.
    let (weights, inputs) = (&weights[..ROWS * parts], &inputs[..N * parts * 4]);
    let mut sums = [[_mm512_setzero_ps(); N]; 2];
    for part in 0..parts {
        super::fetch_all(&weights[part * 2..part * 2 + 2]);
        super::fetch_all(&weights[parts * 4 + part * 2..parts * 4 + part * 2 + 2]);
        let [a, b, c, d] = [part, parts + part, 2 * parts + part, 3 * parts + part];
        let first = four_rows([&weights[a], &weights[b], &weights[c], &weights[d]]);
        let after = SIDE_BY_SIDE * parts;
        let second = four_rows([&weights[after + a], &weights[after + b], &weights[after + c], &weights[after + d]]);
        for quarter in 0..4 {
            for n in 0..N {
                let input = &inputs[(n * parts + part) * 4 + quarter];
                // SAFETY: the array has four values.
                let input = _mm512_broadcast_f32x4(unsafe { _mm_loadu_ps(input.as_ptr()) });
                sums[0][n] = _mm512_fmadd_ps(first[quarter], input, sums[0][n]);
                sums[1][n] = _mm512_fmadd_ps(second[quarter], input, sums[1][n]);
            }
        }
    }
    let mut added = [[0.0; 8]; ROWS];
    for (sums, added) in sums.iter().zip(added.as_chunks_mut::<SIDE_BY_SIDE>().0) {
        write_sums(sums, added);
    }
    for (out, added) in out.chunks_exact_mut(N).zip(&added) {
        out.copy_from_slice(&added[..N]);
    }
}

/// Four vectors, each of four columns of every row, one row after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn four_rows([a, b, c, d]: [&[f16; TOGETHER]; SIDE_BY_SIDE]) -> [__m512; 4] {
    let (a, b, c, d) = (load(a), load(b), load(c), load(d));
    let (even_ab, odd_ab) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (even_cd, odd_cd) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        _mm512_cvtph_ps(_mm256_permute2x128_si256::<0x20>(even_ab, even_cd)),
        _mm512_cvtph_ps(_mm256_permute2x128_si256::<0x20>(odd_ab, odd_cd)),
        _mm512_cvtph_ps(_mm256_permute2x128_si256::<0x31>(even_ab, even_cd)),
        _mm512_cvtph_ps(_mm256_permute2x128_si256::<0x31>(odd_ab, odd_cd)),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn load(values: &[f16; TOGETHER]) -> __m256i {
    // SAFETY: the array has sixteen values of two bytes.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

/// Adds the four lanes of each row in each of `sums`, and writes them by rows.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn write_sums<const N: usize>(sums: &[__m512; N], added: &mut [[f32; 8]; SIDE_BY_SIDE]) {
    for first in (0..N).step_by(4) {
        let mut four = [_mm512_setzero_ps(); 4];
        for (four, sum) in four.iter_mut().zip(&sums[first..]) {
            *four = *sum;
        }
        let [a, b, c, d] = four;
        let (ab, cd) = (pairs(a, b), pairs(c, d));
        let all = _mm512_add_ps(_mm512_shuffle_ps::<0x88>(ab, cd), _mm512_shuffle_ps::<0xDD>(ab, cd));
        let mut by_row = [0.0; 16];
        // SAFETY: the array has sixteen values.
        unsafe { _mm512_storeu_ps(by_row.as_mut_ptr(), all) };
        for (added, row) in added.iter_mut().zip(by_row.as_chunks::<4>().0) {
            added[first..first + 4].copy_from_slice(row);
        }
    }
}

/// Of every four lanes of `a` and of `b` the sums of those that are two apart.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn pairs(a: __m512, b: __m512) -> __m512 {
    let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
    _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
}
