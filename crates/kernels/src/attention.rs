//! Attention of one sequence over its KV cache, with grouped heads and an optional sliding window: causal, or both ways.
//!
//! Keys and values are read in place and never repeated for the query heads that share them, and no mask is materialised. A few queries
//! (decoding) read each key and value once for all heads that share it, in parts of 256 positions, each with a softmax of its
//! own; the parts are merged afterwards. Many queries (a prompt) go through the tiles of `attention::prompt`, and those of a small part of
//! a prompt through `attention::few`, with the same bits.

mod cache;
mod few;
mod prompt;

use std::ops::Range;

use rayon::prelude::*;
use tandem_core::kv_memory::BLOCK_POSITIONS;

pub use self::cache::{CacheLayout, CacheView, append};
use crate::elementwise::{exponentials, softcap};
use crate::float::Float;
use crate::isa::Isa;
use crate::matrix::Kernels;
use crate::tiles::{MAX_ROWS, TILE};

/// Positions of a part, when there are few queries: it lies in one block, and begins where one could, so that results do not depend on how the
/// cache lies.
const POSITIONS: usize = BLOCK_POSITIONS;

/// The most queries that leave most of a tile empty where each head has its own.
const FEW: usize = TILE / 2;

/// Which positions the queries may attend to.
#[derive(Clone, Copy, Debug)]
pub struct AttentionMask {
    /// The position of the first query.
    pub n_past: usize,
    /// The sliding window: how many positions a query attends to, its own included, and as many ahead where it attends to those; `None`
    /// for all.
    pub window: Option<usize>,
    /// The end of the sequence where queries attend to what follows them too; `None` for causal attention.
    pub ahead: Option<usize>,
}

/// How scores are computed from queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct Scoring {
    /// Multiplies the product of query and key; `1 / √head_dim` in most families.
    pub scale: f32,
    /// Gemma 2's limit: a score becomes `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl AttentionMask {
    /// The positions that query number `row` attends to.
    pub fn visible(self, row: usize) -> Range<usize> {
        let position = self.n_past + row;
        let start = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let end = match (self.ahead, self.window) {
            (None, _) => position + 1,
            (Some(end), None) => end,
            (Some(end), Some(window)) => end.min(position.saturating_add(window)),
        };
        start..end
    }
}

/// Writes `softmax(scale * q kᵀ) v` to `out`, `[n, heads * head_dim]`: `queries` are `[heads, n, head_dim]`, and of `keys` and `values`
/// the first `n_past + n` positions are used. All is computed in f32, also where keys and values have 16 bits; where `kernels` are those of up to
/// 8 queries, in another order than with more. How keys and values lie changes no bit, where blocks are of whole parts of [`BLOCK_POSITIONS`].
///
/// # Panics
/// For slices that are not of these shapes.
pub fn attention<F: Float>(
    queries: &[f32],
    [keys, values]: [CacheView<'_, F>; 2],
    [n_heads, n]: [usize; 2],
    mask: AttentionMask,
    scoring: Scoring,
    kernels: Kernels,
    out: &mut [f32],
) {
    let CacheLayout { kv_heads, head_dim, .. } = keys.layout;
    assert!(keys.layout == values.layout && n_heads.is_multiple_of(kv_heads), "keys and values lie alike, and are shared");
    assert!(queries.len() == out.len() && out.len() == n * n_heads * head_dim, "there is an output for each query");
    let capacity = keys.capacity().min(values.capacity());
    assert!(mask.n_past + n <= capacity, "the positions are there");
    let group = n_heads / kv_heads;
    let shared = AttentionInputs { queries, keys, values, n_heads, group, n, head_dim, mask, scoring };
    shared.write(Isa::current(), kernels, out);
}

/// One row of queries of some heads that share keys, and some of the positions that it attends to.
struct Task {
    row: usize,
    heads: Range<usize>,
    visible: Range<usize>,
}

/// The attention of some heads to some positions, not yet normalised.
struct Part {
    /// The largest score of each head.
    largest: Vec<f32>,
    /// The sum of `exp(score - largest)` of each head.
    sums: Vec<f32>,
    /// The sum of the values weighted by `exp(score - largest)`: `[heads, head_dim]`.
    weighted: Vec<f32>,
}

/// Merges the attention of head number `head` of all `parts` into `out`, `[head_dim]`.
fn merge(parts: &[&Part], head: usize, out: &mut [f32]) {
    let largest = parts.iter().map(|part| part.largest[head]).fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f32> = parts.iter().map(|part| (part.largest[head] - largest).exp()).collect();
    let all: f32 = parts.iter().zip(&shares).map(|(part, share)| share * part.sums[head]).sum();
    for (part, share) in parts.iter().zip(shares) {
        let share = share / all;
        let weighted = &part.weighted[head * out.len()..(head + 1) * out.len()];
        out.iter_mut().zip(weighted).for_each(|(out, value)| *out += share * value);
    }
}

struct AttentionInputs<'a, F> {
    queries: &'a [f32],
    keys: CacheView<'a, F>,
    values: CacheView<'a, F>,
    n_heads: usize,
    /// Query heads that share a key head.
    group: usize,
    n: usize,
    head_dim: usize,
    mask: AttentionMask,
    scoring: Scoring,
}

impl<F: Float> AttentionInputs<'_, F> {
    fn write(&self, isa: Isa, kernels: Kernels, out: &mut [f32]) {
        if kernels.rows(self.n) <= MAX_ROWS {
            self.decode(isa, out);
        } else if self.n <= FEW {
            self.few(isa, out);
        } else {
            self.prefill(isa, out);
        }
    }

    /// A few queries. Each key and value is read once for the heads that share it, and parts are merged by their largest scores (Dao et
    /// al., <https://arxiv.org/abs/2205.14135>). The division into parts does not depend on the number of threads, so neither does the
    /// result.
    fn decode(&self, isa: Isa, out: &mut [f32]) {
        out.fill(0.0);
        let tasks = self.tasks();
        // The cost grows with the positions, not with the size of the output.
        let parts: Vec<Part> = if self.mask.n_past * self.n_heads < 4096 {
            tasks.iter().map(|task| self.part(isa, task)).collect()
        } else {
            tasks.par_iter().map(|task| self.part(isa, task)).collect()
        };
        let pairs: Vec<(&Task, &Part)> = tasks.iter().zip(&parts).collect();
        for of_row in pairs.chunk_by(|(a, _), (b, _)| a.row == b.row) {
            let of_position = of_row.iter().take_while(|(task, _)| task.visible == of_row[0].0.visible);
            let n_together = of_position.count();
            for (number, (Task { row, heads, .. }, _)) in of_row[..n_together].iter().enumerate() {
                let parts: Vec<&Part> = of_row[number..].iter().step_by(n_together).map(|(_, part)| *part).collect();
                for head in heads.clone() {
                    let out = &mut out[(row * self.n_heads + head) * self.head_dim..][..self.head_dim];
                    merge(&parts, head - heads.start, out);
                }
            }
        }
    }

    /// In the order of rows, then of positions: of a block the keys and values of all heads are side by side in memory.
    fn tasks(&self) -> Vec<Task> {
        let groups = (0..self.n_heads).step_by(self.group).map(|first| first..first + self.group);
        let groups: Vec<Range<usize>> = groups
            .flat_map(|shared| {
                let end = shared.end;
                shared.step_by(MAX_ROWS).map(move |first| first..end.min(first + MAX_ROWS))
            })
            .collect();
        let mut tasks = Vec::new();
        for row in 0..self.n {
            let visible = self.mask.visible(row);
            for start in (visible.start / POSITIONS * POSITIONS..visible.end).step_by(POSITIONS) {
                let part = start.max(visible.start)..visible.end.min(start + POSITIONS);
                tasks.extend(groups.iter().map(|heads| Task { row, heads: heads.clone(), visible: part.clone() }));
            }
        }
        tasks
    }

    fn part(&self, isa: Isa, task: &Task) -> Part {
        let (n, head_dim) = (task.heads.len(), self.head_dim);
        let first_key = task.heads.start / self.group;
        let mut queries = Vec::with_capacity(n * head_dim);
        for head in task.heads.clone() {
            let query = &self.queries[(head * self.n + task.row) * head_dim..][..head_dim];
            queries.extend(query.iter().map(|query| query * self.scoring.scale));
        }
        let mut scores = vec![0.0; n * task.visible.len()];
        let mut written = 0;
        for rows in self.keys.rows(first_key, task.visible.clone()) {
            let scores = &mut scores[written..][..rows.len() / head_dim * n];
            isa.scores(rows, &queries, head_dim, scores);
            written += scores.len();
        }
        if let Some(cap) = self.scoring.softcap {
            softcap(&mut scores, cap);
        }
        let mut part = Part { largest: vec![0.0; n], sums: vec![0.0; n], weighted: vec![0.0; n * head_dim] };
        exponentials(&mut scores, &mut part.largest, &mut part.sums);
        let mut weights = &scores[..];
        for rows in self.values.rows(first_key, task.visible.clone()) {
            let own;
            (own, weights) = weights.split_at(rows.len() / head_dim * n);
            isa.weighted_sums(own, rows, head_dim, &mut part.weighted);
        }
        part
    }
}

#[cfg(test)]
mod tests;
