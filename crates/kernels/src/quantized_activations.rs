//! Activations quantised to 8 bits, the inputs of integer products with quantised weights.
//!
//! Fast numerics use them, in prompts and decoding alike, where [`Isa::quantizes_activations`](crate::isa::Isa::quantizes_activations)
//! says that they are faster; exact numerics never do.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::isa::vectorized;
use crate::quantize::BLOCK;
use crate::tiles::{PackedTile, TILE};

/// Rows of inputs, each block of [`BLOCK`] as integers from -127 to 127 times a scale. Each block is quantised by itself, so a row does
/// not depend on the others of its batch.
pub(crate) struct QuantizedActivations {
    /// `[n, columns / BLOCK]`
    pub(crate) codes: Vec<[i8; BLOCK]>,
    /// `[n, columns / BLOCK]`
    pub(crate) scales: Vec<f32>,
    /// The sum of the codes of each block.
    pub(crate) sums: Vec<i32>,
    /// Blocks of a row.
    pub(crate) per_row: usize,
}

/// Blocks of a task.
const TASK_BLOCKS: usize = 1024;

impl QuantizedActivations {
    /// Quantises `x`, rows of `columns`, which are whole blocks.
    pub(crate) fn new(x: &[f32], columns: usize) -> Self {
        let n = x.len() / BLOCK;
        let (mut codes, mut scales, mut sums) = (vec![[0; BLOCK]; n], vec![0.0; n], vec![0; n]);
        let parts = codes.par_chunks_mut(TASK_BLOCKS).zip(scales.par_chunks_mut(TASK_BLOCKS));
        parts
            .zip(sums.par_chunks_mut(TASK_BLOCKS))
            .zip(x.as_chunks().0.par_chunks(TASK_BLOCKS))
            .for_each(|(((codes, scales), sums), x)| quantize(x, codes, scales, sums));
        Self { codes, scales, sums, per_row: columns / BLOCK }
    }

    /// The values that the codes stand for.
    pub(crate) fn widened(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.codes.len() * BLOCK];
        widen(&self.codes, &self.scales, &mut values);
        values
    }

    /// All rows in pairs of blocks, `[n, pairs]`, for weights whose code of zero is `offset`. An odd last block is paired with zeros.
    pub(crate) fn pairs(&self, offset: i32) -> Vec<BlockPair> {
        self.pairs_of(0..self.codes.len() / self.per_row, offset)
    }

    /// As [`pairs`](Self::pairs), of some rows.
    pub(crate) fn pairs_of(&self, rows: Range<usize>, offset: i32) -> Vec<BlockPair> {
        let per_row = self.per_row.div_ceil(2);
        let own = rows.start * self.per_row..rows.end * self.per_row;
        let mut pairs = vec![BlockPair { codes: [[0; BLOCK]; 2], correction: [0; 16], scales: [0.0; 16] }; rows.len() * per_row];
        let blocks = self.codes[own.clone()].iter().zip(&self.scales[own.clone()]).zip(&self.sums[own]);
        for (i, ((codes, scale), sum)) in blocks.enumerate() {
            let (row, block) = (i / self.per_row, i % self.per_row);
            let (pair, half) = (&mut pairs[row * per_row + block / 2], block % 2);
            pair.codes[half] = *codes;
            pair.correction[8 * half] = -offset * sum;
            pair.scales[8 * half..][..8].fill(*scale);
        }
        pairs
    }

    /// Some rows in one group, for weights whose code of zero is `offset`.
    pub(crate) fn group(&self, rows: Range<usize>, offset: i32) -> RowGroup<'static> {
        let own = rows.start * self.per_row..rows.end * self.per_row;
        RowGroup::new((&self.codes[own.clone()], &self.scales[own.clone()], &self.sums[own]), self.per_row, offset)
    }

    /// The rows in groups of `size`, the last possibly smaller, for weights whose code of zero is `offset`.
    pub(crate) fn groups(&self, offset: i32, size: usize) -> Vec<RowGroup<'static>> {
        let size = size * self.per_row;
        let parts = self.codes.par_chunks(size).zip(self.scales.par_chunks(size)).zip(self.sums.par_chunks(size));
        parts.map(|((codes, scales), sums)| RowGroup::new((codes, scales, sums), self.per_row, offset)).collect()
    }
}

/// Two blocks of a row, laid out for vectors of 512 bits.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct BlockPair {
    pub(crate) codes: [[i8; BLOCK]; 2],
    /// What sums of products start from, in the first of eight lanes for each block: minus the offset times the sum of its codes.
    pub(crate) correction: [i32; 16],
    /// The scale of each block, in eight lanes.
    pub(crate) scales: [f32; 16],
}

/// Some rows, interleaved.
pub(crate) struct RowGroup<'g> {
    /// The number of rows.
    pub(crate) n: usize,
    /// Four codes in each word: `[columns / 4, n]`.
    pub(crate) words: Cow<'g, [i32]>,
    /// `[columns / BLOCK, n]`
    pub(crate) scales: Cow<'g, [f32]>,
    /// As in [`BlockPair`], one for each block: `[columns / BLOCK, n]`.
    pub(crate) correction: Vec<i32>,
}

impl RowGroup<'_> {
    /// The same rows for weights to which `offset` is added, and not `before`.
    pub(crate) fn with_offset(&self, before: i32, offset: i32) -> RowGroup<'_> {
        let correction = self.correction.iter().map(|correction| correction / before * offset).collect();
        RowGroup { n: self.n, words: Cow::Borrowed(&self.words), scales: Cow::Borrowed(&self.scales), correction }
    }

    fn new((codes, scales, sums): (&[[i8; BLOCK]], &[f32], &[i32]), per_row: usize, offset: i32) -> Self {
        let n = codes.len() / per_row;
        let (mut all_words, mut all_scales, mut correction) =
            (vec![0; codes.len() * WORDS], vec![0.0; scales.len()], vec![0; sums.len()]);
        for row in 0..n {
            let own = row * per_row..(row + 1) * per_row;
            let words = codes[own.clone()].as_flattened().as_chunks::<4>().0;
            for (out, word) in all_words[row..].iter_mut().step_by(n).zip(words) {
                *out = i32::from_le_bytes(word.map(i8::cast_unsigned));
            }
            all_scales[row..].iter_mut().step_by(n).zip(&scales[own.clone()]).for_each(|(out, scale)| *out = *scale);
            correction[row..].iter_mut().step_by(n).zip(&sums[own]).for_each(|(out, sum)| *out = -offset * sum);
        }
        Self { n, words: all_words.into(), scales: all_scales.into(), correction }
    }
}

/// Words of four bytes in a block.
const WORDS: usize = BLOCK / 4;

vectorized! {
    fn quantize(x: &[[f32; BLOCK]], codes: &mut [[i8; BLOCK]], scales: &mut [f32], sums: &mut [i32]) {
        /// Adding it rounds to an integer, ties to even, in the low bits.
        const ROUNDER: f32 = (3_u32 << 22) as f32;
        const HALF: usize = BLOCK / 2;
        for (((x, codes), scale), sum) in x.iter().zip(codes).zip(scales).zip(sums) {
            let (first, second) = x.split_at(HALF);
            let (mut largest, mut zero_or_nan) = ([0.0_f32; HALF], 0.0);
            for ((largest, first), second) in largest.iter_mut().zip(first).zip(second) {
                *largest = if first.abs() > second.abs() { first.abs() } else { second.abs() };
            }
            for value in x {
                // NaN for an infinity or NaN, which makes the scale NaN and shows in the logits.
                zero_or_nan += value * 0.0;
            }
            let mut width = HALF;
            while width > 1 {
                width /= 2;
                for i in 0..width {
                    largest[i] = if largest[i] > largest[width + i] { largest[i] } else { largest[width + i] };
                }
            }
            let inverse = if largest[0] > 0.0 { 127.0 / largest[0] } else { 0.0 };
            *scale = largest[0] / 127.0 + zero_or_nan;
            let mut total = 0;
            for (code, value) in codes.iter_mut().zip(x) {
                *code = ((value * inverse + ROUNDER).to_bits() as u8).cast_signed();
                total += i32::from(*code);
            }
            *sum = total;
        }
    }
}

vectorized! {
    fn widen(codes: &[[i8; BLOCK]], scales: &[f32], values: &mut [f32]) {
        for ((values, codes), scale) in values.as_chunks_mut::<BLOCK>().0.iter_mut().zip(codes).zip(scales) {
            values.iter_mut().zip(codes).for_each(|(value, code)| *value = f32::from(*code) * scale);
        }
    }
}

/// Quantises `x`, `[columns, TILE]` with an input in each of the columns, to 8 bits in place of a tile of weights. Inputs have the codes and
/// scales that [`QuantizedActivations::new`] gives them.
pub(crate) fn pack_columns(x: &[f32], packed: &mut PackedTile) {
    packed.reset(x.len() / TILE);
    let blocks = x.as_chunks::<TILE>().0.as_chunks::<BLOCK>().0.iter();
    for ((x, words), scales) in blocks.zip(packed.words.as_chunks_mut::<WORDS>().0).zip(&mut packed.scales) {
        quantize_columns(x, words, scales);
    }
}

vectorized! {
    fn quantize_columns(x: &[[f32; TILE]; BLOCK], words: &mut [[u32; TILE]; WORDS], scales: &mut [f32; TILE]) {
        /// Adding it rounds to an integer, ties to even, in the low bits.
        const ROUNDER: f32 = (3_u32 << 22) as f32;
        let (mut largest, mut zero_or_nan, mut inverse) = ([0.0_f32; TILE], [0.0_f32; TILE], [0.0_f32; TILE]);
        for row in x {
            for ((largest, zero_or_nan), value) in largest.iter_mut().zip(&mut zero_or_nan).zip(row) {
                *largest = if value.abs() > *largest { value.abs() } else { *largest };
                *zero_or_nan += value * 0.0;
            }
        }
        for (((inverse, scale), largest), zero_or_nan) in inverse.iter_mut().zip(scales).zip(&largest).zip(&zero_or_nan) {
            *inverse = if *largest > 0.0 { 127.0 / largest } else { 0.0 };
            *scale = largest / 127.0 + zero_or_nan;
        }
        for (words, [first, second, third, fourth]) in words.iter_mut().zip(x.as_chunks::<4>().0) {
            let rows = first.iter().zip(second).zip(third.iter().zip(fourth));
            for ((word, ((first, second), (third, fourth))), inverse) in words.iter_mut().zip(rows).zip(&inverse) {
                let code = |value: &f32| ((value * inverse + ROUNDER).to_bits() & 255) ^ 128;
                *word = code(first) | code(second) << 8 | code(third) << 16 | code(fourth) << 24;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::Bits;

    #[test]
    fn quantised_activations_are_within_half_a_step() {
        let x: Vec<f32> = (0..3000 * BLOCK).map(|i| ((i * i) as f32 * 0.37).sin() * [1.0, 1e-3, 40.0][i / BLOCK % 3]).collect();
        let quantized = QuantizedActivations::new(&x, 10 * BLOCK);
        for (i, x) in x.chunks(BLOCK).enumerate() {
            let step = x.iter().fold(0.0_f32, |all, x| all.max(x.abs())) / 127.0;
            assert!((quantized.scales[i] - step).abs() <= 1e-6 * step);
            assert_eq!(quantized.sums[i], quantized.codes[i].iter().map(|code| i32::from(*code)).sum::<i32>());
            for (code, x) in quantized.codes[i].iter().zip(x) {
                assert!((f32::from(*code) * step - x).abs() <= 0.5001 * step, "{x} {code}");
            }
        }
    }

    #[test]
    fn pairs_and_groups_hold_the_same_codes() {
        let x: Vec<f32> = (0..7 * 3 * BLOCK).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        let quantized = QuantizedActivations::new(&x, 3 * BLOCK);
        let (pairs, groups) = (quantized.pairs(8), quantized.groups(8, 4));
        assert_eq!((pairs.len(), groups.len(), groups[1].n), (7 * 2, 2, 3));
        for row in 0..7 {
            let (group, slot) = (&groups[row / 4], row % 4);
            for block in 0..3 {
                let i = row * 3 + block;
                let (pair, half) = (&pairs[row * 2 + block / 2], block % 2);
                assert_eq!(pair.codes[half], quantized.codes[i]);
                assert_eq!(pair.correction[8 * half..][..8].iter().sum::<i32>(), -8 * quantized.sums[i]);
                assert!(pair.scales[8 * half..][..8].iter().all(|scale| *scale == quantized.scales[i]));
                assert_eq!(group.scales[block * group.n + slot], quantized.scales[i]);
                assert_eq!(group.correction[block * group.n + slot], -8 * quantized.sums[i]);
                for k in 0..BLOCK / 4 {
                    let word = group.words[(block * BLOCK / 4 + k) * group.n + slot];
                    assert_eq!(word.to_le_bytes().map(u8::cast_signed), quantized.codes[i][4 * k..4 * k + 4]);
                }
            }
            assert_eq!((pairs[row * 2 + 1].codes[1], pairs[row * 2 + 1].scales[8]), ([0; BLOCK], 0.0));
        }
    }

    #[test]
    fn columns_have_the_codes_of_rows() {
        let columns = 3 * BLOCK;
        let x: Vec<f32> = (0..TILE * columns).map(|i| ((i * i) as f32 * 0.37).sin() * [1.0, 0.0, 40.0][i / BLOCK % 3]).collect();
        let transposed: Vec<f32> = (0..x.len()).map(|i| x[i % TILE * columns + i / TILE]).collect();
        let (rows, mut packed) = (QuantizedActivations::new(&x, columns), PackedTile::new(Bits::Eight, 0));
        pack_columns(&transposed, &mut packed);
        for row in 0..TILE {
            for block in 0..3 {
                assert_eq!(packed.scales[block][row], rows.scales[row * 3 + block]);
                for (i, code) in rows.codes[row * 3 + block].iter().enumerate() {
                    let word = packed.words[(block * BLOCK + i) / 4][row];
                    assert_eq!(i32::from(word.to_le_bytes()[i % 4]) - 128, i32::from(*code));
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zero_and_nan_makes_the_scale_nan() {
        let mut x = [0.0; 4 * BLOCK];
        (x[BLOCK + 3], x[2 * BLOCK + 1], x[3 * BLOCK]) = (f32::NAN, f32::INFINITY, 1e-44);
        let quantized = QuantizedActivations::new(&x, 4 * BLOCK);
        assert_eq!((quantized.scales[0], quantized.sums[0]), (0.0, 0));
        assert!(quantized.scales[1].is_nan() && quantized.scales[2].is_nan());
        assert!(quantized.scales[3].abs() < 1e-38, "{}", quantized.scales[3]);
    }
}
