//! Products of weights with many rows of inputs, in tiles.
//!
//! The loop order is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): inputs are packed once; a
//! slice of some rows of weights is transposed (and dequantised) into the nearest cache and multiplied with all inputs there. Each block
//! is dequantised once for all inputs, so a prompt is hardly slower in int4 than in f32. With quantised activations, blocks stay integers
//! and are faster still.

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;
use tandem_core::DType;

use crate::float::Float;
use crate::isa::Isa;
use crate::kernel::SumOrder;
use crate::low_rank::{Low, Update};
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::QuantizedActivations;
use crate::strips::{Layout, Strips};
use crate::tiles::{Lanes, MAX_ROWS, PACKED_INPUTS, PackedTile, TILE};

/// Columns of weights of a tile that are processed at a time: whole blocks. They are 56 KB.
const SLICE: usize = 14 * BLOCK;

/// The most tiles of a task, so that its sums, [`TILE`] for each tile and input, stay in a cache too.
const TASK: usize = 14;

/// The most rows of inputs whose products of integers are there at a time.
const MOST_TOGETHER: usize = 2 * PACKED_INPUTS;

/// Bytes of weights in strips that are multiplied with all inputs before those that follow.
const PART_BYTES: usize = 128 << 10;

/// Weights, `[rows, columns]`, one row for each output.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'m> {
    /// Row-major, like the next two.
    F32(&'m [f32]),
    /// Products are those of the same weights in f32, to the bit.
    F16(&'m [f16]),
    /// As of f16.
    Bf16(&'m [bf16]),
    /// Quantised: row-major, each row in whole blocks of columns.
    Blocks(Blocks<'m>),
    /// The same, as some kernels take them.
    Strips(Strips<'m>),
}

impl Weights<'_> {
    /// Their dtype in memory.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
            Self::Blocks(_) | Self::Strips(_) => match self.bits() {
                Some(Bits::Eight) => DType::Int8,
                _ => DType::Int4,
            },
        }
    }

    /// The bits of quantised ones.
    pub fn bits(&self) -> Option<Bits> {
        match self {
            Self::F32(_) | Self::F16(_) | Self::Bf16(_) => None,
            Self::Blocks(blocks) => Some(blocks.bits),
            Self::Strips(strips) => Some(strips.bits()),
        }
    }

    /// Panics unless they are `[rows, columns]`.
    pub(crate) fn check(&self, [rows, columns]: [usize; 2]) {
        let n = match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Strips(strips) => return Weights::Blocks(strips.memory()).check([rows, columns]),
            Self::Blocks(blocks) => {
                assert!(columns.is_multiple_of(BLOCK), "a row is whole blocks");
                assert_eq!(blocks.codes.len(), blocks.scales.len() * blocks.bits.block_bytes(), "every block has its codes");
                blocks.scales.len() * BLOCK
            }
        };
        assert_eq!(n, rows * columns, "a matrix has all of its weights");
    }

    /// Their size in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(*values),
            Self::F16(values) => size_of_val(*values),
            Self::Bf16(values) => size_of_val(*values),
            Self::Blocks(blocks) => blocks.codes.len() + size_of_val(blocks.scales),
            Self::Strips(strips) => Weights::Blocks(strips.memory()).bytes(),
        }
    }
}

/// `out = x Wᵀ` for `x` of `[n, columns]` and weights of `[rows, columns]`, on all threads, with the `update` of adapters: `out` is
/// `[n, rows]`. `packed` is scratch memory as long as `x`.
pub(crate) fn product(
    isa: Isa,
    (weights, columns): (Weights<'_>, usize),
    x: &[f32],
    update: Option<&Update>,
    packed: &mut [f32],
    out: &mut [f32],
) {
    let n = x.len() / columns;
    pack(isa, x, columns, packed);
    let low = update.map(|update| update.low(x, isa.tile_inputs()));
    let task = Task { isa, weights, columns, inner: columns, along: Along::Rows, packed, n, low: low.as_ref() };
    in_tasks(n, out, |first, out| task.run(first, out));
}

/// `out = x W` for `x` of `[n, rows]` and weights of `[rows, columns]`, as [`product`]: `out` is `[n, columns]`. Columns of quantised weights
/// are whole tiles.
pub(crate) fn transposed_product(
    isa: Isa,
    weights: Weights<'_>,
    x: &[f32],
    [rows, columns]: [usize; 2],
    packed: &mut [f32],
    out: &mut [f32],
) {
    let n = x.len() / rows;
    pack(isa, x, rows, packed);
    let task = Task { isa, weights, columns, inner: rows, along: Along::Columns, packed, n, low: None };
    in_tasks(n, out, |first, out| task.run(first, out));
}

/// As [`product`], of quantised weights with quantised activations.
pub(crate) fn integer_product(
    isa: Isa,
    weights: Weights<'_>,
    inputs: &QuantizedActivations,
    update: Option<&Update>,
    out: &mut [f32],
) {
    let blocks = match weights {
        Weights::Blocks(blocks) => blocks,
        Weights::Strips(strips) => return strip_product(isa, strips, inputs, update, out),
        Weights::F32(_) | Weights::F16(_) | Weights::Bf16(_) => unreachable!("the weights are quantised"),
    };
    let (per_row, bits) = (inputs.per_row, blocks.bits);
    let groups = inputs.groups(bits.offset(), PACKED_INPUTS);
    // An update takes more rows at a time than a product of integers.
    let together = (isa.tile_inputs() / PACKED_INPUTS).clamp(1, MOST_TOGETHER / PACKED_INPUTS) * PACKED_INPUTS;
    let low = update.map(|update| update.low_of_groups(&groups, together, bits));
    in_tasks(inputs.codes.len() / per_row, out, |first, out| {
        let rows = out[0].len();
        let mut packed = PackedTile::new(bits, per_row * BLOCK);
        for start in (0..rows).step_by(TILE) {
            let own = start..rows.min(start + TILE);
            isa.pack(blocks.rows(first + own.start..first + own.end, per_row * BLOCK), per_row, &mut packed);
            let update = low.as_ref().map(|low| low.tile(first + own.start));
            let parts = groups.chunks(together / PACKED_INPUTS).zip(out.chunks_mut(together));
            for (index, (groups, out)) in parts.enumerate() {
                let mut products = [[0.0; TILE]; MOST_TOGETHER];
                let products = &mut products[..out.len()];
                for (inputs, products) in groups.iter().zip(products.chunks_mut(PACKED_INPUTS)) {
                    isa.packed_products(&packed, inputs, Lanes::All, products);
                }
                if let Some(update) = &update {
                    update.apply(index, products.as_flattened_mut());
                }
                for (out, products) in out.iter_mut().zip(&*products) {
                    out[own.clone()].copy_from_slice(&products[..own.len()]);
                }
            }
        }
    });
}

/// As [`integer_product`], of weights in strips, to the bit.
fn strip_product(isa: Isa, weights: Strips<'_>, inputs: &QuantizedActivations, update: Option<&Update>, out: &mut [f32]) {
    let bits = weights.bits();
    let groups = inputs.groups(bits.offset(), MAX_ROWS);
    let low = update.map(|update| {
        let groups = inputs.groups(bits.offset(), PACKED_INPUTS);
        update.low_of_groups(&groups, MOST_TOGETHER, bits)
    });
    // Weights of a part stay in a cache for all inputs.
    let part = (PART_BYTES / (inputs.per_row * bits.block_bytes())).next_multiple_of(TILE).max(TILE);
    in_tasks(inputs.codes.len() / inputs.per_row, out, |first, out| {
        let rows = out[0].len();
        for start in (0..rows).step_by(part) {
            let own = start..rows.min(start + part);
            let weights = weights.rows(first + own.start..first + own.end);
            for (inputs, out) in groups.iter().zip(out.chunks_mut(MAX_ROWS)) {
                let mut out: Vec<&mut [f32]> = out.iter_mut().map(|out| &mut out[own.clone()]).collect();
                isa.group_products((weights.memory(), Layout::Strips), SumOrder::OneAfterTheOther, inputs, &mut out);
            }
        }
        if let Some(low) = &low {
            (0..rows).step_by(TILE).for_each(|start| add_update(low, first, start, out));
        }
    });
}

/// Applies the update of the tile from output `start` on to all of `out`, a slice for each input, whose first output is number `first`.
fn add_update(low: &Low<'_>, first: usize, start: usize, out: &mut [&mut [f32]]) {
    let own = start..out[0].len().min(start + TILE);
    let update = low.tile(first + start);
    for (index, out) in out.chunks_mut(MOST_TOGETHER).enumerate() {
        let mut products = [[0.0; TILE]; MOST_TOGETHER];
        let products = &mut products[..out.len()];
        products.iter_mut().zip(&*out).for_each(|(products, out)| products[..own.len()].copy_from_slice(&out[own.clone()]));
        update.apply(index, products.as_flattened_mut());
        out.iter_mut().zip(products).for_each(|(out, products)| out[own.clone()].copy_from_slice(&products[..own.len()]));
    }
}

/// Divides the columns of `out`, `[n, rows]`, into tasks on all threads. Each calls `run` with its first column and a slice of each row.
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

/// Packs the rows of `x` for tiles, as many together as a tile takes: `[columns, inputs]` each.
pub(crate) fn pack(isa: Isa, x: &[f32], columns: usize, packed: &mut [f32]) {
    assert_eq!(packed.len(), x.len(), "all values are packed");
    let size = isa.tile_inputs() * columns;
    packed.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(packed, rows)| {
        pack_group(rows, columns, packed);
    });
}

/// As [`pack`], of the rows of one tile.
pub(crate) fn pack_group(rows: &[f32], columns: usize, packed: &mut [f32]) {
    let n = rows.len() / columns;
    for (column, packed) in packed.chunks_exact_mut(n).enumerate() {
        packed.iter_mut().zip(rows[column..].iter().step_by(columns)).for_each(|(packed, value)| *packed = *value);
    }
}

struct Task<'t> {
    isa: Isa,
    weights: Weights<'t>,
    /// Of the weights.
    columns: usize,
    /// Width of the inputs.
    inner: usize,
    along: Along,
    packed: &'t [f32],
    /// Rows of inputs.
    n: usize,
    /// Those of the update, in groups as `packed`.
    low: Option<&'t Low<'t>>,
}

/// What of the weights a tile has side by side, one for each output.
#[derive(Clone, Copy)]
enum Along {
    Rows,
    Columns,
}

impl Task<'_> {
    /// Writes the products with the rows (or columns) of weights from `first` on; `out` has a slice for each input.
    fn run(&self, first: usize, out: &mut [&mut [f32]]) {
        let rows = out[0].len();
        let together = self.isa.tile_inputs();
        let mut sums = vec![0.0; self.n * rows.next_multiple_of(TILE)];
        let (mut transposed, mut floats) = (vec![0.0; SLICE * TILE], vec![0.0; SLICE * TILE]);
        for start in (0..self.inner).step_by(SLICE) {
            let slice = start..self.inner.min(start + SLICE);
            let transposed = &mut transposed[..slice.len() * TILE];
            for (tile, sums) in sums.chunks_exact_mut(self.n * TILE).enumerate() {
                let n_rows = TILE.min(rows - tile * TILE);
                match self.along {
                    Along::Rows => self.transpose(first + tile * TILE, n_rows, slice.clone(), &mut floats, transposed),
                    Along::Columns => self.widen(first + tile * TILE, n_rows, slice.clone(), transposed),
                }
                for (inputs, sums) in self.packed.chunks(together * self.inner).zip(sums.chunks_mut(together * TILE)) {
                    let n = sums.len() / TILE;
                    self.isa.tile(transposed, &inputs[slice.start * n..slice.end * n], sums);
                }
            }
        }
        for (tile, sums) in sums.chunks_exact_mut(self.n * TILE).enumerate() {
            if let Some(update) = self.low.map(|low| low.tile(first + tile * TILE)) {
                sums.chunks_mut(together * TILE).enumerate().for_each(|(group, sums)| update.apply(group, sums));
            }
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(TILE)) {
                let out = &mut out[tile * TILE..];
                let n_rows = out.len().min(TILE);
                out[..n_rows].copy_from_slice(&sums[..n_rows]);
            }
        }
    }

    /// Transposes the columns `slice` of `n_rows` rows of weights from `first` on; `floats` is scratch memory.
    fn transpose(&self, first: usize, n_rows: usize, slice: Range<usize>, floats: &mut [f32], transposed: &mut [f32]) {
        let (columns, inner) = (self.columns, slice.len());
        let floats = &mut floats[..n_rows * inner];
        match self.weights {
            Weights::F32(values) => {
                let rows = &values[first * columns + slice.start..(first + n_rows - 1) * columns + slice.end];
                self.isa.transpose(rows, columns, inner, transposed);
            }
            Weights::F16(values) => {
                widen_rows(&values[first * columns..], columns, slice, floats);
                self.isa.transpose(floats, inner, inner, transposed);
            }
            Weights::Bf16(values) => {
                widen_rows(&values[first * columns..], columns, slice, floats);
                self.isa.transpose(floats, inner, inner, transposed);
            }
            Weights::Blocks(blocks) => {
                for (row, floats) in floats.chunks_exact_mut(inner).enumerate() {
                    let row = blocks.rows(first + row..first + row + 1, columns);
                    row.rows(slice.start / BLOCK..slice.end / BLOCK, BLOCK).dequantize(floats);
                }
                self.isa.transpose(floats, inner, inner, transposed);
            }
            Weights::Strips(strips) => {
                for (row, floats) in floats.chunks_exact_mut(inner).enumerate() {
                    strips.dequantize_row(first + row, slice.start / BLOCK..slice.end / BLOCK, floats);
                }
                self.isa.transpose(floats, inner, inner, transposed);
            }
        }
    }

    /// Copies `n` columns from `first` on of the rows `slice` into a tile, `[rows, TILE]`.
    fn widen(&self, first: usize, n: usize, slice: Range<usize>, tile: &mut [f32]) {
        let columns = self.columns;
        for (row, out) in slice.zip(tile.as_chunks_mut::<TILE>().0) {
            let own = row * columns + first..row * columns + first + n;
            match self.weights {
                Weights::F32(values) => out[..n].copy_from_slice(&values[own]),
                Weights::F16(values) => f16::widen(&values[own], &mut out[..n]),
                Weights::Bf16(values) => bf16::widen(&values[own], &mut out[..n]),
                Weights::Blocks(blocks) => {
                    let (start, end) = (own.start / BLOCK, own.end / BLOCK);
                    blocks.rows(start..end, BLOCK).dequantize(&mut out[..n]);
                }
                Weights::Strips(strips) => {
                    strips.dequantize_row(row, first / BLOCK..(first + n) / BLOCK, &mut out[..n]);
                }
            }
        }
    }
}

/// Widens the columns `slice` of the first rows of `values` into `floats`.
fn widen_rows<F: Float>(values: &[F], columns: usize, slice: Range<usize>, floats: &mut [f32]) {
    for (row, floats) in values.chunks(columns).zip(floats.chunks_exact_mut(slice.len())) {
        F::widen(&row[slice.clone()], floats);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(isa: Isa, weights: Weights<'_>, floats: &[f32], (n, rows, columns): (usize, usize, usize)) {
        let x: Vec<f32> = (0..n * columns).map(|i| ((i * i) as f32 * 0.23).sin()).collect();
        let mut out = vec![f32::NAN; n * rows];
        product(isa, (weights, columns), &x, None, &mut vec![0.0; x.len()], &mut out);
        for (i, out) in out.iter().enumerate() {
            let pairs = x[i / rows * columns..][..columns].iter().zip(&floats[i % rows * columns..][..columns]);
            let expected: f64 = pairs.map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
            assert!((f64::from(*out) - expected).abs() <= 1e-4, "{isa:?} {n} x {rows} x {columns}: {out} {expected}");
        }
    }

    fn check_transposed(isa: Isa, weights: Weights<'_>, floats: &[f32], (n, rows, columns): (usize, usize, usize)) {
        let x: Vec<f32> = (0..n * rows).map(|i| ((i * i) as f32 * 0.23).sin()).collect();
        let mut out = vec![f32::NAN; n * columns];
        transposed_product(isa, weights, &x, [rows, columns], &mut vec![0.0; x.len()], &mut out);
        for (i, out) in out.iter().enumerate() {
            let pairs = x[i / columns * rows..][..rows].iter().zip(floats[i % columns..].iter().step_by(columns));
            let expected: f64 = pairs.map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
            assert!((f64::from(*out) - expected).abs() <= 1e-3, "{isa:?} {n} x {rows} x {columns}: {out} {expected}");
        }
    }

    fn check_integer(isa: Isa, weights: Blocks<'_>, floats: &[f32], (n, rows, columns): (usize, usize, usize)) {
        let x: Vec<f32> = (0..n * columns).map(|i| ((i * i) as f32 * 0.23).sin()).collect();
        let quantized = QuantizedActivations::new(&x, columns);
        let codes = quantized.codes.iter().zip(&quantized.scales);
        let back: Vec<f32> = codes.flat_map(|(codes, scale)| codes.map(|code| f32::from(code) * scale)).collect();
        let mut out = vec![f32::NAN; n * rows];
        integer_product(isa, Weights::Blocks(weights), &quantized, None, &mut out);
        for (i, out) in out.iter().enumerate() {
            let pairs = back[i / rows * columns..][..columns].iter().zip(&floats[i % rows * columns..][..columns]);
            let expected: f64 = pairs.map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
            assert!((f64::from(*out) - expected).abs() <= 1e-4, "{isa:?} {n} x {rows} x {columns}: {out} {expected}");
        }
    }

    #[test]
    fn product_matches_f64_on_every_isa() {
        for shape in [(1, 1, 1), (17, 33, 31), (13, 100, 64), (40, 1000, 96), (25, 64, SLICE + 32), (12, 32, 2 * SLICE)] {
            let (_, rows, columns) = shape;
            let weights: Vec<f32> = (0..rows * columns).map(|i| ((i * 7 + 3) as f32 * 0.61).sin()).collect();
            for isa in Isa::all() {
                check(isa, Weights::F32(&weights), &weights, shape);
                check_transposed(isa, Weights::F32(&weights), &weights, shape);
                let narrow: Vec<f16> = weights.iter().map(|weight| f16::from_f32(*weight)).collect();
                let wide: Vec<f32> = narrow.iter().map(|weight| weight.to_f32()).collect();
                check(isa, Weights::F16(&narrow), &wide, shape);
                check_transposed(isa, Weights::F16(&narrow), &wide, shape);
                let narrow: Vec<bf16> = weights.iter().map(|weight| bf16::from_f32(*weight)).collect();
                let wide: Vec<f32> = narrow.iter().map(|weight| weight.to_f32()).collect();
                check(isa, Weights::Bf16(&narrow), &wide, shape);
                check_transposed(isa, Weights::Bf16(&narrow), &wide, shape);
                for bits in [Bits::Eight, Bits::Four].into_iter().filter(|_| columns.is_multiple_of(BLOCK)) {
                    let blocks = rows * columns / BLOCK;
                    let (mut codes, mut scales) = (vec![0; blocks * bits.block_bytes()], vec![0.0; blocks]);
                    bits.quantize(&weights, &mut codes, &mut scales);
                    let blocks = Blocks { bits, codes: &codes, scales: &scales };
                    let mut floats = vec![0.0; weights.len()];
                    blocks.dequantize(&mut floats);
                    check(isa, Weights::Blocks(blocks), &floats, shape);
                    check_transposed(isa, Weights::Blocks(blocks), &floats, shape);
                    check_integer(isa, blocks, &floats, shape);
                }
            }
        }
    }
}
