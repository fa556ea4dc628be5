//! Integer products of a few inputs with 8- or 4-bit weights: sixteen rows of weights lie in the lanes of vectors and meet all inputs.
//!
//! Each word of four inputs is read by all lanes at once, so that sums need not be gathered from lanes. Weights in rows are
//! transposed to lanes as they are read, which is shared by all inputs.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::tiles::transposed_avx512;
use super::vnni::{SUMS, WORDS};
use crate::kernel::SumOrder;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::RowGroup;
use crate::strips::{Layout, STRIP, Word};

/// See [`Isa::group_products`](crate::isa::Isa::group_products).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernel) fn group_products(
    weights: (Blocks<'_>, Layout),
    sums: SumOrder,
    inputs: &RowGroup<'_>,
    out: &mut [&mut [f32]],
) {
    match (sums, weights.0.bits) {
        (SumOrder::InTurns, Bits::Eight) => of_bits::<SUMS, 8>(weights, inputs, out),
        (SumOrder::InTurns, Bits::Four) => of_bits::<SUMS, 4>(weights, inputs, out),
        (SumOrder::OneAfterTheOther, Bits::Eight) => of_bits::<1, 8>(weights, inputs, out),
        (SumOrder::OneAfterTheOther, Bits::Four) => of_bits::<1, 4>(weights, inputs, out),
    }
}

/// With `S` sums and weights of `B` bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn of_bits<const S: usize, const B: usize>(weights: (Blocks<'_>, Layout), inputs: &RowGroup<'_>, out: &mut [&mut [f32]]) {
    match inputs.n {
        1 => of_inputs::<S, B, 1>(weights, inputs, out),
        2 => of_inputs::<S, B, 2>(weights, inputs, out),
        3 => of_inputs::<S, B, 3>(weights, inputs, out),
        4 => of_inputs::<S, B, 4>(weights, inputs, out),
        5 => of_inputs::<S, B, 5>(weights, inputs, out),
        6 => of_inputs::<S, B, 6>(weights, inputs, out),
        7 => of_inputs::<S, B, 7>(weights, inputs, out),
        _ => of_inputs::<S, B, 8>(weights, inputs, out),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn of_inputs<const S: usize, const B: usize, const N: usize>(
    (weights, layout): (Blocks<'_>, Layout),
    inputs: &RowGroup<'_>,
    out: &mut [&mut [f32]],
) {
    let rows = out[0].len();
    let columns = weights.scales.len() / rows * BLOCK;
    let mut sums = [[_mm512_setzero_ps(); N]; S];
    for first in (0..rows).step_by(STRIP) {
        let own = first..rows.min(first + STRIP);
        let weights = weights.rows(own.clone(), columns);
        match layout {
            Layout::Strips if own.len() == STRIP => interleaved_strip::<S, B, N>(weights, inputs, &mut sums),
            _ => strip::<S, B, N>(weights, own.len(), inputs, &mut sums),
        }
        add_up(&mut sums);
        for (sum, out) in sums[0].iter().zip(&mut *out) {
            let out = &mut out[own.clone()];
            // SAFETY: the mask has a bit for each float of the slice.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), lanes(out.len()), *sum) };
        }
    }
}

/// Bytes ahead of those in use that are prefetched: a strip and the next lie one after the other.
const AHEAD: usize = 2048;

/// As [`strip`], of sixteen rows that are interleaved.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn interleaved_strip<const S: usize, const B: usize, const N: usize>(
    weights: Blocks<'_>,
    inputs: &RowGroup<'_>,
    all_sums: &mut [[__m512; N]; S],
) {
    // Of several sums the first block that is added to one takes its place.
    all_sums[if S == 1 { 0 } else { S.min(weights.scales.len() / STRIP) }..].fill([_mm512_setzero_ps(); N]);
    let (codes, low) = (weights.codes.as_chunks::<64>().0, _mm512_set1_epi8(15));
    let weights = codes.chunks_exact(B).zip(weights.scales.as_chunks::<STRIP>().0);
    let input_words = inputs.words.as_chunks::<N>().0.as_chunks::<WORDS>().0;
    let inputs = input_words.iter().zip(inputs.scales.as_chunks::<N>().0).zip(inputs.correction.as_chunks::<N>().0);
    for (block, ((codes, scales), ((input_words, input_scales), correction))) in weights.zip(inputs).enumerate() {
        let mut dots = [_mm512_setzero_si512(); N];
        dots.iter_mut().zip(correction).for_each(|(dots, correction)| *dots = _mm512_set1_epi32(*correction));
        let (first, second) = input_words.split_at(WORDS / 2);
        if B == 8 {
            for (codes, inputs) in codes.iter().zip(input_words) {
                add_dots(load_ahead(codes), inputs, &mut dots);
            }
        } else {
            for (codes, (first, second)) in codes.iter().zip(first.iter().zip(second)) {
                let both = load_ahead(codes);
                add_dots(_mm512_and_si512(both, low), first, &mut dots);
                add_dots(_mm512_and_si512(_mm512_srli_epi16::<4>(both), low), second, &mut dots);
            }
        }
        // SAFETY: the array has sixteen floats, and a prefetch is a hint: it does not fault, whatever the address.
        let scales = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(scales.as_ptr().wrapping_byte_add(AHEAD / 4).cast());
            _mm512_loadu_ps(scales.as_ptr())
        };
        let sums = &mut all_sums[block % S];
        if S > 1 && block < S {
            *sums = [_mm512_setzero_ps(); N];
        }
        for ((sum, dots), input) in sums.iter_mut().zip(dots).zip(input_scales) {
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_mul_ps(scales, _mm512_set1_ps(*input)), *sum);
        }
    }
}

/// A vector of codes; those that follow are prefetched.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_ahead(codes: &[u8; 64]) -> __m512i {
    // SAFETY: the array is a vector, and a prefetch is a hint: it does not fault, whatever the address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(AHEAD).cast());
        _mm512_loadu_si512(codes.as_ptr().cast())
    }
}

/// Adds to `dots` the products of four codes of each row with those of each input.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_dots<const N: usize>(codes: __m512i, inputs: &[i32; N], dots: &mut [__m512i; N]) {
    for (dots, input) in dots.iter_mut().zip(inputs) {
        *dots = _mm512_dpbusd_epi32(*dots, codes, _mm512_set1_epi32(*input));
    }
}

/// Writes the products of up to sixteen rows to `sums`, which [`add_up`] adds. They are those of [`by_row`](super::vnni), in its order, so that an
/// input has the same bits whatever it is multiplied together with.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn strip<const S: usize, const B: usize, const N: usize>(
    weights: Blocks<'_>,
    rows: usize,
    inputs: &RowGroup<'_>,
    sums: &mut [[__m512; N]; S],
) {
    let blocks = weights.scales.len() / rows;
    let input_words = inputs.words.as_chunks::<N>().0.as_chunks::<WORDS>().0;
    let of_block = input_words.iter().zip(inputs.scales.as_chunks::<N>().0).zip(inputs.correction.as_chunks::<N>().0);
    let mut of_block = of_block;
    sums.fill([_mm512_setzero_ps(); N]);
    let mut words = [[_mm512_setzero_si512(); WORDS]; SUMS];
    for start in (0..blocks).step_by(SUMS) {
        let n = SUMS.min(blocks - start);
        for first in (0..n).step_by(16 / B) {
            let own = start + first..start + n.min(first + 16 / B);
            interleave_codes::<B>(weights.codes, [rows, blocks], own, &mut words[first..]);
        }
        let scales = interleaved_scales(weights.scales, [rows, blocks], start..start + n);
        let weights = words.iter().zip(scales).take(n).enumerate();
        for ((index, (words, scales)), ((input_words, input_scales), correction)) in weights.zip(&mut of_block) {
            let mut dots = [_mm512_setzero_si512(); N];
            dots.iter_mut().zip(correction).for_each(|(dots, correction)| *dots = _mm512_set1_epi32(*correction));
            for (word, inputs) in words.iter().zip(input_words) {
                for (dots, input) in dots.iter_mut().zip(inputs) {
                    *dots = _mm512_dpbusd_epi32(*dots, *word, _mm512_set1_epi32(*input));
                }
            }
            for ((sum, dots), input) in sums[index % S].iter_mut().zip(dots).zip(input_scales) {
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_mul_ps(scales, _mm512_set1_ps(*input)), *sum);
            }
        }
    }
}

/// Adds all sums to the first, in the order in which `_mm512_reduce_add_ps` adds them.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_up<const S: usize, const N: usize>(sums: &mut [[__m512; N]; S]) {
    let mut width = S / 2;
    while width > 0 {
        let (low, high) = sums.split_at_mut(width);
        for (low, high) in low.as_flattened_mut().iter_mut().zip(high.as_flattened()) {
            *low = _mm512_add_ps(*low, *high);
        }
        width /= 2;
    }
}

/// Writes the codes of the blocks `own` of rows of `blocks` to `words`: of each block four codes of a row in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn interleave_codes<const B: usize>(
    codes: &[u8],
    [rows, blocks]: [usize; 2],
    own: Range<usize>,
    words: &mut [[__m512i; WORDS]],
) {
    let (all, block_bytes) = (codes, B * BLOCK / 8);
    let mut square = [_mm512_setzero_ps(); STRIP];
    for (row, square) in square.iter_mut().enumerate().take(rows) {
        let codes = &codes[(row * blocks + own.start) * block_bytes..][..own.len() * block_bytes];
        fetch_line(all, own.start / (16 / B) * STRIP + row);
        let mask = if codes.len() < 64 { (1 << codes.len()) - 1 } else { u64::MAX };
        // SAFETY: the mask has a bit for each byte of the slice.
        *square = _mm512_castsi512_ps(unsafe { _mm512_maskz_loadu_epi8(mask, codes.as_ptr().cast()) });
    }
    let lanes = transposed_avx512(square);
    if B == 8 {
        for (word, lane) in words.as_flattened_mut().iter_mut().zip(lanes) {
            *word = _mm512_castps_si512(lane);
        }
    } else {
        let low = _mm512_set1_epi8(15);
        for (words, lanes) in words.iter_mut().zip(lanes.as_chunks::<{ WORDS / 2 }>().0) {
            let (first, second) = words.split_at_mut(WORDS / 2);
            for ((first, second), both) in first.iter_mut().zip(second).zip(lanes) {
                let both = _mm512_castps_si512(*both);
                *first = _mm512_and_si512(both, low);
                *second = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
            }
        }
    }
}

/// The scales of up to sixteen blocks of rows of `blocks`: of each block that of a row in each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleaved_scales(scales: &[f32], [rows, blocks]: [usize; 2], own: Range<usize>) -> [__m512; STRIP] {
    let all = scales;
    let mut square = [_mm512_setzero_ps(); STRIP];
    for (row, square) in square.iter_mut().enumerate().take(rows) {
        fetch_line(all, own.start / SUMS * STRIP + row);
        let scales = &scales[row * blocks + own.start..row * blocks + own.end];
        // SAFETY: the mask has a bit for each float of the slice.
        *square = unsafe { _mm512_maskz_loadu_ps(lanes(scales.len()), scales.as_ptr()) };
    }
    transposed_avx512(square)
}

/// See [`Isa::interleave`](crate::isa::Isa::interleave): how many words of each row are done is the result; the rest is left.
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn interleave(rows: &[Word], strip: &mut [Word]) -> usize {
    let n = rows.len() / STRIP;
    let (squares, _) = strip.as_chunks_mut::<{ STRIP * STRIP }>();
    for (start, out) in (0..n).step_by(STRIP).zip(&mut *squares) {
        let mut square = [_mm512_setzero_ps(); STRIP];
        for (row, square) in square.iter_mut().enumerate() {
            let words: &[Word; STRIP] = rows[row * n + start..].first_chunk().expect("a square is within its rows");
            // SAFETY: the array is as large as the vector.
            *square = unsafe { _mm512_loadu_ps(words.as_ptr().cast()) };
        }
        for (out, words) in out.as_chunks_mut::<STRIP>().0.iter_mut().zip(transposed_avx512(square)) {
            // SAFETY: the array is as large as the vector.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().cast(), words) };
        }
    }
    squares.len() * STRIP
}

/// The mask of the first `n` lanes, of up to sixteen.
fn lanes(n: usize) -> u16 {
    u16::MAX >> (STRIP - n)
}

/// Prefetches the line of number `line` behind `weights`: what comes next is read from memory in its order, whatever the order of rows.
#[inline(always)]
fn fetch_line<T>(weights: &[T], line: usize) {
    // SAFETY: a prefetch is a hint: it has no visible effect and does not fault, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(weights.as_ptr_range().end.wrapping_byte_add(64 * line).cast()) };
}
