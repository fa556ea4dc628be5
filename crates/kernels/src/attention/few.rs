//! Attention of few queries with the bits of many, for a small part of a prompt.
//!
//! The queries of all heads that share keys are the lanes of a tile, and keys and values are widened as they are met, [`POSITIONS`] at a time.
//! A lane sees the operations of [`prefill`](AttentionInputs::prefill) in the same order.

use std::ops::Range;

use rayon::prelude::*;

use super::AttentionInputs;
use super::prompt::{HIDDEN_SCORE, POSITIONS};
use crate::elementwise::{softcap, softmax_step};
use crate::float::Float;
use crate::isa::Isa;
use crate::tiles::{Lanes, TILE};

/// Keys and values of some positions of one head.
struct WidenedKv {
    positions: Range<usize>,
    /// `[head_dim, TILE]` for as many positions as are transposed together.
    keys: Vec<f32>,
    /// `[positions, head_dim]`
    values: Vec<f32>,
}

/// Queries of heads that share keys, in the lanes of a tile, and their attention so far.
struct LaneTile {
    /// Which: lane `head * n + row` is the query number `row` of the head with that number among those that share keys.
    lanes: Range<usize>,
    /// `[head_dim, TILE]`
    queries: Vec<f32>,
    largest: [f32; TILE],
    sums: [f32; TILE],
    /// `[head_dim, TILE]`
    weighted: Vec<f32>,
}

impl<F: Float> AttentionInputs<'_, F> {
    /// The results of [`prefill`](Self::prefill), in less time where queries are few.
    pub(super) fn few(&self, isa: Isa, out: &mut [f32]) {
        let (n_lanes, kv_heads) = (self.group * self.n, self.n_heads / self.group);
        // Tiles of one task share what is widened.
        let n_tiles = n_lanes.div_ceil(TILE).div_ceil(rayon::current_num_threads().div_ceil(kv_heads));
        let of_head = |key_head| {
            (0..n_lanes).step_by(n_tiles * TILE).map(move |first| (key_head, first..n_lanes.min(first + n_tiles * TILE)))
        };
        let tasks: Vec<(usize, Range<usize>)> = (0..kv_heads).flat_map(of_head).collect();
        let attended: Vec<_> =
            tasks.par_iter().with_max_len(1).map(|(head, lanes)| self.lanes(isa, *head, lanes.clone())).collect();
        for ((key_head, _), tiles) in tasks.iter().zip(attended) {
            for tile in tiles {
                for (i, lane) in tile.lanes.clone().enumerate() {
                    let (head, row) = (key_head * self.group + lane / self.n, lane % self.n);
                    let out = &mut out[(row * self.n_heads + head) * self.head_dim..][..self.head_dim];
                    let weighted = tile.weighted[i..].iter().step_by(TILE);
                    out.iter_mut().zip(weighted).for_each(|(out, value)| *out = value / tile.sums[i]);
                }
            }
        }
    }

    /// The attention of `lanes` of those that share the keys of `key_head`.
    fn lanes(&self, isa: Isa, key_head: usize, lanes: Range<usize>) -> Vec<LaneTile> {
        let mut tiles: Vec<LaneTile> =
            lanes.clone().step_by(TILE).map(|first| self.lane_tile(isa, key_head, first..lanes.end.min(first + TILE))).collect();
        let groups = POSITIONS.div_ceil(together(isa));
        let (keys, values) = (vec![0.0; groups * self.head_dim * TILE], vec![0.0; POSITIONS * self.head_dim]);
        let mut kv = WidenedKv { positions: 0..0, keys, values };
        let (mut wide, mut scores) = (vec![0.0; TILE * self.head_dim], vec![0.0; POSITIONS * TILE]);
        let visible = self.mask.visible(0).start..self.mask.visible(self.n - 1).end;
        for start in (visible.start / POSITIONS * POSITIONS..visible.end).step_by(POSITIONS) {
            kv.positions = start..visible.end.min(start + POSITIONS);
            self.widen(isa, key_head, &mut kv, &mut wide);
            tiles.iter_mut().for_each(|tile| self.attend(isa, &kv, tile, &mut scores[..kv.positions.len() * TILE]));
        }
        tiles
    }

    fn lane_tile(&self, isa: Isa, key_head: usize, lanes: Range<usize>) -> LaneTile {
        let head_dim = self.head_dim;
        let mut queries = vec![0.0; head_dim * TILE];
        let first = key_head * self.group * self.n + lanes.start;
        isa.transpose(&self.queries[first * head_dim..][..lanes.len() * head_dim], head_dim, head_dim, &mut queries);
        queries.iter_mut().for_each(|query| *query *= self.scoring.scale);
        LaneTile { lanes, queries, largest: [HIDDEN_SCORE; TILE], sums: [0.0; TILE], weighted: vec![0.0; head_dim * TILE] }
    }

    /// Fills `kv` with the keys and values of its positions; `wide` is scratch memory for a tile of keys.
    fn widen(&self, isa: Isa, key_head: usize, kv: &mut WidenedKv, wide: &mut [f32]) {
        let (head_dim, together) = (self.head_dim, together(isa));
        let mut rest = &mut kv.values[..];
        for rows in self.values.rows(key_head, kv.positions.clone()) {
            let own;
            (own, rest) = rest.split_at_mut(rows.len());
            F::widen(rows, own);
        }
        let groups = kv.positions.clone().step_by(together).zip(kv.keys.chunks_exact_mut(head_dim * TILE));
        for (start, keys) in groups {
            let mut rest = &mut wide[..];
            for rows in self.keys.rows(key_head, start..kv.positions.end.min(start + together)) {
                let own;
                (own, rest) = rest.split_at_mut(rows.len());
                F::widen(rows, own);
            }
            // Whole tiles are transposed the fastest; what earlier keys have left behind these is not used.
            isa.transpose(wide, head_dim, head_dim, keys);
        }
    }

    /// Continues the attention of `tile` with `kv`; `scores` is scratch memory, `[positions, TILE]`.
    fn attend(&self, isa: Isa, kv: &WidenedKv, tile: &mut LaneTile, scores: &mut [f32]) {
        let (head_dim, together, at_once) = (self.head_dim, together(isa), isa.tile_inputs());
        let lanes = Lanes::of(tile.lanes.len());
        scores.fill(0.0);
        let groups = kv.keys.chunks_exact(head_dim * TILE).zip(scores.chunks_mut(together * TILE));
        for (keys, scores) in groups {
            for (i, scores) in scores.chunks_mut(at_once * TILE).enumerate() {
                isa.columns_tile(&tile.queries, &keys[i * at_once..], TILE, lanes, scores);
            }
        }
        if let Some(cap) = self.scoring.softcap {
            softcap(scores, cap);
        }
        self.hide(scores, &tile.lanes, kv.positions.clone());
        let shares = softmax_step(scores, &mut tile.largest, &mut tile.sums);
        for weighted in tile.weighted.as_chunks_mut::<TILE>().0 {
            weighted.iter_mut().zip(&shares).for_each(|(weighted, share)| *weighted *= share);
        }
        let values = &kv.values[..kv.positions.len() * head_dim];
        for (i, weighted) in tile.weighted.chunks_mut(at_once * TILE).enumerate() {
            isa.columns_tile(scores, &values[i * at_once..], head_dim, lanes, weighted);
        }
    }

    /// Masks in `scores`, those of `lanes` at `positions`, what the query of each lane does not attend to.
    fn hide(&self, scores: &mut [f32], lanes: &Range<usize>, positions: Range<usize>) {
        if self.mask.visible(self.n - 1).start <= positions.start && positions.end <= self.mask.visible(0).end {
            return;
        }
        for (i, lane) in lanes.clone().enumerate() {
            let visible = self.mask.visible(lane % self.n);
            for (position, scores) in positions.clone().zip(scores.as_chunks_mut::<TILE>().0) {
                if !visible.contains(&position) {
                    scores[i] = HIDDEN_SCORE;
                }
            }
        }
    }
}

/// How many keys are transposed together: as many as fit a tile and are multiplied without a remainder.
fn together(isa: Isa) -> usize {
    TILE / isa.tile_inputs() * isa.tile_inputs()
}

#[cfg(test)]
mod tests;
