//! Integer products with products of matrices of bytes (i8mm), of two rows of weights and two inputs at a time. One input goes through
//! dot products.
//!
//! The instruction multiplies unsigned with signed bytes. The codes of weights are the unsigned side, as they are, and a correction is
//! added to every sum, minus the code of zero times the sum of the inputs.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::aarch64::*;

use super::asm::usmmla;
use super::blocks::{EIGHT, FOUR, unsigned};
use super::bytes::{ROWS, codes_of, dotprod, four_rows, load_words, with_block};
use super::floats::{load, store};
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::{BlockPair, RowGroup};
use crate::tiles::{Lanes, PackedTile, TILE};

pub(in crate::kernel) use super::bytes::pack;

/// Eights of a block: what is multiplied at a time.
const EIGHTS: usize = BLOCK / 8;

/// See [`Isa::integer_products`](crate::isa::Isa::integer_products).
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(in crate::kernel) fn integer_products(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
    if inputs.len() == columns.div_ceil(2 * BLOCK) {
        return dotprod::integer_products(weights, inputs, columns, out);
    }
    match weights.bits {
        Bits::Eight => of_size::<EIGHT>(weights, inputs, columns, out),
        Bits::Four => of_size::<FOUR>(weights, inputs, columns, out),
    }
}

#[target_feature(enable = "neon,dotprod,i8mm")]
fn of_size<const SIZE: usize>(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
    match inputs.len() / columns.div_ceil(2 * BLOCK) {
        2 => by_rows::<SIZE, 2, 1>(weights, inputs, columns, out),
        3 => by_rows::<SIZE, 3, 2>(weights, inputs, columns, out),
        4 => by_rows::<SIZE, 4, 2>(weights, inputs, columns, out),
        5 => by_rows::<SIZE, 5, 3>(weights, inputs, columns, out),
        6 => by_rows::<SIZE, 6, 3>(weights, inputs, columns, out),
        7 => by_rows::<SIZE, 7, 4>(weights, inputs, columns, out),
        _ => by_rows::<SIZE, 8, 4>(weights, inputs, columns, out),
    }
}

/// `N` inputs, which are `P` twos.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn by_rows<const SIZE: usize, const N: usize, const P: usize>(
    weights: Blocks<'_>,
    inputs: &[BlockPair],
    columns: usize,
    out: &mut [f32],
) {
    let (pairs, blocks) = (inputs.len() / N, columns / BLOCK);
    let inputs: [&[BlockPair]; N] = std::array::from_fn(|i| &inputs[i * pairs..(i + 1) * pairs]);
    let mut twos = Vec::with_capacity(blocks);
    for block in 0..blocks {
        let mut of_block = [[vdupq_n_u8(0); EIGHTS]; P];
        for (two, inputs) in of_block.iter_mut().zip(inputs.chunks(2)) {
            // The second of an odd last one is zeros.
            let mut codes = [[vdupq_n_u8(0); 2]; 2];
            for (codes, input) in codes.iter_mut().zip(inputs) {
                let [first, second] = codes_of(&input[block / 2].codes[block % 2]);
                *codes = [vreinterpretq_u8_s8(first), vreinterpretq_u8_s8(second)];
            }
            *two = interleaved(codes[0], codes[1]);
        }
        twos.push(of_block);
    }
    for (i, out) in out.chunks_mut(ROWS * N).enumerate() {
        let weights = weights.rows(i * ROWS..i * ROWS + out.len() / N, columns);
        rows_of::<SIZE, N, P>(weights, &inputs, &twos, out);
    }
}

/// Up to four rows, times inputs whose codes are in `twos`, `[blocks, P]`.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn rows_of<const SIZE: usize, const N: usize, const P: usize>(
    weights: Blocks<'_>,
    inputs: &[&[BlockPair]; N],
    twos: &[[[uint8x16_t; EIGHTS]; P]],
    out: &mut [f32],
) {
    // Cut to one length, so that the loop needs no bounds checks.
    let blocks = twos.len();
    let rows = four_rows(weights, blocks * BLOCK, out.len() / N)
        .map(|row| (&row.codes.as_chunks::<SIZE>().0[..blocks], &row.scales[..blocks]));
    let mut sums = [vdupq_n_f32(0.0); N];
    for (block, twos) in twos.iter().enumerate() {
        let (pair, half) = (block / 2, block % 2);
        let (mut codes, mut scales) = ([[vdupq_n_u8(0); 2]; ROWS], [0.0; ROWS]);
        for ((codes, scale), (row_codes, row_scales)) in codes.iter_mut().zip(&mut scales).zip(&rows) {
            *codes = unsigned(&row_codes[block]);
            *scale = row_scales[block];
        }
        let (upper, lower) = (interleaved(codes[0], codes[1]), interleaved(codes[2], codes[3]));
        let scales = load(&scales);
        for ((sums, two), inputs) in sums.chunks_mut(2).zip(twos).zip(inputs.chunks(2)) {
            let mut dots = [vdupq_n_s32(0); 2];
            for ((upper, lower), inputs) in upper.iter().zip(&lower).zip(two) {
                let inputs = vreinterpretq_s8_u8(*inputs);
                dots = [usmmla(dots[0], *upper, inputs), usmmla(dots[1], *lower, inputs)];
            }
            for ((sum, input), products) in sums.iter_mut().zip(inputs).zip(by_input(dots)) {
                let input = &input[pair];
                let scales = vmulq_n_f32(scales, input.scales[8 * half]);
                *sum = with_block(products, input.correction[8 * half], scales, *sum);
            }
        }
    }
    for (i, sum) in sums.into_iter().enumerate() {
        let mut by_row = [0.0; ROWS];
        store(sum, &mut by_row);
        out[i..].iter_mut().step_by(N).zip(by_row).for_each(|(out, sum)| *out = sum);
    }
}

/// See [`Isa::packed_products`](crate::isa::Isa::packed_products).
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(in crate::kernel) fn packed_products(packed: &PackedTile, inputs: &RowGroup<'_>, lanes: Lanes, out: &mut [[f32; TILE]]) {
    match inputs.n {
        1 => dotprod::packed_products(packed, inputs, lanes, out),
        2 => of_packed::<2, 1>(packed, inputs, lanes, out),
        3 => of_packed::<3, 2>(packed, inputs, lanes, out),
        4 => of_packed::<4, 2>(packed, inputs, lanes, out),
        5 => of_packed::<5, 3>(packed, inputs, lanes, out),
        _ => of_packed::<6, 3>(packed, inputs, lanes, out),
    }
}

/// Vectors of rows of a tile that go together.
const VECTORS: usize = 2;

#[target_feature(enable = "neon,dotprod,i8mm")]
fn of_packed<const N: usize, const P: usize>(packed: &PackedTile, inputs: &RowGroup<'_>, lanes: Lanes, out: &mut [[f32; TILE]]) {
    // The words of a block, a constant that is hidden from the compiler: it would unroll the loop over them.
    let words = packed.words.len() / packed.scales.len();
    for part in 0..lanes.number() / (VECTORS * ROWS) {
        let own = part * VECTORS..(part + 1) * VECTORS;
        let blocks = packed.words.chunks_exact(words).zip(inputs.words.as_chunks::<N>().0.chunks_exact(words));
        let of_inputs = inputs.scales.as_chunks::<N>().0.iter().zip(inputs.correction.as_chunks::<N>().0);
        let mut sums = [[vdupq_n_f32(0.0); VECTORS]; N];
        for ((weights, inputs), (scales, (input_scales, correction))) in blocks.zip(packed.scales.iter().zip(of_inputs)) {
            let mut dots = [[[vdupq_n_s32(0); 2]; VECTORS]; P];
            for ([weights, more_weights], [inputs, more_inputs]) in weights.as_chunks().0.iter().zip(inputs.as_chunks().0) {
                let mut loaded = [[vdupq_n_u8(0); 2]; VECTORS];
                let halves = weights.as_chunks().0[own.clone()].iter().zip(&more_weights.as_chunks().0[own.clone()]);
                for (loaded, (first, second)) in loaded.iter_mut().zip(halves) {
                    *loaded = eights_of_rows(load_words(first), load_words(second));
                }
                for ((dots, first), second) in dots.iter_mut().zip(inputs.chunks(2)).zip(more_inputs.chunks(2)) {
                    let two = vreinterpretq_s8_s32(vzip1q_s32(one_or_two(first), one_or_two(second)));
                    for (dots, weights) in dots.iter_mut().zip(&loaded) {
                        *dots = [usmmla(dots[0], weights[0], two), usmmla(dots[1], weights[1], two)];
                    }
                }
            }
            let scales = &scales.as_chunks().0[own.clone()];
            for (i, sums) in sums.iter_mut().enumerate() {
                for ((sum, dots), scales) in sums.iter_mut().zip(&dots[i / 2]).zip(scales) {
                    let scales = vmulq_n_f32(load(scales), input_scales[i]);
                    *sum = with_block(by_input(*dots)[i % 2], correction[i], scales, *sum);
                }
            }
        }
        for (sums, out) in sums.iter().zip(&mut *out) {
            for (sum, out) in sums.iter().zip(&mut out.as_chunks_mut().0[own.clone()]) {
                store(vaddq_f32(load(out), *sum), out);
            }
        }
    }
}

/// The same eights of two blocks side by side.
#[inline]
#[target_feature(enable = "neon")]
fn interleaved(a: [uint8x16_t; 2], b: [uint8x16_t; 2]) -> [uint8x16_t; EIGHTS] {
    let mut eights = [vdupq_n_u8(0); EIGHTS];
    for ((two, a), b) in eights.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b) {
        let (a, b) = (vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b));
        *two = [vreinterpretq_u8_u64(vzip1q_u64(a, b)), vreinterpretq_u8_u64(vzip2q_u64(a, b))];
    }
    eights
}

/// Eight weights of the first two of four rows, and of the other two, from four weights of all and the next four.
#[inline]
#[target_feature(enable = "neon")]
fn eights_of_rows(first: uint8x16_t, second: uint8x16_t) -> [uint8x16_t; 2] {
    let (first, second) = (vreinterpretq_u32_u8(first), vreinterpretq_u32_u8(second));
    [vreinterpretq_u8_u32(vzip1q_u32(first, second)), vreinterpretq_u8_u32(vzip2q_u32(first, second))]
}

/// One or two words in the first lanes, zeros in the others.
#[inline]
#[target_feature(enable = "neon")]
fn one_or_two(words: &[i32]) -> int32x4_t {
    let two = match words {
        // SAFETY: the slice has the two words that are loaded.
        [_, _] => unsafe { vld1_s32(words.as_ptr()) },
        _ => vset_lane_s32::<0>(words[0], vdup_n_s32(0)),
    };
    vcombine_s32(two, vdup_n_s32(0))
}

/// From the products of the first two rows and of the other two with two inputs to those of four rows with each input.
#[inline]
#[target_feature(enable = "neon")]
fn by_input([upper, lower]: [int32x4_t; 2]) -> [int32x4_t; 2] {
    [vuzp1q_s32(upper, lower), vuzp2q_s32(upper, lower)]
}
