//! Integer products of 8- or 4-bit weights with 8-bit activations: with NEON alone, and with its dot products of bytes.
//!
//! Four rows of weights go together, and each lane of a sum is of one of them. Nothing is fused: a block's products are multiplied by its scale and added
//! in two roundings, in the order of the plain kernel, so that the bits are equal.
#![expect(unsafe_code, reason = "vectors are loaded from addresses")]

use std::arch::aarch64::*;

use super::blocks::{EIGHT, FOUR, unsigned};
use super::tiles::transposed;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::tiles::{PackedTile, TILE};

/// Rows of a vector of sums.
pub(super) const ROWS: usize = 4;

/// The kernels on top of module `$way`, which multiplies bytes.
macro_rules! loops {
    ($module:ident, $features:literal, $way:ident) => {
        pub(in crate::kernel) mod $module {
            use std::arch::aarch64::*;

            pub(in crate::kernel) use super::pack;
            use super::{$way as way, *};
            use crate::kernel::neon::blocks::signed;
            use crate::kernel::neon::floats::{load, store};
            use crate::quantized_activations::{BlockPair, RowGroup};
            use crate::tiles::Lanes;

            /// See [`Isa::integer_products`](crate::isa::Isa::integer_products).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn integer_products(
                weights: Blocks<'_>,
                inputs: &[BlockPair],
                columns: usize,
                out: &mut [f32],
            ) {
                match weights.bits {
                    Bits::Eight => of_size::<EIGHT>(weights, inputs, columns, out),
                    Bits::Four => of_size::<FOUR>(weights, inputs, columns, out),
                }
            }

            #[target_feature(enable = $features)]
            fn of_size<const SIZE: usize>(weights: Blocks<'_>, inputs: &[BlockPair], columns: usize, out: &mut [f32]) {
                match inputs.len() / columns.div_ceil(2 * BLOCK) {
                    1 => by_rows::<SIZE, 1>(weights, inputs, columns, out),
                    2 => by_rows::<SIZE, 2>(weights, inputs, columns, out),
                    3 => by_rows::<SIZE, 3>(weights, inputs, columns, out),
                    4 => by_rows::<SIZE, 4>(weights, inputs, columns, out),
                    5 => by_rows::<SIZE, 5>(weights, inputs, columns, out),
                    6 => by_rows::<SIZE, 6>(weights, inputs, columns, out),
                    7 => by_rows::<SIZE, 7>(weights, inputs, columns, out),
                    _ => by_rows::<SIZE, 8>(weights, inputs, columns, out),
                }
            }

            #[target_feature(enable = $features)]
            fn by_rows<const SIZE: usize, const N: usize>(
                weights: Blocks<'_>,
                inputs: &[BlockPair],
                columns: usize,
                out: &mut [f32],
            ) {
                let pairs = inputs.len() / N;
                let inputs: [&[BlockPair]; N] = std::array::from_fn(|i| &inputs[i * pairs..(i + 1) * pairs]);
                for (i, out) in out.chunks_mut(ROWS * N).enumerate() {
                    let weights = weights.rows(i * ROWS..i * ROWS + out.len() / N, columns);
                    rows_of::<SIZE, N>(weights, &inputs, columns, out);
                }
            }

            /// Up to four rows.
            #[target_feature(enable = $features)]
            fn rows_of<const SIZE: usize, const N: usize>(
                weights: Blocks<'_>,
                inputs: &[&[BlockPair]; N],
                columns: usize,
                out: &mut [f32],
            ) {
                // Cut to one length, so that the loop needs no bounds checks.
                let blocks = columns / BLOCK;
                let rows = four_rows(weights, columns, out.len() / N)
                    .map(|row| (&row.codes.as_chunks::<SIZE>().0[..blocks], &row.scales[..blocks]));
                let mut sums = [vdupq_n_f32(0.0); N];
                for block in 0..blocks {
                    let (pair, half) = (block / 2, block % 2);
                    let (mut codes, mut scales) = ([[vdupq_n_s8(0); 2]; ROWS], [0.0; ROWS]);
                    for ((codes, scale), (row_codes, row_scales)) in codes.iter_mut().zip(&mut scales).zip(&rows) {
                        let [first, second] = unsigned(&row_codes[block]);
                        *codes = [signed::<SIZE>(first), signed::<SIZE>(second)];
                        *scale = row_scales[block];
                    }
                    let scales = load(&scales);
                    for (sum, input) in sums.iter_mut().zip(inputs) {
                        let input = &input[pair];
                        let block_codes = codes_of(&input.codes[half]);
                        let mut dots = [vdupq_n_s32(0); ROWS];
                        for (dots, codes) in dots.iter_mut().zip(&codes) {
                            *dots = way::block::<SIZE>(*codes, block_codes);
                        }
                        let [a, b, c, d] = dots;
                        let totals = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
                        // The integers of eight bits are what was multiplied, those of four bits and their offset.
                        let correction = if SIZE == EIGHT { 0 } else { input.correction[8 * half] };
                        *sum = with_block(totals, correction, vmulq_n_f32(scales, input.scales[8 * half]), *sum);
                    }
                }
                for (i, sum) in sums.into_iter().enumerate() {
                    let mut by_row = [0.0; ROWS];
                    store(sum, &mut by_row);
                    out[i..].iter_mut().step_by(N).zip(by_row).for_each(|(out, sum)| *out = sum);
                }
            }

            /// See [`Isa::packed_products`](crate::isa::Isa::packed_products).
            #[target_feature(enable = $features)]
            pub(in crate::kernel) fn packed_products(
                packed: &PackedTile,
                inputs: &RowGroup<'_>,
                lanes: Lanes,
                out: &mut [[f32; TILE]],
            ) {
                match packed.bits {
                    Bits::Eight => of_packed_size::<EIGHT>(packed, inputs, lanes, out),
                    Bits::Four => of_packed_size::<FOUR>(packed, inputs, lanes, out),
                }
            }

            #[target_feature(enable = $features)]
            fn of_packed_size<const SIZE: usize>(
                packed: &PackedTile,
                inputs: &RowGroup<'_>,
                lanes: Lanes,
                out: &mut [[f32; TILE]],
            ) {
                match inputs.n {
                    1 => of_packed::<SIZE, 1>(packed, inputs, lanes, out),
                    2 => of_packed::<SIZE, 2>(packed, inputs, lanes, out),
                    3 => of_packed::<SIZE, 3>(packed, inputs, lanes, out),
                    4 => of_packed::<SIZE, 4>(packed, inputs, lanes, out),
                    5 => of_packed::<SIZE, 5>(packed, inputs, lanes, out),
                    _ => of_packed::<SIZE, 6>(packed, inputs, lanes, out),
                }
            }

            /// Some vectors of rows after the others: registers hold their sums with all inputs.
            #[target_feature(enable = $features)]
            fn of_packed<const SIZE: usize, const N: usize>(
                packed: &PackedTile,
                inputs: &RowGroup<'_>,
                lanes: Lanes,
                out: &mut [[f32; TILE]],
            ) {
                const V: usize = way::VECTORS;
                // The words of a block, a constant that is hidden from the compiler: it would unroll the loop over them.
                let words = packed.words.len() / packed.scales.len();
                for part in 0..lanes.number() / (V * ROWS) {
                    let blocks = packed.words.chunks_exact(words).zip(inputs.words.as_chunks::<N>().0.chunks_exact(words));
                    let of_inputs = inputs.scales.as_chunks::<N>().0.iter().zip(inputs.correction.as_chunks::<N>().0);
                    let mut sums = [[vdupq_n_f32(0.0); V]; N];
                    for ((weights, inputs), (scales, (input_scales, correction))) in
                        blocks.zip(packed.scales.iter().zip(of_inputs))
                    {
                        let mut dots = [[way::NONE; V]; N];
                        for (weights, inputs) in weights.iter().zip(inputs) {
                            let mut loaded = [vdupq_n_s8(0); V];
                            for (loaded, weights) in loaded.iter_mut().zip(&weights.as_chunks().0[part * V..(part + 1) * V]) {
                                *loaded = signed::<SIZE>(load_words(weights));
                            }
                            for (dots, word) in dots.iter_mut().zip(inputs) {
                                for (dots, weights) in dots.iter_mut().zip(&loaded) {
                                    *dots = way::step::<SIZE>(*dots, *weights, *word);
                                }
                            }
                        }
                        let scales = &scales.as_chunks().0[part * V..(part + 1) * V];
                        for (i, (sums, dots)) in sums.iter_mut().zip(&dots).enumerate() {
                            let correction = if SIZE == EIGHT { 0 } else { correction[i] };
                            for ((sum, dots), scales) in sums.iter_mut().zip(dots).zip(scales) {
                                let scales = vmulq_n_f32(load(scales), input_scales[i]);
                                *sum = with_block(way::total::<SIZE>(*dots), correction, scales, *sum);
                            }
                        }
                    }
                    for (sums, out) in sums.iter().zip(&mut *out) {
                        for (sum, out) in sums.iter().zip(&mut out.as_chunks_mut().0[part * V..(part + 1) * V]) {
                            store(vaddq_f32(load(out), *sum), out);
                        }
                    }
                }
            }
        }
    };
}

loops!(widening, "neon", pairs);
loops!(dotprod, "neon,dotprod", fours);

/// NEON alone: products of bytes have sixteen bits, and are added in pairs.
mod pairs {
    use std::arch::aarch64::*;

    use super::FOUR;

    /// Vectors of rows of a tile that go together.
    pub(super) const VECTORS: usize = 1;

    /// The sums of four rows: two in each vector. Of four bits they have sixteen bits, of eight 32.
    pub(super) type Dots = [int16x8_t; 2];

    /// No products.
    // SAFETY: vectors of integers, which zeros are.
    pub(super) const NONE: Dots = unsafe { std::mem::zeroed() };

    /// Partial sums of the products of a block. Products of eight bits are at most 128 · 127, of which sixteen bits hold two.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn block<const SIZE: usize>(weights: [int8x16_t; 2], inputs: [int8x16_t; 2]) -> int32x4_t {
        let first = vmlal_high_s8(vmull_s8(vget_low_s8(weights[0]), vget_low_s8(inputs[0])), weights[0], inputs[0]);
        let second = vmlal_high_s8(vmull_s8(vget_low_s8(weights[1]), vget_low_s8(inputs[1])), weights[1], inputs[1]);
        if SIZE == FOUR { vpaddlq_s16(vaddq_s16(first, second)) } else { vpadalq_s16(vpaddlq_s16(first), second) }
    }

    /// Adds the products of four weights of each of four rows with the bytes of `word`. Of four bits a product is at most 15 · 127,
    /// and sixteen bits hold the eight that a block contributes to each lane.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn step<const SIZE: usize>([low, high]: Dots, weights: int8x16_t, word: i32) -> Dots {
        let word = vreinterpretq_s8_s32(vdupq_n_s32(word));
        if SIZE == FOUR {
            return [vmlal_s8(low, vget_low_s8(weights), vget_low_s8(word)), vmlal_high_s8(high, weights, word)];
        }
        let added = |sums: int16x8_t, products| vreinterpretq_s16_s32(vpadalq_s16(vreinterpretq_s32_s16(sums), products));
        [added(low, vmull_s8(vget_low_s8(weights), vget_low_s8(word))), added(high, vmull_high_s8(weights, word))]
    }

    /// The sum of each row.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn total<const SIZE: usize>([low, high]: Dots) -> int32x4_t {
        if SIZE == FOUR {
            return vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
        }
        vpaddq_s32(vreinterpretq_s32_s16(low), vreinterpretq_s32_s16(high))
    }
}

/// Dot products of four bytes.
mod fours {
    use std::arch::aarch64::*;

    use crate::kernel::neon::asm::{sdot, sdot_word};

    /// Vectors of rows of a tile that go together.
    pub(super) const VECTORS: usize = 2;

    /// The sums of four rows.
    pub(super) type Dots = int32x4_t;

    /// No products.
    // SAFETY: a vector of integers, which zeros are.
    pub(super) const NONE: Dots = unsafe { std::mem::zeroed() };

    /// Partial sums of the products of a block.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn block<const SIZE: usize>(weights: [int8x16_t; 2], inputs: [int8x16_t; 2]) -> int32x4_t {
        sdot(sdot(NONE, weights[0], inputs[0]), weights[1], inputs[1])
    }

    /// Adds the products of four weights of each of four rows with the bytes of `word`.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn step<const SIZE: usize>(dots: Dots, weights: int8x16_t, word: i32) -> Dots {
        sdot_word(dots, weights, word)
    }

    /// The sum of each row.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn total<const SIZE: usize>(dots: Dots) -> int32x4_t {
        dots
    }
}

/// The first [`ROWS`] rows of `weights`, of which there are `n`; the last one again where there are fewer.
#[inline]
pub(super) fn four_rows(weights: Blocks<'_>, columns: usize, n: usize) -> [Blocks<'_>; ROWS] {
    std::array::from_fn(|row| {
        let row = row.min(n - 1);
        weights.rows(row..row + 1, columns)
    })
}

/// Adds to `sum` the products of a block of each of four rows, with all scales of it.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn with_block(products: int32x4_t, correction: i32, scales: float32x4_t, sum: float32x4_t) -> float32x4_t {
    let integers = vaddq_s32(products, vdupq_n_s32(correction));
    vaddq_f32(sum, vmulq_f32(vcvtq_f32_s32(integers), scales))
}

/// The codes of a block of inputs.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn codes_of(block: &[i8; BLOCK]) -> [int8x16_t; 2] {
    // SAFETY: the array has 32 bytes.
    unsafe { [vld1q_s8(block.as_ptr()), vld1q_s8(block.as_ptr().add(16))] }
}

/// Four words as their bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_words(words: &[u32; 4]) -> uint8x16_t {
    // SAFETY: the array has 16 bytes.
    unsafe { vreinterpretq_u8_u32(vld1q_u32(words.as_ptr())) }
}

/// See [`Isa::pack`](crate::isa::Isa::pack).
#[target_feature(enable = "neon")]
pub(in crate::kernel) fn pack(weights: Blocks<'_>, per_row: usize, packed: &mut PackedTile) {
    match weights.bits {
        Bits::Eight => pack_blocks::<EIGHT>(weights, per_row, packed),
        Bits::Four => pack_blocks::<FOUR>(weights, per_row, packed),
    }
}

#[target_feature(enable = "neon")]
fn pack_blocks<const SIZE: usize>(weights: Blocks<'_>, per_row: usize, packed: &mut PackedTile) {
    const WORDS: usize = BLOCK / 4;
    let rows = weights.scales.len() / per_row;
    let codes = weights.codes.as_chunks::<SIZE>().0;
    for (block, (words, scales)) in packed.words.as_chunks_mut::<WORDS>().0.iter_mut().zip(&mut packed.scales).enumerate() {
        for first in (0..TILE).step_by(ROWS) {
            // Half of the block of each row.
            let mut squares = [[vdupq_n_f32(0.0); ROWS]; 2];
            for (place, row) in (first..rows.min(first + ROWS)).enumerate() {
                for (square, half) in squares.iter_mut().zip(unsigned(&codes[row * per_row + block])) {
                    square[place] = vreinterpretq_f32_u8(half);
                }
            }
            for (words, square) in words.as_chunks_mut::<4>().0.iter_mut().zip(squares) {
                for (words, column) in words.iter_mut().zip(transposed(square)) {
                    let words: &mut [u32; ROWS] = words[first..].first_chunk_mut().expect("a tile has whole vectors");
                    // SAFETY: the array has four words of four bytes.
                    unsafe { vst1q_u32(words.as_mut_ptr(), vreinterpretq_u32_f32(column)) };
                }
            }
        }
        for (row, scale) in scales.iter_mut().enumerate() {
            *scale = if row < rows { weights.scales[row * per_row + block] } else { 0.0 };
        }
    }
}
