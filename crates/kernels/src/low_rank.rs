//! What adapters add to a product, `gain ∘ (W x) + B (A x)`, computed along with it.
//!
//! `A x` is small, and a task of its own would cost more than its arithmetic: with few rows of inputs, the tasks of the product compute
//! it together before they begin (`Shared`). `B` lies in tiles of outputs, and each task adds `B (A x)` to the outputs that it has just
//! written. Modules that are packed in one matrix keep their own ranks, so that no zeros are multiplied.

mod integers;

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use tandem_core::adapter::ModuleUpdate;
use tandem_core::arena::{Arena, Slab};

use self::integers::{HALF, Integers};
use crate::buffers::zeros;
use crate::float::Float;
use crate::isa::Isa;
use crate::quantize::{BLOCK, Bits};
use crate::quantized_activations::{BlockPair, RowGroup};
use crate::tiles::{Lanes, PACKED_INPUTS, TILE};

/// Values of `A` that are multiplied at a time: a microsecond's work.
const PIECE: usize = 1 << 13;

/// Columns of inputs that are transposed at a time.
const SLICE: usize = 128;

/// The update of one matrix.
pub struct Update {
    isa: Isa,
    /// The width of what the matrix reads.
    columns: usize,
    /// The factors `A` of all modules, one below the other: `[rank, columns]`.
    a: FactorA,
    /// What each row of `A x` is multiplied by: it undoes the scaling that keeps narrow factors in range. Empty for 1.
    scales: Vec<f32>,
    modules: Vec<Module>,
    /// Multiplies the product without adapters, `[rows]`.
    gain: Option<Vec<f32>>,
}

/// One module among those of a matrix.
struct Module {
    /// Its rows of the matrix.
    rows: Range<usize>,
    /// Its rows of `A`.
    ranks: Range<usize>,
    /// `[tiles, rank, TILE]`: the first tile has the first of `rows`, and zeros where it has rows of another module.
    b: FactorB,
}

/// `A` in memory.
enum FactorA {
    F32(Slab<f32>),
    /// Beside quantised weights, so that it is multiplied with inputs as these are.
    Integers(Integers),
}

/// `B` in memory.
enum FactorB {
    F32(Slab<f32>),
    /// Beside quantised weights, whose rounding is coarser by orders of magnitude.
    F16(Slab<f16>),
}

impl FactorB {
    fn new(values: &[f32], narrow: bool, arena: &Arena) -> Self {
        if !narrow {
            return Self::F32(copied(values, arena));
        }
        let mut halves = arena.zeros::<f16>(values.len());
        halves.convert_from_f32_slice(values);
        Self::F16(halves)
    }

    /// Writes `values` to `out`, which is as long.
    fn widen(&self, values: Range<usize>, out: &mut [f32]) {
        match self {
            Self::F32(all) => out.copy_from_slice(&all[values]),
            Self::F16(all) => f16::widen(&all[values], out),
        }
    }
}

impl Update {
    /// The update of a matrix of `rows` and `columns` by those of the modules at some of its rows, with the factors in `arena`, as weights are;
    /// `narrow` is for quantised weights: `A` lies in twice 8 bits and `B` in f16, else both in f32.
    ///
    /// # Panics
    /// For factors that are not of the shapes that the matrix and the rows make them.
    pub fn new(updates: Vec<(Range<usize>, ModuleUpdate)>, [rows, columns]: [usize; 2], narrow: bool, arena: &Arena) -> Self {
        let isa = Isa::current();
        let (mut a, mut scales, mut modules) = (Vec::new(), Vec::new(), Vec::new());
        let mut gain: Option<Vec<f32>> = None;
        let mut first_rank = 0;
        for (own, mut update) in updates {
            if narrow {
                scales.extend(normalize(&mut update, columns));
            }
            if let Some(gains) = update.gain {
                // Gains of the same row are both differences from 1.
                let all = gain.get_or_insert_with(|| vec![1.0; rows]);
                all[own.clone()].iter_mut().zip(gains).for_each(|(all, gain)| *all += gain - 1.0);
            }
            let b = FactorB::new(&tiles(isa, &update.b, update.rank, &own), narrow, arena);
            modules.push(Module { rows: own, ranks: first_rank..first_rank + update.rank, b });
            first_rank += update.rank;
            if a.is_empty() {
                a = update.a;
            } else {
                a.extend_from_slice(&update.a);
            }
        }
        let is_integer = narrow && columns.is_multiple_of(BLOCK);
        let a = if is_integer { FactorA::Integers(Integers::of(&a, columns, arena)) } else { FactorA::F32(copied(&a, arena)) };
        Self { isa, columns, a, scales, modules, gain }
    }

    /// Bytes of memory that its factors take.
    pub fn bytes(&self) -> usize {
        let a = match &self.a {
            FactorA::F32(values) => size_of_val(&**values),
            FactorA::Integers(integers) => integers.bytes(),
        };
        let b = self.modules.iter().map(|module| match &module.b {
            FactorB::F32(values) => size_of_val(&**values),
            FactorB::F16(values) => size_of_val(&**values),
        });
        a + b.sum::<usize>()
    }

    /// Multiplies what is added to the weights of each block, before [`Low::tile`] does so with the rest.
    pub(crate) fn gain(&self) -> Option<&[f32]> {
        self.gain.as_deref()
    }

    fn rank(&self) -> usize {
        self.modules.last().map_or(0, |module| module.ranks.end)
    }

    /// Some rows of `A`, of one part of [`HALF`], times the inputs: `[ranks, n]`.
    fn low_rows(&self, ranks: Range<usize>, inputs: Inputs<'_>, out: &mut [f32]) {
        match (&self.a, inputs) {
            (FactorA::F32(a), Inputs::Floats(x)) => {
                self.isa.products(&a[ranks.start * self.columns..ranks.end * self.columns], x, self.columns, out);
            }
            (FactorA::Integers(a), _) => {
                let mut rest = vec![0.0; out.len()];
                for (rows, out) in a.rows(ranks.clone()).into_iter().zip([&mut *out, &mut rest]) {
                    match inputs {
                        Inputs::Floats(x) => self.isa.block_products(rows, x, self.columns, out),
                        Inputs::Pairs(pairs) => self.isa.integer_products(rows, pairs, self.columns, out),
                    }
                }
                out.iter_mut().zip(rest).for_each(|(out, rest)| *out += rest);
            }
            (FactorA::F32(_), Inputs::Pairs(_)) => unreachable!("inputs are quantised beside quantised weights alone"),
        }
        if let Some(scales) = self.scales.get(ranks) {
            let n = out.len() / scales.len();
            out.chunks_exact_mut(n).zip(scales).for_each(|(out, scale)| out.iter_mut().for_each(|out| *out *= scale));
        }
    }

    /// `A x` of many rows `x`, `[n, columns]`, in groups of `size`. A row gives the same bits in any number of rows.
    pub(crate) fn low(&self, x: &[f32], size: usize) -> Low<'_> {
        let (rank, columns) = (self.rank(), self.columns);
        let n = x.len() / columns;
        let transposed = self.transposed();
        let mut by_tile = vec![0.0; n.div_ceil(TILE) * rank * TILE];
        by_tile.par_chunks_mut(rank * TILE).zip(x.par_chunks(TILE * columns)).with_max_len(1).for_each(|(sums, x)| {
            let lanes = Lanes::of(x.len() / columns);
            let mut tile = vec![0.0; SLICE.min(columns) * TILE];
            for start in (0..columns).step_by(SLICE) {
                let slice = start..columns.min(start + SLICE);
                let tile = &mut tile[..slice.len() * TILE];
                self.isa.transpose(&x[start..x.len() - (columns - slice.end)], columns, slice.len(), tile);
                for (ranks, sums) in transposed.chunks(TILE * columns).zip(sums.chunks_mut(TILE * TILE)) {
                    let ranks = &ranks[slice.start * TILE..slice.end * TILE];
                    for (i, sums) in sums.chunks_mut(self.isa.tile_inputs() * TILE).enumerate() {
                        self.isa.columns_tile(tile, &ranks[i * self.isa.tile_inputs()..], TILE, lanes, sums);
                    }
                }
            }
            for (sums, scale) in sums.chunks_exact_mut(TILE).zip(&self.scales) {
                sums.iter_mut().for_each(|sum| *sum *= scale);
            }
        });
        let mut values = vec![0.0; n * rank];
        values.par_chunks_mut(size * rank).with_min_len(8).enumerate().for_each(|(group, values)| {
            let n = values.len() / rank;
            for i in 0..n {
                let token = group * size + i;
                let sums = by_tile[token / TILE * rank * TILE + token % TILE..].iter().step_by(TILE);
                values[i..].iter_mut().step_by(n).zip(sums).for_each(|(value, sum)| *value = *sum);
            }
        });
        Low { update: self, size, values }
    }

    /// As [`low`](Self::low), of rows that are quantised for weights of `bits`, by groups of [`PACKED_INPUTS`], of which `size` rows go
    /// together. The update is one beside quantised weights.
    pub(crate) fn low_of_groups(&self, groups: &[RowGroup<'_>], size: usize, bits: Bits) -> Low<'_> {
        let rank = self.rank();
        let FactorA::Integers(a) = &self.a else { unreachable!("inputs are quantised beside quantised weights alone") };
        let tiles = a.tiles(self.isa);
        let mut values = vec![0.0; groups.iter().map(|group| group.n).sum::<usize>() * rank];
        let parts = values.par_chunks_mut(size * rank).zip(groups.par_chunks(size / PACKED_INPUTS)).with_min_len(2);
        parts.for_each(|(values, groups)| {
            let n = values.len() / rank;
            for (index, group) in groups.iter().enumerate() {
                let group = group.with_offset(bits.offset(), Bits::Eight.offset());
                for (tile, values) in tiles.iter().zip(values.chunks_mut(HALF * n)) {
                    let low = values.len() / n;
                    let mut products = [[0.0; TILE]; PACKED_INPUTS];
                    self.isa.packed_products(tile, &group, Lanes::All, &mut products[..group.n]);
                    for (rank, values) in values.chunks_exact_mut(n).enumerate() {
                        let own = &mut values[index * PACKED_INPUTS..][..group.n];
                        own.iter_mut().zip(&products).for_each(|(value, sums)| *value = sums[rank] + sums[low + rank]);
                    }
                }
            }
            for (values, scale) in values.chunks_exact_mut(n).zip(&self.scales) {
                values.iter_mut().for_each(|value| *value *= scale);
            }
        });
        Low { update: self, size, values }
    }

    /// `A` in tiles of ranks, `[tiles, columns, TILE]`.
    fn transposed(&self) -> Vec<f32> {
        let (rank, columns) = (self.rank(), self.columns);
        let mut transposed = zeros(rank.div_ceil(TILE) * columns * TILE);
        transposed.par_chunks_mut(columns * TILE).enumerate().for_each(|(tile, out)| {
            let ranks = tile * TILE..rank.min((tile + 1) * TILE);
            out.par_chunks_mut(SLICE * TILE).enumerate().for_each(|(i, out)| {
                let (start, inner) = (i * SLICE, out.len() / TILE);
                let mut rows = vec![0.0; ranks.len() * inner];
                for (rank, row) in ranks.clone().zip(rows.chunks_exact_mut(inner)) {
                    self.a.widen(rank, start, columns, row);
                }
                self.isa.transpose(&rows, inner, inner, out);
            });
        });
        transposed
    }
}

impl FactorA {
    /// Writes the values of row `rank` from column `start` on to `out`.
    fn widen(&self, rank: usize, start: usize, columns: usize, out: &mut [f32]) {
        match self {
            Self::F32(a) => out.copy_from_slice(&a[rank * columns + start..][..out.len()]),
            Self::Integers(a) => {
                let mut low = vec![0.0; out.len()];
                for (row, out) in a.rows(rank..rank + 1).into_iter().zip([&mut *out, &mut low]) {
                    row.rows(start / BLOCK..(start + out.len()) / BLOCK, BLOCK).dequantize(out);
                }
                out.iter_mut().zip(low).for_each(|(out, low)| *out += low);
            }
        }
    }
}

/// What `A` is multiplied with.
#[derive(Clone, Copy)]
pub(crate) enum Inputs<'x> {
    /// `[n, columns]`
    Floats(&'x [f32]),
    /// Quantised, for weights of [`Bits::Eight`]: `[n, pairs]`.
    Pairs(&'x [BlockPair]),
}

impl Inputs<'_> {
    /// The number of rows.
    fn n(self, columns: usize) -> usize {
        match self {
            Self::Floats(x) => x.len() / columns,
            Self::Pairs(pairs) => pairs.len() / columns.div_ceil(2 * BLOCK),
        }
    }
}

/// `A x`, by groups of rows of `x`: `[groups, rank, rows of a group]`.
pub(crate) struct Low<'u> {
    update: &'u Update,
    /// Rows of a group; the last may be smaller.
    size: usize,
    values: Vec<f32>,
}

/// The update of one tile of outputs.
pub(crate) struct TileUpdate<'l> {
    low: &'l Low<'l>,
    gain: Option<[f32; TILE]>,
    /// The ranks of the modules that have rows in it, each with `[ranks, TILE]` of `B`.
    modules: Vec<(Range<usize>, Vec<f32>)>,
}

impl Low<'_> {
    /// The update of the outputs from `first` on, a multiple of [`TILE`].
    pub(crate) fn tile(&self, first: usize) -> TileUpdate<'_> {
        let gain = self.update.gain.as_ref().map(|gain| {
            let mut own = [1.0; TILE];
            own.iter_mut().zip(&gain[first..]).for_each(|(own, gain)| *own = *gain);
            own
        });
        let modules = self.update.modules.iter().filter_map(|module| {
            let own = module.tile(first)?;
            let mut b = vec![0.0; own.len()];
            module.b.widen(own, &mut b);
            Some((module.ranks.clone(), b))
        });
        TileUpdate { low: self, gain, modules: modules.collect() }
    }
}

impl TileUpdate<'_> {
    /// Applies it to the outputs of all rows of inputs of group number `group`, `[rows, TILE]`.
    pub(crate) fn apply(&self, group: usize, sums: &mut [f32]) {
        let Low { update, size, values } = self.low;
        let n = sums.len() / TILE;
        if let Some(gain) = &self.gain {
            for sums in sums.as_chunks_mut::<TILE>().0 {
                sums.iter_mut().zip(gain).for_each(|(sum, gain)| *sum *= gain);
            }
        }
        let values = &values[group * size * update.rank()..];
        for (ranks, b) in &self.modules {
            update.isa.tile(b, &values[ranks.start * n..ranks.end * n], sums);
        }
    }
}

impl Module {
    /// Adds `B` times `low`, `[ranks]`, to the outputs from `first` on, a multiple of [`TILE`].
    fn add(&self, isa: Isa, low: &[f32], first: usize, out: &mut [f32]) {
        let begin = first.max(self.rows.start / TILE * TILE);
        let end = (first + out.len()).min(self.rows.end.next_multiple_of(TILE));
        if begin >= end {
            return;
        }
        let (whole, last) = out[begin - first..end - first].as_chunks_mut::<TILE>();
        let size = low.len() * TILE;
        let skipped = (begin - self.rows.start / TILE * TILE) / TILE;
        let add = |skipped: usize, out: &mut [f32]| {
            let own = skipped * size..skipped * size + out.len() * low.len();
            match &self.b {
                FactorB::F32(b) => isa.add_tiles(&b[own], low, out),
                FactorB::F16(b) => isa.add_tiles(&b[own], low, out),
            }
        };
        add(skipped, whole.as_flattened_mut());
        if !last.is_empty() {
            let mut padded = [0.0; TILE];
            padded[..last.len()].copy_from_slice(last);
            add(skipped + whole.len(), &mut padded);
            last.copy_from_slice(&padded[..last.len()]);
        }
    }

    /// Where `b` has the tile of the outputs from `first` on; `None` where none of them is its own.
    fn tile(&self, first: usize) -> Option<Range<usize>> {
        let is_own = first < self.rows.end && first + TILE > self.rows.start;
        let size = self.ranks.len() * TILE;
        let index = is_own.then(|| first / TILE - self.rows.start / TILE)?;
        Some(index * size..(index + 1) * size)
    }
}

/// `A x` of few rows of inputs, which the tasks of a product compute together: whichever comes takes what nobody has begun.
pub(crate) struct Shared<'u> {
    update: &'u Update,
    inputs: Inputs<'u>,
    n: usize,
    /// Ranks of a piece.
    piece: usize,
    n_pieces: usize,
    begun: AtomicUsize,
    done: AtomicUsize,
    /// The bits of `A x`, `[rank, n]`.
    values: Vec<AtomicU32>,
}

impl<'u> Shared<'u> {
    /// For up to [`MAX_ROWS`](crate::tiles::MAX_ROWS) rows of inputs.
    pub(crate) fn new(update: &'u Update, inputs: Inputs<'u>) -> Self {
        let (rank, n) = (update.rank(), inputs.n(update.columns));
        // Pieces do not cross the parts of `A`.
        let piece = 1 << (PIECE / (n * update.columns)).clamp(1, HALF).ilog2();
        let values = (0..rank * n).map(|_| AtomicU32::new(0)).collect();
        Self { update, inputs, n, piece, n_pieces: rank.div_ceil(piece), begun: 0.into(), done: 0.into(), values }
    }

    /// Computes pieces until all are begun.
    pub(crate) fn compute(&self) {
        loop {
            // Each task looks here; most come when there is nothing left.
            let index = match self.begun.load(Ordering::Relaxed) {
                begun if begun >= self.n_pieces => return,
                _ => self.begun.fetch_add(1, Ordering::Relaxed),
            };
            if index >= self.n_pieces {
                return;
            }
            let ranks = index * self.piece..self.update.rank().min((index + 1) * self.piece);
            let own = &self.values[ranks.start * self.n..ranks.end * self.n];
            let mut out = vec![0.0; own.len()];
            self.update.low_rows(ranks, self.inputs, &mut out);
            own.iter().zip(out).for_each(|(own, value)| own.store(value.to_bits(), Ordering::Relaxed));
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// Applies the update to some outputs, `[rows, n]`, of which the first is a multiple of [`TILE`]. Another task may still compute the last
    /// piece, which takes it a microsecond.
    pub(crate) fn apply(&self, rows: &Range<usize>, out: &mut [f32]) {
        let mut waited = 0_usize;
        while self.done.load(Ordering::Acquire) < self.n_pieces {
            waited += 1;
            if waited.is_multiple_of(1000) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let values: Vec<f32> = self.values.iter().map(|value| f32::from_bits(value.load(Ordering::Relaxed))).collect();
        let (n, update) = (self.n, self.update);
        if let Some(gain) = &update.gain {
            let gains = &gain[rows.clone()];
            out.chunks_exact_mut(n).zip(gains).for_each(|(out, gain)| out.iter_mut().for_each(|out| *out *= gain));
        }
        for module in &update.modules {
            let low = &values[module.ranks.start * n..module.ranks.end * n];
            if n == 1 {
                module.add(update.isa, low, rows.start, out);
                continue;
            }
            // One input after the other, as alone, so that each has the same bits.
            let mut column = vec![0.0; rows.len()];
            for input in 0..n {
                let low: Vec<f32> = low[input..].iter().step_by(n).copied().collect();
                column.iter_mut().zip(out[input..].iter().step_by(n)).for_each(|(own, out)| *own = *out);
                module.add(update.isa, &low, rows.start, &mut column);
                out[input..].iter_mut().step_by(n).zip(&column).for_each(|(out, own)| *out = *own);
            }
        }
    }
}

/// `b`, `[rows, rank]`, in the tiles of a matrix in which it has the rows `own`: `[tiles, rank, TILE]`.
fn tiles(isa: Isa, b: &[f32], rank: usize, own: &Range<usize>) -> Vec<f32> {
    let first = own.start / TILE;
    let mut tiles = vec![0.0; (own.end.div_ceil(TILE) - first) * rank * TILE];
    for (tile, out) in tiles.chunks_exact_mut(rank * TILE).enumerate() {
        let start = (first + tile) * TILE;
        let rows = start.max(own.start)..own.end.min(start + TILE);
        let values = &b[(rows.start - own.start) * rank..(rows.end - own.start) * rank];
        if rows.start == start {
            isa.transpose(values, rank, rank, out);
            continue;
        }
        for (row, values) in rows.zip(values.chunks_exact(rank)) {
            out[row - start..].iter_mut().step_by(TILE).zip(values).for_each(|(out, value)| *out = *value);
        }
    }
    tiles
}

/// `values` in `arena`.
fn copied(values: &[f32], arena: &Arena) -> Slab<f32> {
    let mut copy = arena.zeros(values.len());
    copy.copy_from_slice(values);
    copy
}

/// Scales each row of `A` and column of `B` by a power of two to a largest value of about 1, and returns what undoes it.
fn normalize(update: &mut ModuleUpdate, columns: usize) -> Vec<f32> {
    let power = |largest: f32| if largest > 0.0 { largest.log2().ceil().clamp(-60.0, 60.0).exp2() } else { 1.0 };
    let mut of_b = vec![0.0_f32; update.rank];
    for row in update.b.chunks_exact(update.rank) {
        of_b.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(value.abs()));
    }
    of_b.iter_mut().for_each(|largest| *largest = power(*largest));
    for row in update.b.chunks_exact_mut(update.rank) {
        row.iter_mut().zip(&of_b).for_each(|(value, power)| *value /= power);
    }
    let of_a = update.a.chunks_exact_mut(columns).map(|a| {
        let power = power(a.iter().fold(0.0, |most, value| value.abs().max(most)));
        a.iter_mut().for_each(|value| *value /= power);
        power
    });
    of_a.zip(of_b).map(|(of_a, of_b)| of_a * of_b).collect()
}

#[cfg(test)]
mod tests;
