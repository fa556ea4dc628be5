//! Attention of many queries at a time, for a prompt: in tiles, as products with weights are, and with scores for some positions only.

use std::ops::Range;

use rayon::prelude::*;

use super::Shared;
use crate::elementwise::softmax_step;
use crate::kernel::{Level, TILE};
use crate::product::pack;
use crate::values::zeros;

/// Positions whose scores are there at a time, 30 KB of them for a tile of queries: whole tiles of inputs at every level.
const POSITIONS: usize = 240;

/// The score of what is not seen: less than any, and a number, so that nothing is undefined where nothing is seen yet.
const UNSEEN: f32 = -1e30;

/// What the heads of a group read, as inputs of tiles.
struct Packed {
    /// The position that it begins with.
    first: usize,
    n_positions: usize,
    /// `[head_dim, inputs]` for each tile of positions.
    keys: Vec<f32>,
    /// `[positions, inputs]` for each tile of the width of a head.
    values: Vec<f32>,
}

impl Shared<'_> {
    /// Tiles of queries, each over its positions part by part (Dao et al., <https://arxiv.org/abs/2205.14135>).
    pub(super) fn by_block(&self, out: &mut [f32]) {
        let level = Level::detect();
        let seen = self.sight.of(0).start..self.sight.of(self.n - 1).end;
        let packed: Vec<Packed> =
            (0..self.n_heads).into_par_iter().step_by(self.group).map(|head| self.packed(level, head, seen.clone())).collect();
        let of_row = self.n_heads * self.head_dim;
        let mut tasks: Vec<(usize, usize, Vec<&mut [f32]>)> = Vec::new();
        for (block, out) in out.chunks_mut(TILE * of_row).enumerate() {
            let mut parts: Vec<Vec<&mut [f32]>> = packed.iter().map(|_| Vec::with_capacity(TILE)).collect();
            for row in out.chunks_exact_mut(of_row) {
                parts.iter_mut().zip(row.chunks_exact_mut(self.group * self.head_dim)).for_each(|(part, own)| part.push(own));
            }
            tasks.extend(parts.into_iter().enumerate().map(|(i, part)| (block * TILE, i, part)));
        }
        // Later queries see more: a thread takes one task at a time.
        tasks.into_par_iter().with_max_len(1).for_each(|(first, i, mut out)| {
            for head in 0..self.group {
                let places = head * self.head_dim..(head + 1) * self.head_dim;
                self.tile(level, &packed[i], i * self.group + head, first, &mut out, places);
            }
        });
    }

    fn packed(&self, level: Level, head: usize, seen: Range<usize>) -> Packed {
        let of_seen = |cache| &self.of_head(cache, head)[seen.start * self.head_dim..seen.end * self.head_dim];
        let values = of_seen(self.values);
        let mut turned = Vec::with_capacity(values.len());
        for start in (0..self.head_dim).step_by(level.tile_inputs()) {
            let end = self.head_dim.min(start + level.tile_inputs());
            values.chunks_exact(self.head_dim).for_each(|row| turned.extend_from_slice(&row[start..end]));
        }
        let mut keys = zeros(values.len());
        pack(level, of_seen(self.keys), self.head_dim, &mut keys);
        Packed { first: seen.start, n_positions: seen.len(), keys, values: turned }
    }

    /// The attention of the queries of `head` from `first` on, to be written at `places` of each row of `out`.
    fn tile(&self, level: Level, packed: &Packed, head: usize, first: usize, out: &mut [&mut [f32]], places: Range<usize>) {
        let (n, head_dim, together) = (out.len(), self.head_dim, level.tile_inputs());
        let mut queries = vec![0.0; head_dim * TILE];
        level.turn(&self.queries[(head * self.n + first) * head_dim..][..n * head_dim], head_dim, head_dim, &mut queries);
        queries.iter_mut().for_each(|query| *query *= self.scale());
        let seen = self.sight.of(first).start - packed.first..self.sight.of(first + n - 1).end - packed.first;
        let (mut largest, mut sums) = ([UNSEEN; TILE], [0.0; TILE]);
        let (mut weighted, mut scores) = (vec![0.0; head_dim * TILE], vec![0.0; POSITIONS * TILE]);
        for start in (seen.start / POSITIONS * POSITIONS..seen.end).step_by(POSITIONS) {
            let end = seen.end.next_multiple_of(together).min(start + POSITIONS).min(packed.n_positions);
            let scores = &mut scores[..(end - start) * TILE];
            scores.fill(0.0);
            let keys = packed.keys[start * head_dim..end * head_dim].chunks(together * head_dim);
            keys.zip(scores.chunks_mut(together * TILE)).for_each(|(keys, scores)| level.tile(&queries, keys, scores));
            self.hide(scores, first, n, packed.first + start);
            let shares = softmax_step(scores, &mut largest, &mut sums);
            for weighted in weighted.as_chunks_mut::<TILE>().0 {
                weighted.iter_mut().zip(&shares).for_each(|(weighted, share)| *weighted *= share);
            }
            for (tile, weighted) in weighted.chunks_mut(together * TILE).enumerate() {
                let width = weighted.len() / TILE;
                let values = &packed.values[tile * together * packed.n_positions..][start * width..end * width];
                level.tile(scores, values, weighted);
            }
        }
        for (i, out) in out.iter_mut().enumerate() {
            let weighted = weighted[i..].iter().step_by(TILE);
            out[places.clone()].iter_mut().zip(weighted).for_each(|(out, value)| *out = value / sums[i]);
        }
    }

    /// Takes from `scores`, `[positions, TILE]` from the position `start` on, what the `n` queries from `first` on do not see.
    fn hide(&self, scores: &mut [f32], first: usize, n: usize, start: usize) {
        let end = start + scores.len() / TILE;
        // What the first sees at its end and the last at its beginning, all see.
        if self.sight.of(first + n - 1).start <= start && end <= self.sight.of(first).end {
            return;
        }
        for i in 0..n {
            let seen = self.sight.of(first + i);
            for (position, scores) in (start..).zip(scores.as_chunks_mut::<TILE>().0) {
                if !seen.contains(&position) {
                    scores[i] = UNSEEN;
                }
            }
        }
    }
}
