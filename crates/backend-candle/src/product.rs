//! Products of weights with many rows of inputs, in tiles.
//!
//! The order of the loops is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): inputs are packed
//! once, a slice of some rows of weights is turned, or dequantised and turned, into the cache that is nearest, and meets all inputs there.
//! So blocks cost hardly more than floats: each is dequantised once for all inputs. Where inputs are rounded, blocks stay whole numbers
//! and cost less.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::float::Float;
use crate::kernel::{Level, PACKED_INPUTS, Packed, TILE};
use crate::quantize::{BLOCK, Blocks};
use crate::rounded::Rounded;

/// Weights of a row that a tile takes at a time: whole blocks. A tile of them is 56 KB.
const SLICE: usize = 14 * BLOCK;

/// The most tiles of a task: its sums, [`TILE`] of each for each input, stay in a cache too.
const TASK: usize = 14;

/// Weights, `[rows, columns]`.
#[derive(Clone, Copy)]
pub(crate) enum Weights<'m> {
    /// Row-major, as the next two.
    F32(&'m [f32]),
    F16(&'m [f16]),
    Bf16(&'m [bf16]),
    /// Quantised.
    Blocks(Blocks<'m>),
}

impl Weights<'_> {
    /// What they take in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(*values),
            Self::F16(values) => size_of_val(*values),
            Self::Bf16(values) => size_of_val(*values),
            Self::Blocks(blocks) => blocks.codes.len() + size_of_val(blocks.scales),
        }
    }
}

/// `out = x Wᵀ` for `x` of `[n, columns]` and weights of `[rows, columns]`, on all threads: `out` is `[n, rows]`. `packed` has places for
/// as many values as `x`, and is overwritten.
pub(crate) fn product(level: Level, weights: Weights<'_>, x: &[f32], columns: usize, packed: &mut [f32], out: &mut [f32]) {
    let n = x.len() / columns;
    pack(level, x, columns, packed);
    let task = Task { level, weights, columns, packed, n };
    in_tasks(n, out, |first, out| task.run(first, out));
}

/// As [`product`], of rounded inputs.
pub(crate) fn rounded_product(level: Level, weights: Blocks<'_>, inputs: &Rounded, out: &mut [f32]) {
    let per_row = inputs.per_row;
    let groups = inputs.groups(weights.bits.offset(), PACKED_INPUTS);
    in_tasks(inputs.codes.len() / per_row, out, |first, out| {
        let rows = out[0].len();
        let mut packed = Packed::new(weights.bits, per_row * BLOCK);
        for start in (0..rows).step_by(TILE) {
            let own = start..rows.min(start + TILE);
            level.pack(weights.rows(first + own.start..first + own.end, per_row * BLOCK), per_row, &mut packed);
            for (inputs, out) in groups.iter().zip(out.chunks_mut(PACKED_INPUTS)) {
                let mut products = [[0.0; TILE]; PACKED_INPUTS];
                level.packed_products(&packed, inputs, &mut products[..inputs.n]);
                for (out, products) in out.iter_mut().zip(&products) {
                    out[own.clone()].copy_from_slice(&products[..own.len()]);
                }
            }
        }
    });
}

/// Has all threads `run` tasks on some columns of `out`, `[n, rows]`: they are given the first and a slice for each of the `n`.
fn in_tasks(n: usize, out: &mut [f32], run: impl Fn(usize, &mut [&mut [f32]]) + Sync) {
    let rows = out.len() / n;
    let n_tiles = rows.div_ceil(TILE);
    let tasks = n_tiles.div_ceil(TASK).next_multiple_of(rayon::current_num_threads());
    let task_rows = n_tiles.div_ceil(tasks) * TILE;
    let mut parts: Vec<Vec<&mut [f32]>> = (0..rows.div_ceil(task_rows)).map(|_| Vec::with_capacity(n)).collect();
    for row in out.chunks_exact_mut(rows) {
        parts.iter_mut().zip(row.chunks_mut(task_rows)).for_each(|(part, own)| part.push(own));
    }
    parts.into_par_iter().with_max_len(1).enumerate().for_each(|(i, mut out)| run(i * task_rows, &mut out));
}

/// Writes the rows of `x` to `packed`, as many together as a tile takes: `[columns, inputs]` for each of these.
pub(crate) fn pack(level: Level, x: &[f32], columns: usize, packed: &mut [f32]) {
    assert_eq!(packed.len(), x.len(), "all values are packed");
    let size = level.tile_inputs() * columns;
    packed.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(packed, rows)| {
        let n = rows.len() / columns;
        for (place, packed) in packed.chunks_exact_mut(n).enumerate() {
            packed.iter_mut().zip(rows[place..].iter().step_by(columns)).for_each(|(packed, value)| *packed = *value);
        }
    });
}

struct Task<'t> {
    level: Level,
    weights: Weights<'t>,
    columns: usize,
    packed: &'t [f32],
    /// Rows of inputs.
    n: usize,
}

impl Task<'_> {
    /// The products with the rows of weights from `first` on, of which `out` has a slice for each input.
    fn run(&self, first: usize, out: &mut [&mut [f32]]) {
        let rows = out[0].len();
        let together = self.level.tile_inputs();
        let mut sums = vec![0.0; self.n * rows.next_multiple_of(TILE)];
        let (mut turned, mut floats) = (vec![0.0; SLICE * TILE], vec![0.0; SLICE * TILE]);
        for start in (0..self.columns).step_by(SLICE) {
            let places = start..self.columns.min(start + SLICE);
            let turned = &mut turned[..places.len() * TILE];
            for (tile, sums) in sums.chunks_exact_mut(self.n * TILE).enumerate() {
                let n_rows = TILE.min(rows - tile * TILE);
                self.turn(first + tile * TILE, n_rows, places.clone(), &mut floats, turned);
                for (inputs, sums) in self.packed.chunks(together * self.columns).zip(sums.chunks_mut(together * TILE)) {
                    let n = sums.len() / TILE;
                    self.level.tile(turned, &inputs[places.start * n..places.end * n], sums);
                }
            }
        }
        for (tile, sums) in sums.chunks_exact(self.n * TILE).enumerate() {
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(TILE)) {
                let out = &mut out[tile * TILE..];
                let n_rows = out.len().min(TILE);
                out[..n_rows].copy_from_slice(&sums[..n_rows]);
            }
        }
    }

    /// Turns `n_rows` rows of weights from `first` on, at `places` within each.
    fn turn(&self, first: usize, n_rows: usize, places: Range<usize>, floats: &mut [f32], turned: &mut [f32]) {
        let (columns, inner) = (self.columns, places.len());
        let floats = &mut floats[..n_rows * inner];
        match self.weights {
            Weights::F32(values) => {
                let rows = &values[first * columns + places.start..(first + n_rows - 1) * columns + places.end];
                self.level.turn(rows, columns, inner, turned);
            }
            Weights::F16(values) => {
                widen_rows(&values[first * columns..], columns, places, floats);
                self.level.turn(floats, inner, inner, turned);
            }
            Weights::Bf16(values) => {
                widen_rows(&values[first * columns..], columns, places, floats);
                self.level.turn(floats, inner, inner, turned);
            }
            Weights::Blocks(blocks) => {
                for (row, floats) in floats.chunks_exact_mut(inner).enumerate() {
                    let row = blocks.rows(first + row..first + row + 1, columns);
                    row.rows(places.start / BLOCK..places.end / BLOCK, BLOCK).dequantize(floats);
                }
                self.level.turn(floats, inner, inner, turned);
            }
        }
    }
}

/// Widens `places` of the first rows of `values`, as many as there is room for.
fn widen_rows<F: Float>(values: &[F], columns: usize, places: Range<usize>, floats: &mut [f32]) {
    for (row, floats) in values.chunks(columns).zip(floats.chunks_exact_mut(places.len())) {
        F::widen(&row[places.clone()], floats);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::Bits;

    fn check(level: Level, weights: Weights<'_>, floats: &[f32], (n, rows, columns): (usize, usize, usize)) {
        let x: Vec<f32> = (0..n * columns).map(|i| ((i * i) as f32 * 0.23).sin()).collect();
        let mut out = vec![f32::NAN; n * rows];
        product(level, weights, &x, columns, &mut vec![0.0; x.len()], &mut out);
        for (i, out) in out.iter().enumerate() {
            let pairs = x[i / rows * columns..][..columns].iter().zip(&floats[i % rows * columns..][..columns]);
            let expected: f64 = pairs.map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
            assert!((f64::from(*out) - expected).abs() <= 1e-4, "{level:?} {n} x {rows} x {columns}: {out} {expected}");
        }
    }

    fn check_rounded(level: Level, weights: Blocks<'_>, floats: &[f32], (n, rows, columns): (usize, usize, usize)) {
        let x: Vec<f32> = (0..n * columns).map(|i| ((i * i) as f32 * 0.23).sin()).collect();
        let rounded = Rounded::new(&x, columns);
        let codes = rounded.codes.iter().zip(&rounded.scales);
        let back: Vec<f32> = codes.flat_map(|(codes, scale)| codes.map(|code| f32::from(code) * scale)).collect();
        let mut out = vec![f32::NAN; n * rows];
        rounded_product(level, weights, &rounded, &mut out);
        for (i, out) in out.iter().enumerate() {
            let pairs = back[i / rows * columns..][..columns].iter().zip(&floats[i % rows * columns..][..columns]);
            let expected: f64 = pairs.map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
            assert!((f64::from(*out) - expected).abs() <= 1e-4, "{level:?} {n} x {rows} x {columns}: {out} {expected}");
        }
    }

    #[test]
    fn every_level_gives_the_product() {
        for shape in [(1, 1, 1), (17, 33, 31), (13, 100, 64), (40, 1000, 96), (25, 64, SLICE + 32), (12, 32, 2 * SLICE)] {
            let (_, rows, columns) = shape;
            let weights: Vec<f32> = (0..rows * columns).map(|i| ((i * 7 + 3) as f32 * 0.61).sin()).collect();
            for level in Level::all() {
                check(level, Weights::F32(&weights), &weights, shape);
                let narrow: Vec<f16> = weights.iter().map(|weight| f16::from_f32(*weight)).collect();
                let wide: Vec<f32> = narrow.iter().map(|weight| weight.to_f32()).collect();
                check(level, Weights::F16(&narrow), &wide, shape);
                let narrow: Vec<bf16> = weights.iter().map(|weight| bf16::from_f32(*weight)).collect();
                let wide: Vec<f32> = narrow.iter().map(|weight| weight.to_f32()).collect();
                check(level, Weights::Bf16(&narrow), &wide, shape);
                for bits in [Bits::Eight, Bits::Four].into_iter().filter(|_| columns.is_multiple_of(BLOCK)) {
                    let blocks = rows * columns / BLOCK;
                    let (mut codes, mut scales) = (vec![0; blocks * bits.block_bytes()], vec![0.0; blocks]);
                    bits.quantize(&weights, &mut codes, &mut scales);
                    let blocks = Blocks { bits, codes: &codes, scales: &scales };
                    let mut floats = vec![0.0; weights.len()];
                    blocks.dequantize(&mut floats);
                    check(level, Weights::Blocks(blocks), &floats, shape);
                    check_rounded(level, blocks, &floats, shape);
                }
            }
        }
    }
}
