//! Attention of many queries at a time, for a prompt: in tiles, like products with weights, with an online softmax.
//!
//! Scores exist for [`POSITIONS`] positions at a time, so memory does not grow with the length of the prompt.

use std::ops::Range;

use rayon::prelude::*;

use super::AttentionInputs;
use crate::buffers::zeros;
use crate::elementwise::{softcap, softmax_step};
use crate::float::Float;
use crate::isa::Isa;
use crate::product::pack_group;
use crate::tiles::TILE;

/// Positions whose scores are there at a time, 30 KB of them for a tile of queries: whole tiles of inputs at every isa.
pub(super) const POSITIONS: usize = 240;

/// The score of a masked position: below any real score, and finite, so that a tile without any visible position yields no NaN.
pub(super) const HIDDEN_SCORE: f32 = -1e30;

/// The keys and values of a group of heads, packed as inputs of tiles.
struct PackedKv {
    /// The first position.
    first: usize,
    n_positions: usize,
    /// `[head_dim, inputs]` for each tile of positions.
    keys: Vec<f32>,
    /// `[positions, inputs]` for each tile of the width of a head.
    values: Vec<f32>,
}

impl<F: Float> AttentionInputs<'_, F> {
    /// Many queries: tiles of them, each over its positions part by part (Dao et al., <https://arxiv.org/abs/2205.14135>).
    pub(super) fn prefill(&self, isa: Isa, out: &mut [f32]) {
        // The parts of a query do not depend on those that it comes with: a prompt has the same bits in any chunks.
        let visible = self.mask.visible(0).start / POSITIONS * POSITIONS..self.mask.visible(self.n - 1).end;
        let packed: Vec<PackedKv> =
            (0..self.n_heads).into_par_iter().step_by(self.group).map(|head| self.packed(isa, head, visible.clone())).collect();
        let of_row = self.n_heads * self.head_dim;
        let mut tasks: Vec<(usize, usize, Vec<&mut [f32]>)> = Vec::new();
        for (block, out) in out.chunks_mut(TILE * of_row).enumerate() {
            let mut parts: Vec<Vec<&mut [f32]>> = packed.iter().map(|_| Vec::with_capacity(TILE)).collect();
            for row in out.chunks_exact_mut(of_row) {
                parts.iter_mut().zip(row.chunks_exact_mut(self.group * self.head_dim)).for_each(|(part, own)| part.push(own));
            }
            tasks.extend(parts.into_iter().enumerate().map(|(i, part)| (block * TILE, i, part)));
        }
        // Later queries attend to more positions, so a thread takes one task at a time.
        tasks.into_par_iter().with_max_len(1).for_each(|(first, i, mut out)| {
            for head in 0..self.group {
                let columns = head * self.head_dim..(head + 1) * self.head_dim;
                self.tile(isa, &packed[i], i * self.group + head, first, &mut out, columns);
            }
        });
    }

    fn packed(&self, isa: Isa, head: usize, visible: Range<usize>) -> PackedKv {
        let (head, head_dim, together) = (head / self.group, self.head_dim, isa.tile_inputs());
        let mut packed = zeros(visible.len() * head_dim);
        packed.par_chunks_mut(together * head_dim).enumerate().for_each_init(Vec::new, |wide, (group, packed)| {
            wide.resize(packed.len(), 0.0);
            let start = visible.start + group * together;
            let mut rest = &mut wide[..];
            for rows in self.keys.rows(head, start..start + packed.len() / head_dim) {
                let own;
                (own, rest) = rest.split_at_mut(rows.len());
                F::widen(rows, own);
            }
            pack_group(wide, head_dim, packed);
        });
        let mut columns = zeros(visible.len() * head_dim);
        let tiles = columns.par_chunks_mut(together * visible.len()).enumerate();
        tiles.for_each(|(tile, packed)| {
            let width = packed.len() / visible.len();
            let rows = self.values.rows(head, visible.clone()).flat_map(|rows| rows.chunks_exact(head_dim));
            rows.zip(packed.chunks_exact_mut(width)).for_each(|(row, packed)| F::widen(&row[tile * together..][..width], packed));
        });
        PackedKv { first: visible.start, n_positions: visible.len(), keys: packed, values: columns }
    }

    /// Writes the attention of the queries of `head` from `first` on to `columns` of each row of `out`.
    fn tile(&self, isa: Isa, packed: &PackedKv, head: usize, first: usize, out: &mut [&mut [f32]], columns: Range<usize>) {
        let (n, head_dim, together) = (out.len(), self.head_dim, isa.tile_inputs());
        let mut queries = vec![0.0; head_dim * TILE];
        isa.transpose(&self.queries[(head * self.n + first) * head_dim..][..n * head_dim], head_dim, head_dim, &mut queries);
        queries.iter_mut().for_each(|query| *query *= self.scoring.scale);
        let visible = self.mask.visible(first).start - packed.first..self.mask.visible(first + n - 1).end - packed.first;
        let (mut largest, mut sums) = ([HIDDEN_SCORE; TILE], [0.0; TILE]);
        let (mut weighted, mut scores) = (vec![0.0; head_dim * TILE], vec![0.0; POSITIONS * TILE]);
        for start in (visible.start / POSITIONS * POSITIONS..visible.end).step_by(POSITIONS) {
            let end = visible.end.next_multiple_of(together).min(start + POSITIONS).min(packed.n_positions);
            let scores = &mut scores[..(end - start) * TILE];
            scores.fill(0.0);
            let keys = packed.keys[start * head_dim..end * head_dim].chunks(together * head_dim);
            keys.zip(scores.chunks_mut(together * TILE)).for_each(|(keys, scores)| isa.tile(&queries, keys, scores));
            if let Some(cap) = self.scoring.softcap {
                softcap(scores, cap);
            }
            self.apply_mask(scores, first, n, packed.first + start);
            let shares = softmax_step(scores, &mut largest, &mut sums);
            for weighted in weighted.as_chunks_mut::<TILE>().0 {
                weighted.iter_mut().zip(&shares).for_each(|(weighted, share)| *weighted *= share);
            }
            for (tile, weighted) in weighted.chunks_mut(together * TILE).enumerate() {
                let width = weighted.len() / TILE;
                let values = &packed.values[tile * together * packed.n_positions..][start * width..end * width];
                isa.tile(scores, values, weighted);
            }
        }
        for (i, out) in out.iter_mut().enumerate() {
            let weighted = weighted[i..].iter().step_by(TILE);
            out[columns.clone()].iter_mut().zip(weighted).for_each(|(out, value)| *out = value / sums[i]);
        }
    }

    /// Masks in `scores`, `[positions, TILE]` from position `start` on, what the `n` queries from `first` on do not attend to.
    fn apply_mask(&self, scores: &mut [f32], first: usize, n: usize, start: usize) {
        let end = start + scores.len() / TILE;
        // Nothing is masked when both the first and the last query attend to all of these positions.
        if self.mask.visible(first + n - 1).start <= start && end <= self.mask.visible(first).end {
            return;
        }
        for i in 0..n {
            let visible = self.mask.visible(first + i);
            for (position, scores) in (start..).zip(scores.as_chunks_mut::<TILE>().0) {
                if !visible.contains(&position) {
                    scores[i] = HIDDEN_SCORE;
                }
            }
        }
    }
}
