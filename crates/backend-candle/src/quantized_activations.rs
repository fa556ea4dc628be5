//! Inputs of products in eight bits: what fast numerics do with activations.

use rayon::prelude::*;

use crate::quantize::BLOCK;

/// Rows of inputs, each block of [`BLOCK`] as whole numbers from -127 to 127 times a scale. A block is rounded by itself, so a row is
/// the same whichever others it goes with.
pub(crate) struct Rounded {
    /// `[n, columns / BLOCK]`
    pub(crate) codes: Vec<[i8; BLOCK]>,
    /// `[n, columns / BLOCK]`
    pub(crate) scales: Vec<f32>,
    /// The sum of the codes of each block.
    pub(crate) sums: Vec<i32>,
    /// Blocks of a row.
    pub(crate) per_row: usize,
}

/// Blocks that are worth a thread's attention.
const WORTH_A_THREAD: usize = 1024;

impl Rounded {
    /// Rounds `x`, rows of `columns`, which are whole blocks.
    pub(crate) fn new(x: &[f32], columns: usize) -> Self {
        let n = x.len() / BLOCK;
        let (mut codes, mut scales, mut sums) = (vec![[0; BLOCK]; n], vec![0.0; n], vec![0; n]);
        let parts = codes.par_chunks_mut(WORTH_A_THREAD).zip(scales.par_chunks_mut(WORTH_A_THREAD));
        parts
            .zip(sums.par_chunks_mut(WORTH_A_THREAD))
            .zip(x.as_chunks().0.par_chunks(WORTH_A_THREAD))
            .for_each(|(((codes, scales), sums), x)| round(x, codes, scales, sums));
        Self { codes, scales, sums, per_row: columns / BLOCK }
    }

    /// The rows in pairs of blocks, `[n, pairs]`, for weights that have `offset` added. A last block without another goes with zeros.
    pub(crate) fn pairs(&self, offset: i32) -> Vec<Pair> {
        let per_row = self.per_row.div_ceil(2);
        let mut pairs =
            vec![Pair { codes: [[0; BLOCK]; 2], below: [0; 16], scales: [0.0; 16] }; self.codes.len() / self.per_row * per_row];
        for (i, ((codes, scale), sum)) in self.codes.iter().zip(&self.scales).zip(&self.sums).enumerate() {
            let (row, block) = (i / self.per_row, i % self.per_row);
            let (pair, half) = (&mut pairs[row * per_row + block / 2], block % 2);
            pair.codes[half] = *codes;
            pair.below[8 * half] = -offset * sum;
            pair.scales[8 * half..][..8].fill(*scale);
        }
        pairs
    }

    /// The rows in groups of `size` and a last one, for weights that have `offset` added.
    pub(crate) fn groups(&self, offset: i32, size: usize) -> Vec<Group> {
        let size = size * self.per_row;
        let parts = self.codes.par_chunks(size).zip(self.scales.par_chunks(size)).zip(self.sums.par_chunks(size));
        parts.map(|((codes, scales), sums)| Group::new((codes, scales, sums), self.per_row, offset)).collect()
    }
}

/// Two blocks of a row, as wide vectors take them.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Pair {
    pub(crate) codes: [[i8; BLOCK]; 2],
    /// What sums of products start from, in the first of eight places for each block: the sum of its codes times an offset, below zero.
    pub(crate) below: [i32; 16],
    /// Eight times that of each block.
    pub(crate) scales: [f32; 16],
}

/// Some rows, place by place.
pub(crate) struct Group {
    /// How many.
    pub(crate) n: usize,
    /// Four codes in each: `[columns / 4, n]`.
    pub(crate) words: Vec<i32>,
    /// `[columns / BLOCK, n]`
    pub(crate) scales: Vec<f32>,
    /// As in [`Pair`]: `[columns / BLOCK, n]`.
    pub(crate) below: Vec<i32>,
}

impl Group {
    fn new((codes, scales, sums): (&[[i8; BLOCK]], &[f32], &[i32]), per_row: usize, offset: i32) -> Self {
        let n = codes.len() / per_row;
        let mut group =
            Self { n, words: vec![0; codes.len() * WORDS], scales: vec![0.0; scales.len()], below: vec![0; sums.len()] };
        for row in 0..n {
            let own = row * per_row..(row + 1) * per_row;
            let words = codes[own.clone()].as_flattened().as_chunks::<4>().0;
            for (out, word) in group.words[row..].iter_mut().step_by(n).zip(words) {
                *out = i32::from_le_bytes(word.map(i8::cast_unsigned));
            }
            group.scales[row..].iter_mut().step_by(n).zip(&scales[own.clone()]).for_each(|(out, scale)| *out = *scale);
            group.below[row..].iter_mut().step_by(n).zip(&sums[own]).for_each(|(out, sum)| *out = -offset * sum);
        }
        group
    }
}

/// Numbers of four bytes in a block.
const WORDS: usize = BLOCK / 4;

#[multiversion::multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2"))]
fn round(x: &[[f32; BLOCK]], codes: &mut [[i8; BLOCK]], scales: &mut [f32], sums: &mut [i32]) {
    /// Adding it rounds to a whole number, ties to even, which then stands in the low bits.
    const ROUNDER: f32 = (3_u32 << 22) as f32;
    const HALF: usize = BLOCK / 2;
    for (((x, codes), scale), sum) in x.iter().zip(codes).zip(scales).zip(sums) {
        let (first, second) = x.split_at(HALF);
        let (mut largest, mut nothing) = ([0.0_f32; HALF], 0.0);
        for ((largest, first), second) in largest.iter_mut().zip(first).zip(second) {
            *largest = if first.abs() > second.abs() { first.abs() } else { second.abs() };
        }
        for value in x {
            // Of what is no finite number this is NaN, and it stays so: the scale is none either, and it shows in the logits.
            nothing += value * 0.0;
        }
        let mut width = HALF;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                largest[i] = if largest[i] > largest[width + i] { largest[i] } else { largest[width + i] };
            }
        }
        let inverse = if largest[0] > 0.0 { 127.0 / largest[0] } else { 0.0 };
        *scale = largest[0] / 127.0 + nothing;
        let mut total = 0;
        for (code, value) in codes.iter_mut().zip(x) {
            *code = ((value * inverse + ROUNDER).to_bits() as u8).cast_signed();
            total += i32::from(*code);
        }
        *sum = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_off_by_half_a_step() {
        let x: Vec<f32> = (0..3000 * BLOCK).map(|i| ((i * i) as f32 * 0.37).sin() * [1.0, 1e-3, 40.0][i / BLOCK % 3]).collect();
        let rounded = Rounded::new(&x, 10 * BLOCK);
        for (i, x) in x.chunks(BLOCK).enumerate() {
            let step = x.iter().fold(0.0_f32, |all, x| all.max(x.abs())) / 127.0;
            assert!((rounded.scales[i] - step).abs() <= 1e-6 * step);
            assert_eq!(rounded.sums[i], rounded.codes[i].iter().map(|code| i32::from(*code)).sum::<i32>());
            for (code, x) in rounded.codes[i].iter().zip(x) {
                assert!((f32::from(*code) * step - x).abs() <= 0.5001 * step, "{x} {code}");
            }
        }
    }

    #[test]
    fn pairs_and_groups_are_the_same_numbers() {
        let x: Vec<f32> = (0..7 * 3 * BLOCK).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        let rounded = Rounded::new(&x, 3 * BLOCK);
        let (pairs, groups) = (rounded.pairs(8), rounded.groups(8, 4));
        assert_eq!((pairs.len(), groups.len(), groups[1].n), (7 * 2, 2, 3));
        for row in 0..7 {
            let (group, place) = (&groups[row / 4], row % 4);
            for block in 0..3 {
                let i = row * 3 + block;
                let (pair, half) = (&pairs[row * 2 + block / 2], block % 2);
                assert_eq!(pair.codes[half], rounded.codes[i]);
                assert_eq!(pair.below[8 * half..][..8].iter().sum::<i32>(), -8 * rounded.sums[i]);
                assert!(pair.scales[8 * half..][..8].iter().all(|scale| *scale == rounded.scales[i]));
                assert_eq!(group.scales[block * group.n + place], rounded.scales[i]);
                assert_eq!(group.below[block * group.n + place], -8 * rounded.sums[i]);
                for k in 0..BLOCK / 4 {
                    let word = group.words[(block * BLOCK / 4 + k) * group.n + place];
                    assert_eq!(word.to_le_bytes().map(u8::cast_signed), rounded.codes[i][4 * k..4 * k + 4]);
                }
            }
            assert_eq!((pairs[row * 2 + 1].codes[1], pairs[row * 2 + 1].scales[8]), ([0; BLOCK], 0.0));
        }
    }

    #[test]
    fn zeros_and_what_is_no_number() {
        let mut x = [0.0; 4 * BLOCK];
        (x[BLOCK + 3], x[2 * BLOCK + 1], x[3 * BLOCK]) = (f32::NAN, f32::INFINITY, 1e-44);
        let rounded = Rounded::new(&x, 4 * BLOCK);
        assert_eq!((rounded.scales[0], rounded.sums[0]), (0.0, 0));
        assert!(rounded.scales[1].is_nan() && rounded.scales[2].is_nan());
        assert!(rounded.scales[3].abs() < 1e-38, "{}", rounded.scales[3]);
    }
}
