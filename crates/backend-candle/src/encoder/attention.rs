//! Attention of every token to all of its sequence, or to a window around it, in tiles of queries with an online softmax (Dao et al.,
//! <https://arxiv.org/abs/2205.14135>).
//!
//! Tiles are counted from the start of a sequence, so that what a token gets does not depend on where the sequence is in its batch.

use std::ops::Range;

use rayon::prelude::*;

use super::columns::Columns;
use super::relative::RelativeBias;
use crate::elementwise::softmax_step;
use crate::kernel::{Isa, TILE};

/// Positions whose scores are there at a time: whole groups of keys at every isa.
const POSITIONS: usize = 240;

/// The score of a masked position: below any real score, and finite, so that a tile without any visible position yields no NaN.
const HIDDEN_SCORE: f32 = -1e30;

/// What attention needs beside queries, keys and values.
#[derive(Clone, Copy)]
pub(super) struct Attention<'e> {
    pub(super) isa: Isa,
    pub(super) n_heads: usize,
    pub(super) head_dim: usize,
    /// Tokens see those that are less than so many positions away.
    pub(super) window: Option<usize>,
    pub(super) relative: Option<&'e RelativeBias>,
}

/// A sequence within the columns.
#[derive(Clone, Copy)]
pub(super) struct Sequence {
    /// Its first column.
    pub(super) start: usize,
    pub(super) n_tokens: usize,
}

/// Keys and values of one head of a sequence, packed as inputs of tiles.
struct PackedKv {
    /// `[head_dim, keys]` for each group of keys.
    keys: Vec<f32>,
    /// `[positions, values]` for each group of columns of values.
    values: Vec<f32>,
}

impl Attention<'_> {
    /// Writes the attention of all `sequences` to `out`, `[n_heads * head_dim]` for each token; `qkv` has queries, keys and values of all
    /// heads for each.
    pub(super) fn run(&self, qkv: &Columns, sequences: &[Sequence], out: &mut Columns) {
        let width = self.n_heads * self.head_dim;
        assert!(qkv.width() == 3 * width && out.width() == width && qkv.n_tokens() == out.n_tokens(), "shapes agree");
        let heads = out.row_parts(self.head_dim);
        heads.into_par_iter().enumerate().for_each(|(head, mut out)| {
            for sequence in sequences {
                self.head(qkv, head, *sequence, &mut out);
            }
        });
    }

    fn head(&self, qkv: &Columns, head: usize, sequence: Sequence, out: &mut [&mut [f32]]) {
        let packed = self.packed(qkv, head, sequence);
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let rows = head * self.head_dim..(head + 1) * self.head_dim;
        let (mut queries, mut weighted) = (vec![0.0; self.head_dim * TILE], vec![0.0; self.head_dim * TILE]);
        let mut scores = vec![0.0; POSITIONS.min(sequence.n_tokens) * TILE];
        for first in (0..sequence.n_tokens).step_by(TILE) {
            let n = TILE.min(sequence.n_tokens - first);
            qkv.gather(rows.clone(), sequence.start + first, n, scale, &mut queries);
            weighted.fill(0.0);
            let sums = self.tile(&packed, head, sequence.n_tokens, first..first + n, &queries, &mut scores, &mut weighted);
            let shares = sums.map(|sum| 1.0 / sum);
            for (row, weighted) in weighted.as_chunks::<TILE>().0.iter().enumerate() {
                for i in 0..n {
                    let column = sequence.start + first + i;
                    out[column / TILE][row * TILE + column % TILE] = weighted[i] * shares[i];
                }
            }
        }
    }

    fn packed(&self, qkv: &Columns, head: usize, sequence: Sequence) -> PackedKv {
        let (head_dim, together, n) = (self.head_dim, self.isa.tile_inputs(), sequence.n_tokens);
        let rows = |part: usize| {
            let first = (part * self.n_heads + head) * head_dim;
            first..first + head_dim
        };
        let (mut keys, mut values) = (vec![0.0; head_dim * n], vec![0.0; head_dim * n]);
        let mut gathered = vec![0.0; head_dim * TILE];
        for first in (0..n).step_by(together) {
            let n = together.min(n - first);
            qkv.gather(rows(1), sequence.start + first, n, 1.0, &mut gathered);
            let keys = keys[first * head_dim..][..n * head_dim].chunks_exact_mut(n);
            keys.zip(gathered.as_chunks::<TILE>().0).for_each(|(keys, gathered)| keys.copy_from_slice(&gathered[..n]));
        }
        for first in (0..n).step_by(TILE) {
            let n_here = TILE.min(n - first);
            qkv.gather(rows(2), sequence.start + first, n_here, 1.0, &mut gathered);
            for (group, gathered) in gathered.chunks(together * TILE).enumerate() {
                let width = gathered.len() / TILE;
                let values = &mut values[group * together * n + first * width..][..n_here * width];
                for (column, gathered) in gathered.as_chunks::<TILE>().0.iter().enumerate() {
                    values[column..].iter_mut().step_by(width).zip(gathered).for_each(|(value, gathered)| *value = *gathered);
                }
            }
        }
        PackedKv { keys, values }
    }

    /// Adds to `weighted`, `[head_dim, TILE]`, the values weighted by the exponentials of the scores of `rows`, whose scaled queries are
    /// `queries`, `[head_dim, TILE]`; the result is the sum of the weights of each.
    #[expect(clippy::too_many_arguments, reason = "scratch buffers")]
    fn tile(
        &self,
        packed: &PackedKv,
        head: usize,
        n_tokens: usize,
        rows: Range<usize>,
        queries: &[f32],
        scores: &mut [f32],
        weighted: &mut [f32],
    ) -> [f32; TILE] {
        let (head_dim, together) = (self.head_dim, self.isa.tile_inputs());
        let visible = self.visible(rows.start, n_tokens).start..self.visible(rows.end - 1, n_tokens).end;
        let (mut largest, mut sums) = ([HIDDEN_SCORE; TILE], [0.0; TILE]);
        for start in (visible.start / POSITIONS * POSITIONS..visible.end).step_by(POSITIONS) {
            let end = visible.end.next_multiple_of(together).min(start + POSITIONS).min(n_tokens);
            let scores = &mut scores[..(end - start) * TILE];
            scores.fill(0.0);
            let keys = packed.keys[start * head_dim..end * head_dim].chunks(together * head_dim);
            keys.zip(scores.chunks_mut(together * TILE)).for_each(|(keys, scores)| self.isa.tile(queries, keys, scores));
            self.add_bias(scores, head, rows.clone(), start);
            self.apply_mask(scores, n_tokens, rows.clone(), start);
            let shares = softmax_step(scores, &mut largest, &mut sums);
            for weighted in weighted.as_chunks_mut::<TILE>().0 {
                weighted.iter_mut().zip(&shares).for_each(|(weighted, share)| *weighted *= share);
            }
            for (group, weighted) in weighted.chunks_mut(together * TILE).enumerate() {
                let width = weighted.len() / TILE;
                let values = &packed.values[group * together * n_tokens..][start * width..end * width];
                self.isa.tile(scores, values, weighted);
            }
        }
        sums
    }

    /// The positions that the token at `position` sees.
    fn visible(&self, position: usize, n_tokens: usize) -> Range<usize> {
        match self.window {
            Some(window) => (position + 1).saturating_sub(window)..n_tokens.min(position.saturating_add(window)),
            None => 0..n_tokens,
        }
    }

    /// Adds the bias of distances to `scores`, `[positions, TILE]` from position `start` on, of the queries `rows`.
    fn add_bias(&self, scores: &mut [f32], head: usize, rows: Range<usize>, start: usize) {
        let Some(relative) = self.relative else { return };
        for (key, scores) in (start..).zip(scores.as_chunks_mut::<TILE>().0) {
            let bias = relative.of(head, rows.start, key);
            scores[..rows.len()].iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
    }

    /// Masks in `scores` what the queries `rows` do not see.
    fn apply_mask(&self, scores: &mut [f32], n_tokens: usize, rows: Range<usize>, start: usize) {
        let end = start + scores.len() / TILE;
        // Nothing is masked when both the first and the last query see all of these positions.
        if self.visible(rows.end - 1, n_tokens).start <= start && end <= self.visible(rows.start, n_tokens).end {
            return;
        }
        for (i, row) in rows.enumerate() {
            let visible = self.visible(row, n_tokens);
            for (position, scores) in (start..).zip(scores.as_chunks_mut::<TILE>().0) {
                if !visible.contains(&position) {
                    scores[i] = HIDDEN_SCORE;
                }
            }
        }
    }
}
