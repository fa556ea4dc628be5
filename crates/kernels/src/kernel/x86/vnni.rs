//! Integer products of 8- or 4-bit weights with 8-bit activations, with the dot products of bytes of AVX-512 (VNNI).
//!
//! The instruction multiplies unsigned with signed bytes. The codes of weights are the unsigned side, and every sum starts with a
//! correction, minus the code of zero times the sum of the inputs.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::x86_64::*;

use super::tiles::transposed_avx512;
use super::{fetch, fetch_all};
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::{BlockPair, RowGroup};
use crate::tiles::{Lanes, PackedTile, TILE};

/// Words of four bytes in a block.
const WORDS: usize = BLOCK / 4;

/// See [`Isa::integer_products`](crate::isa::Isa::integer_products).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernel) fn integer_products(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
    match weights.bits {
        Bits::Eight => of_bits::<8>(weights, inputs, columns, out),
        Bits::Four => of_bits::<4>(weights, inputs, columns, out),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn of_bits<const B: usize>(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
    match inputs.len() / columns.div_ceil(2 * BLOCK) {
        1 => by_row::<B>(weights, inputs, columns, out),
        2 => in_tiles::<B, 4, 2>(weights, inputs, columns, out),
        3 => in_tiles::<B, 2, 3>(weights, inputs, columns, out),
        4 => in_tiles::<B, 2, 4>(weights, inputs, columns, out),
        5 => in_tiles::<B, 2, 5>(weights, inputs, columns, out),
        6 => in_tiles::<B, 2, 6>(weights, inputs, columns, out),
        7 => in_tiles::<B, 2, 7>(weights, inputs, columns, out),
        _ => in_tiles::<B, 2, 8>(weights, inputs, columns, out),
    }
}

/// One input: one row after the other, because memory is read fastest in one stream. Two sums hide the latency of additions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn by_row<const B: usize>(weights: Blocks<'_>, input: &[BlockPair], columns: usize, out: &mut [f32]) {
    const SUMS: usize = 2;
    let pair_bytes = B * BLOCK / 4;
    let row_bytes = B * columns / 8;
    let rows = weights.codes.chunks_exact(row_bytes).zip(weights.scales.chunks_exact(columns / BLOCK));
    for ((codes, scales), out) in rows.zip(out) {
        let mut sums = [_mm512_setzero_ps(); SUMS];
        let mut codes = codes.chunks_exact(SUMS * pair_bytes);
        let (scales, last_scales) = scales.as_chunks::<{ 2 * SUMS }>();
        let (inputs, last_inputs) = input.split_at(scales.len() * SUMS);
        for ((codes, scales), inputs) in (&mut codes).zip(scales).zip(inputs.as_chunks::<SUMS>().0) {
            fetch_all(codes);
            for (i, sum) in sums.iter_mut().enumerate() {
                let codes = &codes[i * pair_bytes..(i + 1) * pair_bytes];
                let weight = two::<B>(codes);
                *sum = with_products(weight, two_scales(&scales[2 * i..2 * i + 2]), &inputs[i], *sum);
            }
        }
        let last = codes.remainder().chunks(pair_bytes).zip(last_scales.chunks(2)).zip(last_inputs);
        for ((codes, scales), input) in last {
            let weight = two::<B>(codes);
            sums[0] = with_products(weight, two_scales(scales), input, sums[0]);
        }
        let [a, b] = sums;
        *out = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn in_tiles<const B: usize, const R: usize, const N: usize>(
    weights: Blocks<'_>,
    inputs: &[BlockPair],
    columns: usize,
    out: &mut [f32],
) {
    let rows = out.len() / N;
    let whole = rows - rows % R;
    for first in (0..whole).step_by(R) {
        tile::<B, R, N>(weights.rows(first..first + R, columns), inputs, columns, &mut out[first * N..(first + R) * N]);
    }
    for row in whole..rows {
        tile::<B, 1, N>(weights.rows(row..row + 1, columns), inputs, columns, &mut out[row * N..(row + 1) * N]);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const B: usize, const R: usize, const N: usize>(
    weights: Blocks<'_>,
    inputs: &[BlockPair],
    columns: usize,
    out: &mut [f32],
) {
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    let blocks = columns / BLOCK;
    let (pairs, row_bytes) = (blocks.div_ceil(2), B * columns / 8);
    let inputs: [&[BlockPair]; N] = std::array::from_fn(|i| &inputs[i * pairs..(i + 1) * pairs]);
    for pair in 0..pairs {
        for (r, sums) in sums.iter_mut().enumerate() {
            let codes = &weights.codes[r * row_bytes + pair * (B * BLOCK / 4)..(r + 1) * row_bytes];
            let scales = &weights.scales[r * blocks + 2 * pair..(r + 1) * blocks];
            fetch(codes);
            let weight = two::<B>(codes);
            let scale = two_scales(scales);
            for (sum, input) in sums.iter_mut().zip(&inputs) {
                *sum = with_products(weight, scale, &input[pair], *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(N)) {
        for (sum, out) in sums.iter().zip(out) {
            *out = _mm512_reduce_add_ps(*sum);
        }
    }
}

/// `sum` with the products of two blocks added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn with_products(weight: __m512i, scale: __m512, input: &BlockPair, sum: __m512) -> __m512 {
    // SAFETY: the three arrays of a `BlockPair` are 64 bytes each.
    let (codes, correction, scales) = unsafe {
        (
            _mm512_loadu_si512(input.codes.as_ptr().cast()),
            _mm512_loadu_si512(input.correction.as_ptr().cast()),
            _mm512_loadu_ps(input.scales.as_ptr()),
        )
    };
    let dots = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(correction, weight, codes));
    _mm512_fmadd_ps(dots, _mm512_mul_ps(scale, scales), sum)
}

/// The scales of the next two blocks, eight times each; a missing block has scale zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn two_scales(scales: &[f32]) -> __m512 {
    let both = match scales {
        [first, second, ..] => u64::from(first.to_bits()) | u64::from(second.to_bits()) << 32,
        [first] => u64::from(first.to_bits()),
        [] => 0,
    };
    let both = _mm512_castsi512_ps(_mm512_set1_epi64(both.cast_signed()));
    _mm512_permutevar_ps(both, _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1))
}

/// See [`Isa::pack`](crate::isa::Isa::pack).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernel) fn pack(weights: Blocks<'_>, per_row: usize, packed: &mut PackedTile) {
    let rows = weights.scales.len() / per_row;
    for first in (0..TILE).step_by(16) {
        for block in (0..per_row).step_by(2) {
            let n = 2.min(per_row - block);
            let mut square = [_mm512_setzero_ps(); 16];
            for (square, row) in square.iter_mut().zip(first..rows) {
                let own = weights.rows(row..row + 1, per_row * BLOCK).rows(block..block + n, BLOCK);
                *square =
                    _mm512_castsi512_ps(if weights.bits == Bits::Eight { two_eight(own.codes) } else { two_four(own.codes) });
            }
            let transposed = transposed_avx512(square);
            let words = packed.words[block * WORDS..(block + n) * WORDS].iter_mut().zip(transposed);
            for (words, transposed) in words {
                let words: &mut [u32; 16] = words[first..].first_chunk_mut().expect("a tile has whole vectors");
                // SAFETY: the array has sixteen words of four bytes.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), _mm512_castps_si512(transposed)) };
            }
        }
    }
    for (block, scales) in packed.scales[..per_row].iter_mut().enumerate() {
        for (row, scale) in scales.iter_mut().enumerate() {
            *scale = if row < rows { weights.scales[row * per_row + block] } else { 0.0 };
        }
    }
}

/// The codes of one or two blocks of `B` bits as unsigned bytes, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn two<const B: usize>(codes: &[u8]) -> __m512i {
    if B == 8 { two_eight(codes) } else { two_four(codes) }
}

/// One or two blocks of eight bits; the bytes of a missing block are zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn two_eight(codes: &[u8]) -> __m512i {
    let mask = if codes.len() >= 2 * BLOCK {
        u64::MAX
    } else {
        assert!(codes.len() >= BLOCK, "there is a whole block");
        u64::from(u32::MAX)
    };
    // SAFETY: the mask has a bit for 64 bytes or 32, and there are at least as many.
    unsafe { _mm512_maskz_loadu_epi8(mask, codes.as_ptr().cast()) }
}

/// As [`two_eight`], of blocks of four bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn two_four(codes: &[u8]) -> __m512i {
    let mask = if codes.len() >= BLOCK {
        u32::MAX
    } else {
        assert!(codes.len() >= BLOCK / 2, "there is a whole block");
        u32::from(u16::MAX)
    };
    // SAFETY: the mask has a bit for 32 bytes or 16, and there are at least as many.
    let both = unsafe { _mm256_maskz_loadu_epi8(mask, codes.as_ptr().cast()) };
    let halves = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(both), _mm256_srli_epi16::<4>(both));
    // From low halves of both blocks and high halves of both to one block after the other.
    _mm512_and_si512(_mm512_shuffle_i64x2::<0b11_01_10_00>(halves, halves), _mm512_set1_epi8(15))
}

/// See [`Isa::packed_products`](crate::isa::Isa::packed_products).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernel) fn packed_products(packed: &PackedTile, inputs: &RowGroup<'_>, lanes: Lanes, out: &mut [[f32; TILE]]) {
    match lanes {
        Lanes::All => of_lanes::<2>(packed, inputs, out),
        Lanes::Half => of_lanes::<1>(packed, inputs, out),
    }
}

/// The first `V` vectors of a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn of_lanes<const V: usize>(packed: &PackedTile, inputs: &RowGroup<'_>, out: &mut [[f32; TILE]]) {
    match inputs.n {
        1 => of_packed::<1, V>(packed, inputs, out),
        2 => of_packed::<2, V>(packed, inputs, out),
        3 => of_packed::<3, V>(packed, inputs, out),
        4 => of_packed::<4, V>(packed, inputs, out),
        5 => of_packed::<5, V>(packed, inputs, out),
        _ => of_packed::<6, V>(packed, inputs, out),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn of_packed<const N: usize, const V: usize>(packed: &PackedTile, inputs: &RowGroup<'_>, out: &mut [[f32; TILE]]) {
    // Equal to WORDS, which is hidden from the compiler: it would unroll the loop until the sums no longer fit the registers.
    let words = packed.words.len() / packed.scales.len();
    let blocks = packed.words.chunks_exact(words).zip(inputs.words.as_chunks::<N>().0.chunks_exact(words));
    let of_block = packed.scales.iter().zip(inputs.scales.as_chunks::<N>().0.iter().zip(inputs.correction.as_chunks::<N>().0));
    let mut sums = [[_mm512_setzero_ps(); V]; N];
    for ((weights, inputs), (scales, (input_scales, correction))) in blocks.zip(of_block) {
        let mut dots = [[_mm512_setzero_si512(); V]; N];
        for (dots, correction) in dots.iter_mut().zip(correction) {
            *dots = [_mm512_set1_epi32(*correction); V];
        }
        for (weights, inputs) in weights.iter().zip(inputs) {
            let mut loaded = [_mm512_setzero_si512(); V];
            for (loaded, weights) in loaded.iter_mut().zip(weights.as_chunks::<16>().0) {
                // SAFETY: the array has sixteen words of four bytes.
                *loaded = unsafe { _mm512_loadu_si512(weights.as_ptr().cast()) };
            }
            for (dots, four) in dots.iter_mut().zip(inputs) {
                let four = _mm512_set1_epi32(*four);
                for (dots, weights) in dots.iter_mut().zip(&loaded) {
                    *dots = _mm512_dpbusd_epi32(*dots, *weights, four);
                }
            }
        }
        let mut loaded = [_mm512_setzero_ps(); V];
        for (loaded, scales) in loaded.iter_mut().zip(scales.as_chunks::<16>().0) {
            // SAFETY: the array has sixteen floats.
            *loaded = unsafe { _mm512_loadu_ps(scales.as_ptr()) };
        }
        for ((sums, dots), input) in sums.iter_mut().zip(&dots).zip(input_scales) {
            let input = _mm512_set1_ps(*input);
            for ((sum, dots), scale) in sums.iter_mut().zip(dots).zip(loaded) {
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*dots), _mm512_mul_ps(scale, input), *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (sum, out) in sums.iter().zip(out.as_chunks_mut::<16>().0) {
            // SAFETY: the array has sixteen floats.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(*sum, _mm512_loadu_ps(out.as_ptr()))) };
        }
    }
}
