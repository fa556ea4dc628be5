//! Weight matrices and their products: a few rows of inputs are multiplied by kernels that read each weight once, divided among all
//! threads; many rows go through tiles.
//!
//! With fast numerics, products with quantised weights quantise the inputs first where the instruction set makes that faster.

mod choice;
mod integers;
mod together;

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use tandem_core::DType;
use tandem_core::arena::{Arena, Slab};
use tandem_core::backend::Numerics;

pub use self::choice::{Kernels, RowRun};
use self::integers::FewIntegers;
pub use self::together::{ProductPart, write_products};
use crate::buffers::{scratch_slice, zeros};
use crate::float::Float;
use crate::isa::Isa;
use crate::low_rank::{Inputs, Shared, Update};
pub use crate::product::Weights;
use crate::product::{integer_product, product, transposed_product};
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::QuantizedActivations;
use crate::strips::{self, Layout, STRIP, Strips};
use crate::tiles::{MAX_ROWS, TILE};

/// The least number of weights of a task.
const MIN_TASK_WEIGHTS: usize = 1 << 15;

/// Bytes of weights of a task: few enough that threads do not wait long for the last one, some five microseconds.
const TASK_BYTES: usize = 256 << 10;

/// What is added to a product.
#[derive(Clone, Copy, Default)]
pub struct Terms<'t> {
    /// `[rows]` of the matrix, one for each output.
    pub bias: Option<&'t [f32]>,
    /// Before the bias.
    pub update: Option<&'t Update>,
}

/// A weight matrix that owns its weights, `[rows, columns]`, with one row for each output.
pub struct Matrix {
    stored: Stored,
    /// `[rows, columns / BLOCK]`
    offsets: Option<Slab<f32>>,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Whether products with quantised weights may quantise their inputs.
    numerics: Numerics,
}

/// Weights in memory, see [`Weights`].
pub enum Stored {
    /// Row-major, like the next two.
    F32(Slab<f32>),
    /// IEEE half precision.
    F16(Slab<f16>),
    /// The upper half of an f32.
    Bf16(Slab<bf16>),
    /// See [`Blocks`].
    Blocks {
        /// Bits of a weight.
        bits: Bits,
        /// `[rows, columns / BLOCK, bits.block_bytes()]`
        codes: Slab<u8>,
        /// `[rows, columns / BLOCK]`
        scales: Slab<f32>,
    },
    /// See [`Strips`]: what [`arranged`](Self::arranged) makes of blocks.
    Strips {
        /// Bits of a weight.
        bits: Bits,
        /// In all as many as of blocks.
        codes: Slab<u8>,
        /// In all as many as of blocks.
        scales: Slab<f32>,
    },
}

impl Stored {
    /// `n` floats in `arena`: for f16 and bf16 `halves` writes their bits, for any other `dtype` `floats` writes f32.
    pub fn floats(
        dtype: DType,
        arena: &Arena,
        n: usize,
        halves: impl FnOnce(&mut [u16]),
        floats: impl FnOnce(&mut [f32]),
    ) -> Self {
        match dtype {
            DType::F16 => {
                let mut values = arena.zeros::<f16>(n);
                halves(values.reinterpret_cast_mut());
                Self::F16(values)
            }
            DType::Bf16 => {
                let mut values = arena.zeros::<bf16>(n);
                halves(values.reinterpret_cast_mut());
                Self::Bf16(values)
            }
            _ => {
                let mut values = arena.zeros(n);
                floats(&mut values);
                Self::F32(values)
            }
        }
    }

    /// Quantised weights that lie as `layout` says.
    pub fn quantized(layout: Layout, bits: Bits, codes: Slab<u8>, scales: Slab<f32>) -> Self {
        match layout {
            Layout::Rows => Self::Blocks { bits, codes, scales },
            Layout::Strips => Self::Strips { bits, codes, scales },
        }
    }

    /// Weights of rows of `columns`; quantised ones lie as `layout` says, unless they are in strips already.
    #[must_use]
    pub fn arranged(self, columns: usize, layout: Layout) -> Self {
        match self {
            Self::Blocks { bits, mut codes, mut scales } if layout == Layout::Strips => {
                strips::interleave(bits, &mut codes, &mut scales, columns);
                Self::Strips { bits, codes, scales }
            }
            other => other,
        }
    }

    fn weights(&self, columns: usize) -> Weights<'_> {
        match self {
            Self::F32(values) => Weights::F32(values),
            Self::F16(values) => Weights::F16(values),
            Self::Bf16(values) => Weights::Bf16(values),
            Self::Blocks { bits, codes, scales } => Weights::Blocks(Blocks { bits: *bits, codes, scales }),
            Self::Strips { bits, codes, scales } => Weights::Strips(Strips::new(*bits, codes, scales, columns)),
        }
    }
}

impl Matrix {
    /// A matrix of `stored`, row-major; for quantised weights, `columns` must be whole blocks.
    ///
    /// # Panics
    /// For another number of weights.
    pub fn new(stored: Stored, rows: usize, columns: usize, numerics: Numerics) -> Self {
        Self::on(Isa::current(), stored, [rows, columns], numerics)
    }

    /// As [`new`](Self::new), for an instruction set of this processor.
    fn on(isa: Isa, stored: Stored, [rows, columns]: [usize; 2], numerics: Numerics) -> Self {
        stored.weights(columns).check([rows, columns]);
        Self { stored: stored.arranged(columns, Layout::on(isa, numerics)), offsets: None, rows, columns, numerics }
    }

    /// The same with `offsets`, `[rows, columns / BLOCK]`, added to the weights of each block.
    #[must_use]
    pub fn with_offsets(self, offsets: Slab<f32>) -> Self {
        assert_eq!(offsets.len() * BLOCK, self.rows * self.columns, "each block has its offset");
        Self { offsets: Some(offsets), ..self }
    }

    /// The dtype of its weights in memory.
    pub fn dtype(&self) -> DType {
        self.weights().dtype()
    }

    /// Its weights.
    pub fn weights(&self) -> Weights<'_> {
        self.stored.weights(self.columns)
    }

    /// Whether something is added to the weights of each block.
    pub fn has_offsets(&self) -> bool {
        self.offsets.is_some()
    }

    /// What is computed with it.
    pub fn view(&self) -> MatrixView<'_> {
        MatrixView {
            weights: self.weights(),
            offsets: self.offsets.as_deref(),
            rows: self.rows,
            columns: self.columns,
            isa: Isa::current(),
            numerics: self.numerics,
        }
    }
}

/// A weight matrix whose weights lie elsewhere, `[rows, columns]`, with one row for each output.
#[derive(Clone, Copy)]
pub struct MatrixView<'m> {
    weights: Weights<'m>,
    /// An offset for the weights of each block, `[rows, columns / BLOCK]`: a matrix that is multiplied with the sums of inputs.
    offsets: Option<&'m [f32]>,
    rows: usize,
    columns: usize,
    isa: Isa,
    numerics: Numerics,
}

impl<'m> MatrixView<'m> {
    /// Of `weights`, `[rows, columns]`; for quantised weights, `columns` must be whole blocks. With [`Numerics::Fast`] products with
    /// quantised weights may quantise their inputs.
    ///
    /// # Panics
    /// For another number of weights.
    pub fn new(weights: Weights<'m>, [rows, columns]: [usize; 2], numerics: Numerics) -> Self {
        weights.check([rows, columns]);
        Self { weights, offsets: None, rows, columns, isa: Isa::current(), numerics }
    }

    /// The same with `offsets`, `[rows, columns / BLOCK]`, added to the weights of each block.
    ///
    /// # Panics
    /// For another number of offsets.
    #[must_use]
    pub fn with_offsets(self, offsets: &'m [f32]) -> Self {
        assert_eq!(offsets.len() * BLOCK, self.rows * self.columns, "each block has its offset");
        Self { offsets: Some(offsets), ..self }
    }

    /// The same on another instruction set of this processor.
    #[must_use]
    pub(crate) fn on(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// The number of outputs.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// The number of inputs.
    pub fn columns(self) -> usize {
        self.columns
    }

    /// Writes the rows numbered `ids`, widened, to `out`, `[ids.len(), columns]`, on the calling thread.
    ///
    /// # Panics
    /// For a row that the matrix lacks.
    pub fn select(self, ids: &[u32], out: &mut [f32]) {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.columns)) {
            let id = id as usize;
            let own = id * self.columns..(id + 1) * self.columns;
            match self.weights {
                Weights::F32(values) => f32::widen(&values[own], out),
                Weights::F16(values) => f16::widen(&values[own], out),
                Weights::Bf16(values) => bf16::widen(&values[own], out),
                Weights::Blocks(blocks) => blocks.rows(id..id + 1, self.columns).dequantize(out),
                Weights::Strips(strips) => strips.dequantize_row(id, 0..self.columns / BLOCK, out),
            }
            if let Some(offsets) = self.offsets {
                let per_row = self.columns / BLOCK;
                let blocks = out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&offsets[id * per_row..]);
                blocks.for_each(|(block, offset)| block.iter_mut().for_each(|out| *out += offset));
            }
        }
    }

    /// Calls `each` with the rows `rows`, widened, one after the other.
    pub fn each_row(self, rows: Range<usize>, each: &mut dyn FnMut(&[f32])) {
        let mut row = vec![0.0; self.columns];
        for id in rows.start as u32..rows.end as u32 {
            self.select(&[id], &mut row);
            each(&row);
        }
    }

    /// `x Wᵀ` of whole rows `x`, `[n, columns]`, and what is added to it: `[n, rows]`.
    pub fn product(self, x: &[f32], terms: Terms<'_>, kernels: Kernels) -> Vec<f32> {
        let mut out = zeros(x.len() / self.columns * self.rows);
        self.write_product(x, terms, kernels, &mut Vec::new(), &mut out);
        out
    }

    /// As [`product`](Self::product), into `out`; `packed` is scratch memory that grows if necessary.
    ///
    /// # Panics
    /// For `x`, `out` and a bias of other lengths.
    pub fn write_product(self, x: &[f32], terms: Terms<'_>, kernels: Kernels, packed: &mut Vec<f32>, out: &mut [f32]) {
        let update = terms.update;
        let (columns, n) = (self.columns, x.len() / self.columns);
        assert!(x.len() == n * columns && out.len() == n * self.rows, "inputs and outputs are whole rows, and as many");
        if n == 0 {
            return;
        }
        let chosen_for = kernels.rows(n);
        match self.weights {
            weights if self.integer_bits().is_some() => {
                let inputs = QuantizedActivations::new(x, columns);
                match chosen_for <= MAX_ROWS {
                    true => self.write_integers_of_few(&inputs, update, out),
                    false => integer_product(self.isa, weights, &inputs, update, out),
                }
            }
            _ if chosen_for <= MAX_ROWS => {
                for (x, out) in x.chunks(MAX_ROWS * columns).zip(out.chunks_mut(MAX_ROWS * self.rows)) {
                    let low = update.map(|update| Shared::new(update, Inputs::Floats(x)));
                    self.product_of_few(x.len() / columns, low.as_ref(), out, |rows, out| self.products_of_few(rows, x, out));
                }
            }
            weights => product(self.isa, (weights, columns), x, update, scratch_slice(packed, x.len()), out),
        }
        self.add_terms(x, terms, kernels, out);
    }

    /// The products of up to [`MAX_ROWS`] rows `x` with some rows of weights, `[rows, n]`.
    fn products_of_few(self, rows: Range<usize>, x: &[f32], out: &mut [f32]) {
        let columns = self.columns;
        let own = rows.start * columns..rows.end * columns;
        match self.weights {
            Weights::F32(values) => self.isa.products(&values[own], x, columns, out),
            Weights::F16(values) => self.isa.products(&values[own], x, columns, out),
            Weights::Bf16(values) => self.isa.products(&values[own], x, columns, out),
            Weights::Blocks(blocks) => self.isa.block_products(blocks.rows(rows, columns), x, columns, out),
            Weights::Strips(_) => unreachable!("strips are multiplied with quantised inputs"),
        }
    }

    /// Adds to `out` what is not part of the product itself: offsets and bias.
    fn add_terms(self, x: &[f32], Terms { bias, update }: Terms<'_>, kernels: Kernels, out: &mut [f32]) {
        self.add_offsets(x, update, kernels, out);
        if let Some(bias) = bias {
            assert_eq!(bias.len(), self.rows, "each output has its bias");
            for row in out.chunks_exact_mut(self.rows) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }

    /// As [`write_product`](Self::write_product), where the kernels of each of `runs` of rows are chosen by themselves.
    ///
    /// # Panics
    /// As [`write_product`](Self::write_product), and for runs that are not all rows.
    pub fn write_products(self, x: &[f32], terms: Terms<'_>, runs: &[RowRun], packed: &mut Vec<f32>, out: &mut [f32]) {
        let (mut x, mut out) = (x, out);
        for run in runs {
            let (own, rest) = x.split_at(run.n_rows * self.columns);
            let (own_out, rest_out) = out.split_at_mut(run.n_rows * self.rows);
            self.write_product(own, terms, run.kernels, packed, own_out);
            (x, out) = (rest, rest_out);
        }
        assert!(x.is_empty() && out.is_empty(), "every row is of a run");
    }

    /// Adds the products of the offsets with the sums of the blocks of `x` to `out`.
    fn add_offsets(self, x: &[f32], update: Option<&Update>, kernels: Kernels, out: &mut [f32]) {
        let Some(offsets) = self.offsets else { return };
        let sums: Vec<f32> = x.as_chunks::<BLOCK>().0.iter().map(|block| block.iter().sum()).collect();
        let offsets = Self { weights: Weights::F32(offsets), offsets: None, columns: self.columns / BLOCK, ..self };
        let products = offsets.product(&sums, Terms::default(), kernels);
        for (out, products) in out.chunks_exact_mut(self.rows).zip(products.chunks_exact(self.rows)) {
            match update.and_then(Update::gain) {
                None => out.iter_mut().zip(products).for_each(|(out, product)| *out += product),
                Some(gain) => {
                    out.iter_mut().zip(products).zip(gain).for_each(|((out, product), gain)| *out += gain * product);
                }
            }
        }
    }

    /// `x W` of whole rows `x`, `[n, rows]`: `[n, columns]`. The inputs stay floats.
    ///
    /// # Panics
    /// For weights with offsets.
    pub fn transposed_product(self, x: &[f32]) -> Vec<f32> {
        assert!(self.offsets.is_none(), "weights with offsets are not multiplied from the left");
        let mut out = zeros(x.len() / self.rows * self.columns);
        let mut packed = zeros(x.len());
        transposed_product(self.isa, self.weights, x, [self.rows, self.columns], &mut packed, &mut out);
        out
    }

    /// As [`write_product`](Self::write_product) with the kernels of a few rows, with quantised activations.
    fn write_integers_of_few(self, inputs: &QuantizedActivations, update: Option<&Update>, out: &mut [f32]) {
        let per_row = self.columns.div_ceil(2 * BLOCK);
        let of_update = update.map(|_| inputs.pairs(Bits::Eight.offset()));
        for (i, out) in out.chunks_mut(MAX_ROWS * self.rows).enumerate() {
            let (first, n) = (i * MAX_ROWS, out.len() / self.rows);
            let of_update = of_update.as_deref().map(|all| &all[first * per_row..(first + n) * per_row]);
            let low = update.zip(of_update).map(|(update, pairs)| Shared::new(update, Inputs::Pairs(pairs)));
            match self.few_integers(inputs, first..first + n) {
                FewIntegers::Pairs(pairs) => {
                    self.product_of_few(n, low.as_ref(), out, |rows, out| self.products_of_pairs(rows, &pairs, out));
                }
                FewIntegers::Group(group) => self.in_parts(low.as_ref(), STRIP, out, |rows, out| {
                    self.products_of_group(rows.clone(), &group, out);
                    if let Some(low) = &low {
                        let mut turned: Vec<f32> = (0..rows.len()).flat_map(|row| out.iter().map(move |out| out[row])).collect();
                        low.apply(&rows, &mut turned);
                        scatter(&turned, out);
                    }
                }),
            }
        }
    }

    /// Rows of a task, whole units of `unit`: of a few numbers of tasks, the first with which threads hardly wait
    /// for the last one, or that with which they wait the least.
    fn task_rows(self, unit: usize) -> usize {
        let threads = rayon::current_num_threads();
        let units = self.rows.div_ceil(unit);
        let least = MIN_TASK_WEIGHTS.div_ceil(self.columns * unit);
        let tasks = (4 * threads).max(self.weights.bytes() / TASK_BYTES).next_multiple_of(threads);
        let mut shares = (0..4).map(|more| units.div_ceil(tasks + more * threads).max(least));
        let longest = |share: usize| units.div_ceil(share).div_ceil(threads) * share;
        let good = 31 * units / (30 * threads);
        let best = shares.clone().min_by_key(|share| longest(*share)).unwrap_or(units);
        shares.find(|share| longest(*share) <= good).unwrap_or(best) * unit
    }

    /// The product of `n` rows, up to [`MAX_ROWS`], with the update of `low`: each task calls `products` for some rows of weights, `[rows, n]`.
    fn product_of_few(
        self,
        n: usize,
        low: Option<&Shared<'_>>,
        out: &mut [f32],
        products: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let compute = |rows: Range<usize>, out: &mut [f32]| {
            products(rows.clone(), out);
            if let Some(low) = low {
                low.apply(&rows, out);
            }
        };
        self.in_parts(low, 4, out, |rows, out| match out {
            [out] => compute(rows, out),
            _ => {
                let mut turned = vec![0.0; rows.len() * n];
                compute(rows, &mut turned);
                scatter(&turned, out);
            }
        });
    }

    /// Divides the columns of `out`, `[n, rows]`, into tasks of whole `unit`s; each calls `products` with its rows of weights and its part of
    /// each row of `out`. What the update of `low` needs is computed before.
    fn in_parts(
        self,
        low: Option<&Shared<'_>>,
        unit: usize,
        out: &mut [f32],
        products: impl Fn(Range<usize>, &mut [&mut [f32]]) + Sync,
    ) {
        // Tasks have whole tiles of the update.
        let share = self.task_rows(if low.is_some() { TILE } else { unit });
        let n = out.len() / self.rows;
        let mut parts: Vec<Vec<&mut [f32]>> = (0..self.rows.div_ceil(share)).map(|_| Vec::with_capacity(n)).collect();
        for row in out.chunks_exact_mut(self.rows) {
            parts.iter_mut().zip(row.chunks_mut(share)).for_each(|(part, own)| part.push(own));
        }
        parts.into_par_iter().with_max_len(1).enumerate().for_each(|(i, mut out)| {
            if let Some(low) = low {
                low.compute();
            }
            products(i * share..i * share + out[0].len(), &mut out);
        });
    }
}

/// Writes `turned`, `[rows, n]`, to `out`, a slice for each of `n`.
fn scatter(turned: &[f32], out: &mut [&mut [f32]]) {
    let n = out.len();
    for (i, out) in out.iter_mut().enumerate() {
        out.iter_mut().zip(turned[i..].iter().step_by(n)).for_each(|(out, value)| *out = *value);
    }
}

#[cfg(test)]
mod tests;
