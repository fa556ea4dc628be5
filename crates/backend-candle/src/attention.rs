//! Attention of one sequence over its keys and values: grouped heads read what they share where it lies, and no mask is made.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::elementwise::{add_weighted_rows, softmax};
use crate::kernel::{Level, MAX_ROWS};
use crate::linear::{Strided, StridedMut, product_into};
use crate::values::{Values, tensor};

/// Queries of one head that go through a product together.
const BLOCK: usize = 32;

/// What a query sees.
#[derive(Clone, Copy)]
pub(crate) struct Sight {
    /// Tokens before the first query.
    pub(crate) n_past: usize,
    /// How many tokens back it sees, itself included; `None` sees all.
    pub(crate) window: Option<usize>,
}

impl Sight {
    /// The positions that query `row` sees.
    fn of(self, row: usize) -> std::ops::Range<usize> {
        let end = self.n_past + row + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }
}

/// `softmax(q kᵀ / √head_dim) v`: `queries` are `[heads, n, head_dim]`, `keys` and `values` `[kv_heads, capacity, head_dim]`, of which
/// the first `n_past + n` positions are taken; the result is `[n, heads * head_dim]`.
pub(crate) fn attention(queries: &Tensor, keys: &Tensor, values: &Tensor, sight: Sight) -> Result<Tensor> {
    let (n_heads, n, head_dim) = queries.dims3()?;
    let (kv_heads, capacity, _) = keys.dims3()?;
    if sight.n_past + n > capacity {
        candle_core::bail!("{} positions of a cache of {capacity}", sight.n_past + n);
    }
    let (queries, keys, values) = (Values::of(queries)?, Values::of(keys)?, Values::of(values)?);
    let shared = Shared {
        queries: &queries,
        keys: &keys,
        values: &values,
        n_heads,
        group: n_heads / kv_heads,
        n,
        capacity,
        head_dim,
        sight,
    };
    let mut out = vec![0.0; n * n_heads * head_dim];
    if n <= MAX_ROWS {
        shared.by_vector(&mut out)
    } else {
        shared.by_block(&mut out)
    }
    tensor(out, (n, n_heads * head_dim))
}

struct Shared<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    n_heads: usize,
    /// Query heads that share a key head.
    group: usize,
    n: usize,
    capacity: usize,
    head_dim: usize,
    sight: Sight,
}

impl Shared<'_> {
    /// The part of `cache` that `head` reads: `[capacity, head_dim]`.
    fn of_head<'c>(&self, cache: &'c [f32], head: usize) -> &'c [f32] {
        let size = self.capacity * self.head_dim;
        &cache[head / self.group * size..][..size]
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// One query of one head at a time: for decoding.
    fn by_vector(&self, out: &mut [f32]) {
        let level = Level::detect();
        let attend = |i: usize, out: &mut [f32]| {
            let (row, head) = (i / self.n_heads, i % self.n_heads);
            let seen = self.sight.of(row);
            let of_seen = |cache| &self.of_head(cache, head)[seen.start * self.head_dim..seen.end * self.head_dim];
            let query: Vec<f32> =
                self.queries[(head * self.n + row) * self.head_dim..][..self.head_dim].iter().map(|q| q * self.scale()).collect();
            let mut scores = vec![0.0; seen.len()];
            level.products(of_seen(self.keys), &query, self.head_dim, &mut scores);
            softmax(&mut scores);
            add_weighted_rows(&scores, of_seen(self.values), out);
        };
        // The work is in the positions, not in the output.
        if self.sight.n_past * self.n_heads < 4096 {
            out.chunks_exact_mut(self.head_dim).enumerate().for_each(|(i, out)| attend(i, out));
        } else {
            out.par_chunks_exact_mut(self.head_dim).enumerate().for_each(|(i, out)| attend(i, out));
        }
    }

    /// Many queries of one head at a time, as products of matrices: for a prompt.
    fn by_block(&self, out: &mut [f32]) {
        let width = self.n_heads * self.head_dim;
        out.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, out)| {
            let first = block * BLOCK;
            let n = out.len() / width;
            let seen = self.sight.of(first).start..self.sight.of(first + n - 1).end;
            let mut scores = vec![0.0; n * seen.len()];
            for head in 0..self.n_heads {
                self.scores(head, first, seen.clone(), &mut scores);
                let values = &self.of_head(self.values, head)[seen.start * self.head_dim..seen.end * self.head_dim];
                product_into(
                    (n, seen.len(), self.head_dim),
                    Strided { values: &scores, row: seen.len(), column: 1 },
                    Strided { values, row: self.head_dim, column: 1 },
                    StridedMut { values: &mut out[head * self.head_dim..], row: width },
                    1,
                );
            }
        });
    }

    /// The weights, `[n, seen.len()]`, that the queries of `head` from `first` on give to what they see.
    fn scores(&self, head: usize, first: usize, seen: std::ops::Range<usize>, scores: &mut [f32]) {
        let n = scores.len() / seen.len();
        let queries = &self.queries[(head * self.n + first) * self.head_dim..][..n * self.head_dim];
        let keys = &self.of_head(self.keys, head)[seen.start * self.head_dim..seen.end * self.head_dim];
        product_into(
            (n, self.head_dim, seen.len()),
            Strided { values: queries, row: self.head_dim, column: 1 },
            Strided { values: keys, row: 1, column: self.head_dim },
            StridedMut { values: scores, row: seen.len() },
            1,
        );
        let scale = self.scale();
        for (i, scores) in scores.chunks_exact_mut(seen.len()).enumerate() {
            let own = self.sight.of(first + i);
            let (before, rest) = scores.split_at_mut(own.start - seen.start);
            let (visible, after) = rest.split_at_mut(own.len());
            before.fill(0.0);
            after.fill(0.0);
            visible.iter_mut().for_each(|score| *score *= scale);
            softmax(visible);
        }
    }
}
