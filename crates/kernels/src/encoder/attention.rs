//! Attention of every token to all of its sequence, or to a window around it, in tiles of queries with an online softmax (Dao et al.,
//! <https://arxiv.org/abs/2205.14135>).
//!
//! Tiles are counted from the start of a sequence, so that what a token gets does not depend on where the sequence is in its batch.

use std::ops::Range;

use rayon::prelude::*;

use super::columns::Columns;
use super::pairs::round_columns;
use super::relative::RelativeBias;
use crate::elementwise::softmax_step;
use crate::isa::Isa;
use crate::kernel::PairProducts;
use crate::tiles::{Lanes, TILE};

/// Positions whose scores are there at a time, 32 KB of them.
const POSITIONS: usize = 256;

/// The score of a masked position: below any real score, and finite, so that a tile without any visible position yields no NaN.
const HIDDEN_SCORE: f32 = -1e30;

/// What attention needs beside queries, keys and values.
#[derive(Clone, Copy)]
pub struct Attention<'e> {
    /// Heads of queries, and as many of keys and values.
    pub n_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens see those that are less than so many positions away.
    pub window: Option<usize>,
    /// What is added to scores by distance.
    pub relative: Option<&'e RelativeBias>,
    /// With them queries, keys, weights and values are rounded to bf16, as the inputs of linear layers are.
    pub products: Option<PairProducts>,
}

/// A sequence within the columns.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    /// Its first column.
    pub start: usize,
    /// How many columns it has.
    pub n_tokens: usize,
}

/// Memory of a head, for one tile of queries at a time.
struct Scratch {
    /// `[head_dim, TILE]`
    queries: Vec<f32>,
    /// `[positions, TILE]`
    scores: Vec<f32>,
    /// Rows of [`TILE`] values of a position, `[head_dim / TILE, n_tokens, TILE]`.
    values: Vec<f32>,
    /// The sums of the values weighted by the exponentials of scores: `[head_dim, TILE]`.
    weighted: Vec<f32>,
    rounded: Rounded,
}

/// The same in pairs of bf16.
#[derive(Default)]
struct Rounded {
    /// `[head_dim / 2, TILE]`
    queries: Vec<[u32; TILE]>,
    /// `[positions / 2, TILE]`
    scores: Vec<[u32; TILE]>,
    /// For each tile of positions: `[head_dim / 2, TILE]`.
    keys: Vec<Vec<[u32; TILE]>>,
    /// For each tile of the width of a head: `[n_tokens / 2, TILE]`.
    values: Vec<Vec<[u32; TILE]>>,
}

/// One head of one sequence.
struct HeadTask<'t> {
    isa: Isa,
    attention: &'t Attention<'t>,
    qkv: &'t Columns,
    head: usize,
    sequence: Sequence,
}

impl Attention<'_> {
    /// Writes the attention of all `sequences` to `out`, `[n_heads * head_dim]` for each token; `qkv` has queries, keys and values of all
    /// heads for each.
    pub fn run(&self, qkv: &Columns, sequences: &[Sequence], out: &mut Columns) {
        let width = self.n_heads * self.head_dim;
        assert!(qkv.width() == 3 * width && out.width() == width && qkv.n_tokens() == out.n_tokens(), "shapes agree");
        let isa = Isa::current();
        let longest = sequences.iter().map(|sequence| sequence.n_tokens).max().unwrap_or(0);
        out.row_parts(self.head_dim).into_par_iter().enumerate().for_each(|(head, mut out)| {
            let mut scratch = Scratch {
                queries: vec![0.0; self.head_dim * TILE],
                scores: vec![0.0; POSITIONS.min(longest) * TILE],
                values: vec![0.0; self.head_dim.next_multiple_of(TILE) * longest],
                weighted: vec![0.0; self.head_dim * TILE],
                rounded: Rounded::default(),
            };
            for sequence in sequences {
                HeadTask { isa, attention: self, qkv, head, sequence: *sequence }.run(&mut scratch, &mut out);
            }
        });
    }

    /// The positions that the token at `position` sees.
    fn visible(&self, position: usize, n_tokens: usize) -> Range<usize> {
        match self.window {
            Some(window) => (position + 1).saturating_sub(window)..n_tokens.min(position.saturating_add(window)),
            None => 0..n_tokens,
        }
    }
}

impl HeadTask<'_> {
    fn run(&self, scratch: &mut Scratch, out: &mut [&mut [f32]]) {
        self.turn_values(&mut scratch.values);
        if self.attention.products.is_some() {
            self.round(scratch);
        }
        let (start, n_tokens) = (self.sequence.start, self.sequence.n_tokens);
        let scale = 1.0 / (self.attention.head_dim as f32).sqrt();
        for first in (0..n_tokens).step_by(TILE) {
            let n = TILE.min(n_tokens - first);
            self.qkv.gather(self.rows(0), start + first, n, scale, &mut scratch.queries);
            if self.attention.products.is_some() {
                round_columns(&scratch.queries, &mut scratch.rounded.queries);
            }
            let shares = self.tile(first..first + n, scratch).map(|sum| 1.0 / sum);
            let (block, lane) = ((start + first) / TILE, (start + first) % TILE);
            let here = n.min(TILE - lane);
            for (row, weighted) in scratch.weighted.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                weighted.iter_mut().zip(&shares).for_each(|(value, share)| *value *= share);
                out[block][row * TILE + lane..][..here].copy_from_slice(&weighted[..here]);
                if here < n {
                    out[block + 1][row * TILE..][..n - here].copy_from_slice(&weighted[here..n]);
                }
            }
        }
    }

    /// The rows of queries (0), keys (1) or values (2) of the head.
    fn rows(&self, part: usize) -> Range<usize> {
        let first = (part * self.attention.n_heads + self.head) * self.attention.head_dim;
        first..first + self.attention.head_dim
    }

    /// The parts of blocks in which the positions `positions` lie: the first position of each, its block, its first lane and their number.
    fn segments(&self, positions: Range<usize>, most: usize) -> impl Iterator<Item = (usize, &[f32], usize, usize)> {
        let start = self.sequence.start;
        let mut next = positions.start;
        std::iter::from_fn(move || {
            let column = start + next;
            let (first, lane) = (next, column % TILE);
            let n = positions.end.saturating_sub(first).min(TILE - lane).min(most);
            next += n;
            (n > 0).then(|| (first, self.qkv.block(column / TILE), lane, n))
        })
    }

    /// Turns columns of values to rows.
    fn turn_values(&self, values: &mut [f32]) {
        let n_tokens = self.sequence.n_tokens;
        let rows = self.rows(2);
        for (part, first_row) in rows.clone().step_by(TILE).enumerate() {
            let last_row = rows.end.min(first_row + TILE) - 1;
            for (first, block, lane, n) in self.segments(0..n_tokens, TILE) {
                let own = &block[first_row * TILE + lane..last_row * TILE + lane + n];
                let turned = &mut values[(part * n_tokens + first) * TILE..][..n * TILE];
                self.isa.transpose(own, TILE, n, turned);
            }
        }
    }

    /// Weights the values by the exponentials of the scores of the queries `rows`; the result is the sum of the weights of each.
    fn tile(&self, rows: Range<usize>, scratch: &mut Scratch) -> [f32; TILE] {
        let (n_tokens, lanes) = (self.sequence.n_tokens, Lanes::of(rows.len()));
        let visible = |row| self.attention.visible(row, n_tokens);
        let visible = visible(rows.start).start..visible(rows.end - 1).end;
        let (mut largest, mut sums) = ([HIDDEN_SCORE; TILE], [0.0; TILE]);
        scratch.weighted.fill(0.0);
        for start in (visible.start / TILE * TILE..visible.end).step_by(POSITIONS) {
            let positions = start..visible.end.min(start + POSITIONS);
            self.score(positions.clone(), lanes, scratch);
            let scores = &mut scratch.scores[..positions.len() * TILE];
            self.add_bias(scores, rows.clone(), start);
            self.apply_mask(scores, rows.clone(), start);
            let shares = softmax_step(scores, &mut largest, &mut sums);
            if start > visible.start {
                for weighted in scratch.weighted.as_chunks_mut::<TILE>().0 {
                    weighted.iter_mut().zip(&shares).for_each(|(weighted, share)| *weighted *= share);
                }
            }
            self.weight(positions, lanes, scratch);
        }
        sums
    }

    /// Rounds keys and values.
    fn round(&self, scratch: &mut Scratch) {
        let n_tokens = self.sequence.n_tokens;
        let Scratch { queries, values, rounded, .. } = scratch;
        rounded.keys.resize_with(rounded.keys.len().max(n_tokens.div_ceil(TILE)), Vec::new);
        for (first, keys) in (0..n_tokens).step_by(TILE).zip(&mut rounded.keys) {
            self.qkv.gather(self.rows(1), self.sequence.start + first, TILE.min(n_tokens - first), 1.0, queries);
            round_columns(queries, keys);
        }
        rounded.values.resize_with(self.attention.head_dim.div_ceil(TILE), Vec::new);
        let parts = values.chunks(n_tokens * TILE).zip(&mut rounded.values);
        parts.for_each(|(values, rounded)| round_columns(values, rounded));
    }

    /// Computes the scores of `positions`.
    fn score(&self, positions: Range<usize>, lanes: Lanes, scratch: &mut Scratch) {
        let Scratch { queries, scores, rounded, .. } = scratch;
        let scores = &mut scores[..positions.len() * TILE];
        scores.fill(0.0);
        if let Some(products) = self.attention.products {
            for (keys, scores) in rounded.keys[positions.start / TILE..].iter().zip(scores.chunks_mut(TILE * TILE)) {
                for (group, scores) in scores.chunks_mut(PairProducts::INPUTS * TILE).enumerate() {
                    let keys = row_part(keys.as_flattened(), group * PairProducts::INPUTS, scores.len() / TILE);
                    products.add(&rounded.queries, keys, TILE, lanes, scores);
                }
            }
            return;
        }
        let (isa, rows) = (self.isa, self.rows(1));
        for (first, block, lane, n) in self.segments(positions.clone(), isa.tile_inputs()) {
            let keys = row_part(&block[rows.start * TILE..rows.end * TILE], lane, n);
            isa.columns_tile(queries, keys, TILE, lanes, &mut scores[(first - positions.start) * TILE..][..n * TILE]);
        }
    }

    /// Adds the values of `positions` weighted by what their scores have become.
    fn weight(&self, positions: Range<usize>, lanes: Lanes, scratch: &mut Scratch) {
        let Scratch { scores, values, weighted, rounded, .. } = scratch;
        let scores = &scores[..positions.len() * TILE];
        let (isa, n_tokens, products) = (self.isa, self.sequence.n_tokens, self.attention.products);
        if products.is_some() {
            round_columns(scores, &mut rounded.scores);
        }
        for (part, weighted) in weighted.chunks_mut(TILE * TILE).enumerate() {
            for (group, weighted) in weighted.chunks_mut(isa.tile_inputs() * TILE).enumerate() {
                let (first, n) = (group * isa.tile_inputs(), weighted.len() / TILE);
                match products {
                    Some(products) => {
                        let values = &rounded.values[part][positions.start / 2..positions.end.div_ceil(2)];
                        products.add(&rounded.scores, row_part(values.as_flattened(), first, n), TILE, lanes, weighted);
                    }
                    None => {
                        let values = &values[part * n_tokens * TILE..][positions.start * TILE..positions.end * TILE];
                        isa.columns_tile(scores, row_part(values, first, n), TILE, lanes, weighted);
                    }
                }
            }
        }
    }

    /// Adds the bias of distances to `scores`, `[positions, TILE]` from position `start` on, of the queries `rows`.
    fn add_bias(&self, scores: &mut [f32], rows: Range<usize>, start: usize) {
        let Some(relative) = self.attention.relative else { return };
        for (key, scores) in (start..).zip(scores.as_chunks_mut::<TILE>().0) {
            let bias = relative.of(self.head, rows.start, key);
            scores[..rows.len()].iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
    }

    /// Masks in `scores` what the queries `rows` do not see.
    fn apply_mask(&self, scores: &mut [f32], rows: Range<usize>, start: usize) {
        let (end, n_tokens) = (start + scores.len() / TILE, self.sequence.n_tokens);
        let visible = |row| self.attention.visible(row, n_tokens);
        // Nothing is masked when both the first and the last query see all of these positions.
        if visible(rows.end - 1).start <= start && end <= visible(rows.start).end {
            return;
        }
        for (i, row) in rows.enumerate() {
            let visible = visible(row);
            for (position, scores) in (start..).zip(scores.as_chunks_mut::<TILE>().0) {
                if !visible.contains(&position) {
                    scores[i] = HIDDEN_SCORE;
                }
            }
        }
    }
}

/// Of `values`, rows of [`TILE`], the `n` from `first` on in every row: they are the first of rows of the same length.
fn row_part<V>(values: &[V], first: usize, n: usize) -> &[V] {
    &values[first..values.len() - TILE + first + n]
}
