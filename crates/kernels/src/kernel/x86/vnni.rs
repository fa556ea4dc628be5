//! Integer products of 8- or 4-bit weights with 8-bit activations, with the dot products of bytes of AVX-512 (VNNI).
//!
//! The instruction multiplies unsigned with signed bytes. The codes of weights are the unsigned side, and every sum starts with a
//! correction, minus the code of zero times the sum of the inputs.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::x86_64::*;

use super::fetch_all;
use super::strips::interleave_codes;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::{BlockPair, RowGroup};
use crate::strips::STRIP;
use crate::tiles::{Lanes, PackedTile, TILE};

/// Words of four bytes in a block.
pub(super) const WORDS: usize = BLOCK / 4;

/// See [`Isa::integer_products`](crate::isa::Isa::integer_products).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernel) fn integer_products(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
    let per_row = columns.div_ceil(2 * BLOCK);
    let n = inputs.len() / per_row;
    if n == 1 {
        return of_bits(weights, inputs, columns, out);
    }
    let mut column = vec![0.0; out.len() / n];
    for (i, input) in inputs.chunks_exact(per_row).enumerate() {
        of_bits(weights, input, columns, &mut column);
        out[i..].iter_mut().step_by(n).zip(&column).for_each(|(out, value)| *out = *value);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn of_bits(weights: Blocks<'_>, input: &[BlockPair], columns: usize, out: &mut [f32]) {
    match weights.bits {
        Bits::Eight => by_row::<8>(weights, input, columns, out),
        Bits::Four => by_row::<4>(weights, input, columns, out),
    }
}

/// Sums of a row, to which its blocks are added in turns: the products of a block are added as integers, and rounded once.
pub(super) const SUMS: usize = 16;

/// Pairs of blocks whose products fill a vector.
const PAIRS: usize = SUMS / 2;

/// One input: one row after the other, because memory is read fastest in one stream.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn by_row<const B: usize>(weights: Blocks<'_>, input: &[BlockPair], columns: usize, out: &mut [f32]) {
    let (blocks, pair_bytes) = (columns / BLOCK, B * BLOCK / 4);
    let input_scales: Vec<f32> = input.iter().flat_map(|pair| [pair.scales[0], pair.scales[BLOCK / 4]]).take(blocks).collect();
    let (input_scales, last_input_scales) = input_scales.as_chunks::<SUMS>();
    let (inputs, last_inputs) = input.split_at(input_scales.len() * PAIRS);
    let rows = weights.codes.chunks_exact(B * columns / 8).zip(weights.scales.chunks_exact(blocks));
    for ((codes, scales), out) in rows.zip(out) {
        let mut sums = _mm512_setzero_ps();
        let mut codes = codes.chunks_exact(PAIRS * pair_bytes);
        let (scales, last_scales) = scales.as_chunks::<SUMS>();
        let whole = (&mut codes).zip(inputs.as_chunks::<PAIRS>().0);
        for ((codes, inputs), (scales, input_scales)) in whole.zip(scales.iter().zip(input_scales)) {
            fetch_all(codes);
            let mut dots = [_mm512_setzero_si512(); PAIRS];
            for (pair, (dots, input)) in dots.iter_mut().zip(inputs).enumerate() {
                *dots = products(two::<B>(&codes[pair * pair_bytes..(pair + 1) * pair_bytes]), input);
            }
            sums = with_blocks(dots, scales, input_scales, sums);
        }
        if !last_scales.is_empty() {
            fetch_all(codes.remainder());
            let mut dots = [_mm512_setzero_si512(); PAIRS];
            for ((dots, codes), input) in dots.iter_mut().zip(codes.remainder().chunks(pair_bytes)).zip(last_inputs) {
                *dots = products(two::<B>(codes), input);
            }
            sums = with_blocks(dots, &padded(last_scales), &padded(last_input_scales), sums);
        }
        *out = _mm512_reduce_add_ps(sums);
    }
}

/// With zeros up to the number of sums.
fn padded(scales: &[f32]) -> [f32; SUMS] {
    let mut padded = [0.0; SUMS];
    padded[..scales.len()].copy_from_slice(scales);
    padded
}

/// The products of two blocks in eight partial sums each.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn products(weight: __m512i, input: &BlockPair) -> __m512i {
    // SAFETY: both arrays of a `BlockPair` are 64 bytes.
    let (codes, correction) =
        unsafe { (_mm512_loadu_si512(input.codes.as_ptr().cast()), _mm512_loadu_si512(input.correction.as_ptr().cast())) };
    _mm512_dpbusd_epi32(correction, weight, codes)
}

/// `sums` with the products of sixteen blocks added, whose partial sums are `dots`.
#[inline]
#[target_feature(enable = "avx512f")]
fn with_blocks(dots: [__m512i; PAIRS], scales: &[f32; SUMS], input_scales: &[f32; SUMS], sums: __m512) -> __m512 {
    // SAFETY: the arrays have sixteen floats.
    let (scales, input_scales) = unsafe { (_mm512_loadu_ps(scales.as_ptr()), _mm512_loadu_ps(input_scales.as_ptr())) };
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(totals(dots)), _mm512_mul_ps(scales, input_scales), sums)
}

/// The sums of the first and of the last eight lanes of each vector, one after the other.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals(dots: [__m512i; PAIRS]) -> __m512i {
    let mut twos = [_mm512_setzero_si512(); PAIRS / 2];
    for (two, [a, b]) in twos.iter_mut().zip(dots.as_chunks().0) {
        *two = _mm512_add_epi32(_mm512_unpacklo_epi64(*a, *b), _mm512_unpackhi_epi64(*a, *b));
    }
    let mut fours = [_mm512_setzero_si512(); PAIRS / 4];
    for (four, [a, b]) in fours.iter_mut().zip(twos.as_chunks().0) {
        let (a, b) = (_mm512_castsi512_ps(*a), _mm512_castsi512_ps(*b));
        let (even, odd) = (_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b));
        *four = _mm512_add_epi32(_mm512_castps_si512(even), _mm512_castps_si512(odd));
    }
    let [a, b] = fours;
    let (even, odd) = (_mm512_shuffle_i64x2::<0b10_00_10_00>(a, b), _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b));
    // The first blocks of four pairs, the second ones, and the same of the other four.
    let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    _mm512_permutexvar_epi32(order, _mm512_add_epi32(even, odd))
}

/// See [`Isa::pack`](crate::isa::Isa::pack).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernel) fn pack(weights: Blocks<'_>, per_row: usize, packed: &mut PackedTile) {
    let rows = weights.scales.len() / per_row;
    for first in (0..TILE).step_by(STRIP) {
        let own = first.min(rows)..rows.min(first + STRIP);
        let weights = weights.rows(own.clone(), per_row * BLOCK);
        match weights.bits {
            Bits::Eight => pack_strip::<8>(weights, [own.len(), per_row], first, packed),
            Bits::Four => pack_strip::<4>(weights, [own.len(), per_row], first, packed),
        }
    }
}

/// Packs up to sixteen rows, those from `first` on of the tile; missing rows become zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn pack_strip<const B: usize>(weights: Blocks<'_>, [rows, per_row]: [usize; 2], first: usize, packed: &mut PackedTile) {
    let mut turned = [[_mm512_setzero_si512(); WORDS]; 4];
    for block in (0..per_row).step_by(16 / B) {
        let own = block..per_row.min(block + 16 / B);
        interleave_codes::<B>(weights.codes, [rows, per_row], own.clone(), &mut turned);
        let words = packed.words[own.start * WORDS..own.end * WORDS].iter_mut().zip(turned.as_flattened());
        for (words, turned) in words {
            let words: &mut [u32; STRIP] = words[first..].first_chunk_mut().expect("a tile has whole vectors");
            // SAFETY: the array has sixteen words of four bytes.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), *turned) };
        }
    }
    for (block, scales) in packed.scales[..per_row].iter_mut().enumerate() {
        for (row, scale) in scales[first..first + STRIP].iter_mut().enumerate() {
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
