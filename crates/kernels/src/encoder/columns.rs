//! The layout of an encoder's activations: blocks of [`TILE`] tokens, each a column, so that what is done for each token is done in the
//! lanes of vectors, and a product's output is the next product's input as it is.
//!
//! A token's column depends on that column alone: lanes never meet. That is why a text has the same bits in every batch.

use rayon::prelude::*;
use tandem_core::config::Activation;

use crate::elementwise::product_of_halves;
use crate::isa::{Isa, vectorized};
use crate::tiles::{Lanes, TILE};

/// Values of tokens: `[blocks, width, 32]`. Columns behind the last token hold what an earlier use left.
#[derive(Default)]
pub struct Columns {
    values: Vec<f32>,
    width: usize,
    n_tokens: usize,
}

/// The weight and the bias of a layer norm.
pub struct LayerNorm {
    /// `[width]`
    pub weight: Vec<f32>,
    /// `[width]`
    pub bias: Option<Vec<f32>>,
    /// Added to the variance.
    pub eps: f32,
}

impl Columns {
    /// Makes room for `n_tokens` of `width` values; the values are left over from earlier uses.
    pub fn reset(&mut self, width: usize, n_tokens: usize) {
        (self.width, self.n_tokens) = (width, n_tokens);
        let n = n_tokens.div_ceil(TILE) * width * TILE;
        if self.values.len() < n {
            self.values = vec![0.0; n];
        }
    }

    /// Values of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns that hold tokens.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The lanes of block `block` that hold tokens.
    pub(crate) fn lanes(&self, block: usize) -> Lanes {
        Lanes::of(self.n_tokens - block * TILE)
    }

    /// Block number `block`, `[width, TILE]`.
    pub(crate) fn block(&self, block: usize) -> &[f32] {
        &self.values[block * self.width * TILE..][..self.width * TILE]
    }

    /// Each block, `[width, TILE]`.
    pub(crate) fn blocks(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values[..self.used()].chunks_exact(self.width * TILE)
    }

    /// As [`blocks`](Self::blocks), to be changed, and by several threads.
    pub(crate) fn blocks_mut(&mut self) -> rayon::slice::ChunksExactMut<'_, f32> {
        let used = self.used();
        self.values[..used].par_chunks_exact_mut(self.width * TILE)
    }

    /// Divides the rows of every block into parts of `rows`, the last possibly smaller: for each part its slice of each block,
    /// `[rows, TILE]`.
    pub(crate) fn row_parts(&mut self, rows: usize) -> Vec<Vec<&mut [f32]>> {
        let (used, size) = (self.used(), self.width * TILE);
        let mut parts: Vec<Vec<&mut [f32]>> = (0..self.width.div_ceil(rows)).map(|_| Vec::new()).collect();
        for block in self.values[..used].chunks_exact_mut(size) {
            parts.iter_mut().zip(block.chunks_mut(rows * TILE)).for_each(|(part, own)| part.push(own));
        }
        parts
    }

    /// Writes `activation(a) * b` of every token's halves `a` and `b` to `out`, which gets half the width.
    pub fn write_gated(&self, activation: Activation, out: &mut Columns) {
        out.reset(self.width / 2, self.n_tokens);
        let both = self.values[..self.used()].par_chunks_exact(self.width * TILE);
        out.blocks_mut().zip(both).for_each(|(out, both)| product_of_halves(activation, both, out));
    }

    /// Becomes `rows`, `[n_tokens, width]`.
    pub fn fill_from_rows(&mut self, rows: &[f32]) {
        let (isa, width) = (Isa::current(), self.width);
        let parts = rows.par_chunks(width * TILE);
        self.blocks_mut().zip(parts).for_each(|(block, rows)| isa.transpose(rows, width, width, block));
    }

    /// Writes its tokens to `rows`, `[n_tokens, width]`.
    pub fn write_rows(&self, rows: &mut [f32]) {
        let (isa, width) = (Isa::current(), self.width);
        let mut square = [0.0; TILE * TILE];
        for (block, rows) in self.blocks().zip(rows.chunks_mut(width * TILE)) {
            for (part, values) in block.chunks(TILE * TILE).enumerate() {
                isa.transpose(values, TILE, TILE, &mut square);
                let n = values.len() / TILE;
                for (row, square) in rows.chunks_exact_mut(width).zip(square.chunks_exact(TILE)) {
                    row[part * TILE..][..n].copy_from_slice(&square[..n]);
                }
            }
        }
    }

    /// The values of rows `rows` of the tokens from `first` on, up to [`TILE`] of them, times `scale`: `[rows, TILE]`.
    pub(crate) fn gather(&self, rows: std::ops::Range<usize>, first: usize, n: usize, scale: f32, out: &mut [f32]) {
        let (block, lane) = (first / TILE, first % TILE);
        let here = n.min(TILE - lane);
        for (row, out) in rows.zip(out.as_chunks_mut::<TILE>().0) {
            let own = &self.values[(block * self.width + row) * TILE + lane..][..here];
            out.iter_mut().zip(own).for_each(|(out, value)| *out = value * scale);
            if here < n {
                let next = &self.values[((block + 1) * self.width + row) * TILE..][..n - here];
                out[here..n].iter_mut().zip(next).for_each(|(out, value)| *out = value * scale);
            }
            out[n..].fill(0.0);
        }
    }

    fn used(&self) -> usize {
        self.n_tokens.div_ceil(TILE) * self.width * TILE
    }
}

impl LayerNorm {
    /// Norms every token of `columns`.
    pub fn apply(&self, columns: &mut Columns) {
        columns.blocks_mut().for_each(|block| self.norm(block));
    }

    /// Writes the norm of every token of `columns` to `out`.
    pub fn write(&self, columns: &Columns, out: &mut Columns) {
        out.reset(columns.width, columns.n_tokens);
        let size = columns.width * TILE;
        out.blocks_mut().zip(columns.values.par_chunks_exact(size)).for_each(|(out, block)| {
            out.copy_from_slice(block);
            self.norm(out);
        });
    }

    fn norm(&self, block: &mut [f32]) {
        layer_norm(block, &self.weight, self.bias.as_deref(), self.eps);
    }
}

vectorized! {
    /// Layer norm of each column of `block`, `[width, TILE]`. Ba et al., <https://arxiv.org/abs/1607.06450>.
    fn layer_norm(block: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
        let rows = block.as_chunks_mut::<TILE>().0;
        let n = rows.len() as f32;
        let (mut mean, mut scale) = ([0.0_f32; TILE], [0.0_f32; TILE]);
        for row in rows.iter() {
            for (mean, value) in mean.iter_mut().zip(row) {
                *mean += value;
            }
        }
        for mean in &mut mean {
            *mean /= n;
        }
        for row in rows.iter() {
            for ((scale, value), mean) in scale.iter_mut().zip(row).zip(&mean) {
                *scale += (value - mean) * (value - mean);
            }
        }
        for scale in &mut scale {
            *scale = 1.0 / (*scale / n + eps).sqrt();
        }
        for (i, (row, weight)) in rows.iter_mut().zip(weight).enumerate() {
            let bias = bias.map_or(0.0, |bias| bias[i]);
            for ((value, mean), scale) in row.iter_mut().zip(&mean).zip(&scale) {
                *value = (*value - mean) * scale * weight + bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * i) as f32 * 0.37).sin() * 2.0 + 0.3).collect()
    }

    fn columns(width: usize, rows: &[f32]) -> Columns {
        let mut columns = Columns::default();
        columns.reset(width, rows.len() / width);
        columns.fill_from_rows(rows);
        columns
    }

    #[test]
    fn rows_come_back_as_they_were() {
        for (width, n) in [(1, 1), (24, 31), (32, 33), (50, 70), (384, 5)] {
            let rows = numbers(width * n);
            let columns = columns(width, &rows);
            let mut back = vec![f32::NAN; rows.len()];
            columns.write_rows(&mut back);
            assert_eq!(back, rows, "{width} {n}");
            let mut gathered = [f32::NAN; TILE];
            let first = n / 2;
            let taken = TILE.min(n - first);
            columns.gather(width - 1..width, first, taken, 2.0, &mut gathered);
            let expected: Vec<f32> = rows.chunks(width).skip(first).take(taken).map(|row| 2.0 * row[width - 1]).collect();
            assert_eq!(gathered[..taken], expected);
        }
    }

    #[test]
    fn norms_match_f64() {
        let (width, n) = (50, 40);
        let rows = numbers(width * n);
        let (weight, bias) = (numbers(width), numbers(2 * width).split_off(width));
        for bias in [None, Some(bias)] {
            let norm = LayerNorm { weight: weight.clone(), bias, eps: 1e-5 };
            let mut normed = columns(width, &rows);
            norm.apply(&mut normed);
            let mut own = vec![0.0; rows.len()];
            normed.write_rows(&mut own);
            for (row, own) in rows.chunks(width).zip(own.chunks(width)) {
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
                let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
                for (i, own) in own.iter().enumerate() {
                    let bias = norm.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
                    let expected = (f64::from(row[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i]) + bias;
                    assert!((f64::from(*own) - expected).abs() < 1e-5, "{own} {expected}");
                }
            }
        }
    }
}
