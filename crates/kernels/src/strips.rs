//! Quantised weights in strips of sixteen rows, which lie side by side as vectors take them.
//!
//! A vector of 512 bits has four codes of each of sixteen rows (of 4 bits: four bytes), and the scales of a block of each. With weights in rows
//! every product has to interleave them, which costs it more than half of its speed with 4 or 8 inputs (`cargo bench -p tandem-kernels --bench kernels
//! -- together`). A strip takes the place of its sixteen rows, so that a matrix is interleaved in place. Rows beyond the last strip stay as
//! they are.

use std::ops::Range;

use rayon::prelude::*;
use tandem_core::arena::{Arena, Slab};
use tandem_core::backend::Numerics;

use crate::isa::Isa;
use crate::quantize::{BLOCK, Bits, Blocks};

/// Rows of a strip.
pub(crate) const STRIP: usize = 16;

/// What is interleaved: four bytes of codes, or a scale.
pub(crate) type Word = [u8; 4];

/// How quantised weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As [`Blocks`] are.
    Rows,
    /// As [`Strips`] are.
    Strips,
}

impl Layout {
    /// That of a [`Matrix`](crate::matrix::Matrix) whose products have these numerics on this processor: weights may be kept so for another load.
    pub fn of(numerics: Numerics) -> Self {
        Self::on(Isa::current(), numerics)
    }

    pub(crate) fn on(isa: Isa, numerics: Numerics) -> Self {
        if numerics == Numerics::Fast && isa.has_strips() { Self::Strips } else { Self::Rows }
    }
}

/// Some rows of quantised weights, whole strips but for the last rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Strips<'a> {
    bits: Bits,
    /// Of a strip `[blocks, bits.block_bytes() / 4, STRIP, 4]`.
    codes: &'a [u8],
    /// Of a strip `[blocks, STRIP]`.
    scales: &'a [f32],
    columns: usize,
}

impl<'a> Strips<'a> {
    /// Rows of `columns` weights that [`interleave`] has arranged.
    pub(crate) fn new(bits: Bits, codes: &'a [u8], scales: &'a [f32], columns: usize) -> Self {
        Self { bits, codes, scales, columns }
    }

    /// The bits of a weight.
    pub fn bits(self) -> Bits {
        self.bits
    }

    /// Their memory, as if they were rows.
    pub(crate) fn memory(self) -> Blocks<'a> {
        Blocks { bits: self.bits, codes: self.codes, scales: self.scales }
    }

    /// The number of rows.
    fn n_rows(self) -> usize {
        self.scales.len() * BLOCK / self.columns
    }

    /// The rows `rows`: those of whole strips, or up to the last.
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        let is_whole = rows.start.is_multiple_of(STRIP) && (rows.end.is_multiple_of(STRIP) || rows.end == self.n_rows());
        assert!(is_whole, "strips are not divided");
        let Blocks { codes, scales, .. } = self.memory().rows(rows, self.columns);
        Self { codes, scales, ..self }
    }

    /// Writes the weights of the blocks `blocks` of row `row` to `out`, as [`Blocks::dequantize`] does.
    pub(crate) fn dequantize_row(self, row: usize, blocks: Range<usize>, out: &mut [f32]) {
        let first = row / STRIP * STRIP;
        if first + STRIP > self.n_rows() {
            return self.memory().rows(row..row + 1, self.columns).rows(blocks, BLOCK).dequantize(out);
        }
        let strip = self.memory().rows(first..first + STRIP, self.columns);
        let words = self.bits.block_bytes() / size_of::<Word>();
        let own = |all: Range<usize>| (all.start * STRIP + row - first..all.end * STRIP).step_by(STRIP);
        let codes: Vec<Word> = own(blocks.start * words..blocks.end * words).map(|i| strip.codes.as_chunks().0[i]).collect();
        let scales: Vec<f32> = own(blocks.clone()).map(|i| strip.scales[i]).collect();
        Blocks { bits: self.bits, codes: codes.as_flattened(), scales: &scales }.dequantize(out);
    }
}

/// A copy of weights in strips, in memory of its own.
#[derive(Debug)]
pub struct InterleavedCopy {
    bits: Bits,
    codes: Slab<u8>,
    scales: Slab<f32>,
    columns: usize,
}

impl InterleavedCopy {
    /// Of `rows` rows of `columns` weights, all of which are still to be [copied](Self::copy), in `arena`.
    ///
    /// # Panics
    /// For rows that are not whole blocks.
    pub fn new(bits: Bits, [rows, columns]: [usize; 2], arena: &Arena) -> Self {
        assert!(columns.is_multiple_of(BLOCK), "a row is whole blocks");
        let n = rows * columns / BLOCK;
        Self { bits, codes: arena.zeros(n * bits.block_bytes()), scales: arena.zeros(n), columns }
    }

    /// Rows of a strip: parts of a matrix that are copied begin at a multiple.
    pub const ROWS: usize = STRIP;

    /// Copies the rows `weights`, of which the first is number `first`, on the calling thread.
    ///
    /// # Panics
    /// For weights of other bits, rows that are not whole, and a first row within a strip.
    pub fn copy(&mut self, first: usize, weights: Blocks<'_>) {
        let (per_row, n) = (self.columns / BLOCK, weights.scales.len());
        assert!(weights.bits == self.bits && n.is_multiple_of(per_row) && first.is_multiple_of(STRIP), "the rows are whole");
        let (start, per_strip, block_bytes) = (first * per_row, STRIP * per_row, self.bits.block_bytes());
        let codes = &mut self.codes[start * block_bytes..(start + n) * block_bytes];
        copy_interleaved(weights.codes, per_strip * block_bytes, codes);
        let scales = bytemuck::cast_slice_mut(&mut self.scales[start..start + n]);
        copy_interleaved(bytemuck::cast_slice(weights.scales), per_strip * size_of::<f32>(), scales);
    }

    /// What a product takes.
    pub fn strips(&self) -> Strips<'_> {
        Strips::new(self.bits, &self.codes, &self.scales, self.columns)
    }
}

/// Interleaves the strips of `rows`, each of `per_strip` bytes, into `out`, and copies the rows behind them.
fn copy_interleaved(rows: &[u8], per_strip: usize, out: &mut [u8]) {
    let (strips, mut outs) = (rows.chunks_exact(per_strip), out.chunks_exact_mut(per_strip));
    let rest = strips.remainder();
    strips.zip(&mut outs).for_each(|(rows, strip)| interleave_strip(rows, strip));
    outs.into_remainder().copy_from_slice(rest);
}

/// Interleaves rows of `columns` weights, `codes` and `scales` as in [`Blocks`], in place, on all threads.
pub(crate) fn interleave(bits: Bits, codes: &mut [u8], scales: &mut [f32], columns: usize) {
    let per_strip = STRIP * columns / BLOCK;
    let codes = codes.par_chunks_exact_mut(per_strip * bits.block_bytes());
    codes.zip(scales.par_chunks_exact_mut(per_strip)).for_each(|(codes, scales)| {
        let (rows, row_scales) = (codes.to_vec(), scales.to_vec());
        interleave_strip(&rows, codes);
        interleave_strip(bytemuck::cast_slice(&row_scales), bytemuck::cast_slice_mut(scales));
    });
}

/// Writes the sixteen rows of `rows`, which are whole words, to `strip`, side by side.
fn interleave_strip(rows: &[u8], strip: &mut [u8]) {
    Isa::current().interleave(rows.as_chunks().0, strip.as_chunks_mut().0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_have_the_weights_of_their_rows() {
        for bits in [Bits::Eight, Bits::Four] {
            for (n_rows, per_row) in [(1, 1), (15, 2), (16, 1), (17, 3), (40, 5)] {
                let (n, columns) = (n_rows * per_row, per_row * BLOCK);
                let weights: Vec<f32> = (0..n * BLOCK).map(|i| ((i * i + 3 * i) as f32 * 0.37).sin()).collect();
                let (mut codes, mut scales) = (vec![0; n * bits.block_bytes()], vec![0.0; n]);
                bits.quantize(&weights, &mut codes, &mut scales);
                let (before, before_scales) = (codes.clone(), scales.clone());
                let rows = Blocks { bits, codes: &before, scales: &before_scales };
                interleave(bits, &mut codes, &mut scales, columns);
                let strips = Strips::new(bits, &codes, &scales, columns);
                let mut copy = InterleavedCopy::new(bits, [n_rows, columns], &Arena::default());
                for first in (0..n_rows).step_by(32) {
                    copy.copy(first, rows.rows(first..n_rows.min(first + 32), columns));
                }
                assert!(copy.codes[..] == codes[..] && copy.scales[..] == scales[..], "{bits:?}, {n_rows} rows");
                for row in 0..n_rows {
                    for blocks in [0..per_row, per_row - 1..per_row, 0..per_row.div_ceil(2)] {
                        let (mut expected, mut out) = (vec![0.0; blocks.len() * BLOCK], vec![1.0; blocks.len() * BLOCK]);
                        rows.rows(row..row + 1, columns).rows(blocks.clone(), BLOCK).dequantize(&mut expected);
                        strips.dequantize_row(row, blocks.clone(), &mut out);
                        assert_eq!(out, expected, "{bits:?}, {n_rows} rows, row {row}, {blocks:?}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "strips are not divided")]
    fn a_strip_is_not_divided() {
        Strips::new(Bits::Eight, &[0; 32 * BLOCK], &[0.0; 32], BLOCK).rows(0..20);
    }
}
