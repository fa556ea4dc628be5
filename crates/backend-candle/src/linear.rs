//! Linear layers and their weights: a few rows of inputs are multiplied by kernels that read each weight once, divided among all threads;
//! many rows go through tiles.
//!
//! With fast numerics, products with quantised weights quantise the inputs first where the instruction set makes that faster.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use tandem_core::DType;
use tandem_core::adapter::{AdapterSum, ModuleParts, ModuleUpdate};
use tandem_core::arena::{Arena, Slab};
use tandem_core::backend::{Numerics, Stage};

use crate::decoder::Activation;
use crate::elementwise::{self, GateActivation};
use crate::error::Doing;
use crate::float::Float;
use crate::kernel::{Isa, MAX_ROWS, PACKED_INPUTS, TILE};
use crate::low_rank::{Shared, Update};
use crate::product::{Weights, integer_product, product, transposed_product};
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::QuantizedActivations;
use crate::values::{Values, tensor, zeros};

/// The most rows of inputs that are multiplied eight at a time, rather than with weights transposed into tiles.
const FEW_ROWS: usize = 16;

/// The least number of weights of a task.
const MIN_TASK_WEIGHTS: usize = 1 << 15;

/// Bytes of weights of a task: few enough that threads do not wait long for the last one, some ten microseconds.
const TASK_BYTES: usize = 512 << 10;

/// How the kernels of products are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// By the number of rows of inputs, the fastest for that. Results differ in the last bits.
    Fastest,
    /// The same for any number of rows: a row gives the same bits, whatever it shares a product with.
    ByShape,
}

/// A projection: `x Wᵀ + b`. Copies share their weights.
#[derive(Clone)]
pub(crate) struct Linear {
    /// `[outputs, inputs]`
    pub(crate) weights: Arc<Matrix>,
    /// `[outputs]`
    pub(crate) bias: Option<Arc<[f32]>>,
    pub(crate) modules: Modules,
    /// That of the adapters.
    update: Option<Arc<Update>>,
}

/// The names of modules as adapters give them, and which outputs each has. Those that are packed in one matrix are there by themselves and
/// as one, as checkpoints of other families have them.
pub(crate) type Modules = Arc<[(String, Range<usize>)]>;

impl Linear {
    /// Without adapters.
    pub(crate) fn new(weights: Arc<Matrix>, bias: Option<Arc<[f32]>>, modules: Modules) -> Self {
        Self { weights, bias, modules, update: None }
    }

    /// Applies it to `x`, `[rows, inputs]`: `[rows, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor, kernels: Kernels) -> Result<Tensor> {
        self.weights.product(x, self.terms(), kernels)
    }

    /// Takes what `adapters` have for its modules.
    ///
    /// # Errors
    /// Those of [`AdapterSum::take_parts`].
    pub(crate) fn take_parts<'a>(&self, adapters: &mut AdapterSum<'a>) -> tandem_core::Result<Vec<PartsAt<'a>>> {
        take_parts(adapters, &self.modules, self.weights.columns)
    }

    /// Applies `parts`.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub(crate) fn adapt(&mut self, parts: &[PartsAt<'_>]) -> tandem_core::Result<()> {
        let Matrix { rows, columns, .. } = *self.weights;
        let weights = &self.weights;
        let mut read = |range: Range<usize>, each: &mut dyn FnMut(&[f32])| Ok(weights.each_row(range, each).doing(READING)?);
        let updates = updates(parts, &mut read)?;
        let narrow = matches!(weights.stored, Stored::Blocks { .. });
        self.update = (!updates.is_empty()).then(|| Arc::new(Update::new(updates, [rows, columns], narrow)));
        Ok(())
    }

    /// As [`forward`](Self::forward), of whole rows `x`.
    pub(crate) fn product_of(&self, x: &[f32], kernels: Kernels) -> Result<Vec<f32>> {
        self.weights.product_of(x, self.terms(), kernels)
    }

    fn terms(&self) -> Terms<'_> {
        Terms { bias: self.bias.as_deref(), update: self.update.as_deref() }
    }
}

const READING: &str = "to read the weights that an adapter changes";

/// Calls the function that it is given with some rows of a weight.
pub(crate) type ReadRows<'r> = dyn FnMut(Range<usize>, &mut dyn FnMut(&[f32])) -> tandem_core::Result<()> + 'r;

/// What adapters have for some rows of a matrix.
pub(crate) type PartsAt<'a> = (Range<usize>, ModuleParts<'a>);

/// What `adapters` have for `modules` of one matrix, whose rows are `columns` long.
///
/// # Errors
/// Those of [`AdapterSum::take_parts`].
pub(crate) fn take_parts<'a>(
    adapters: &mut AdapterSum<'a>,
    modules: &[(String, Range<usize>)],
    columns: usize,
) -> tandem_core::Result<Vec<PartsAt<'a>>> {
    let mut all = Vec::new();
    for (name, rows) in modules {
        let parts = adapters.take_parts(name, [rows.len(), columns])?;
        all.extend(parts.map(|parts| (rows.clone(), parts)));
    }
    Ok(all)
}

/// The updates of `parts` of a matrix, which `read` reads.
///
/// # Errors
/// Those of `read`.
pub(crate) fn updates(parts: &[PartsAt<'_>], read: &mut ReadRows<'_>) -> tandem_core::Result<Vec<(Range<usize>, ModuleUpdate)>> {
    let mut updates = Vec::with_capacity(parts.len());
    for (rows, parts) in parts {
        updates.push((rows.clone(), parts.update(&mut |each| read(rows.clone(), each))?));
    }
    Ok(updates)
}

/// What is added to a product.
#[derive(Clone, Copy, Default)]
struct Terms<'t> {
    /// `[outputs]`
    bias: Option<&'t [f32]>,
    /// Before the bias.
    update: Option<&'t Update>,
}

/// Scratch buffers between the two products of an MLP, reused by successive forward passes, since the system has to allocate and clear
/// new memory first.
#[derive(Default)]
pub(crate) struct ScratchPool(Mutex<Vec<Scratch>>);

#[derive(Default)]
struct Scratch {
    /// `[n, 2 * intermediate_size]`
    gate_up: Vec<f32>,
    /// `[n, intermediate_size]`
    gated: Vec<f32>,
    packed: Vec<f32>,
}

/// Receives an activation, `[n, width]`, and its width.
pub(crate) type OnActivation<'s> = dyn FnMut(Activation, &[f32], usize) -> Result<()> + 's;

impl ScratchPool {
    /// `down(activation(gate(x)) * up(x))` of `x`, `[n, hidden_size]`. `observe` receives the activations in between.
    pub(crate) fn mlp(
        &self,
        gate_up: &Linear,
        activation: GateActivation,
        down: &Linear,
        x: &Tensor,
        kernels: Kernels,
        observe: &mut OnActivation<'_>,
    ) -> Result<Tensor> {
        let (n, columns) = x.dims2()?;
        let width = down.weights.columns;
        if columns != gate_up.weights.columns || gate_up.weights.rows != 2 * width {
            candle_core::bail!("an MLP of {} and {width} columns cannot take {columns} inputs", gate_up.weights.rows);
        }
        let pool = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Concurrent sessions take one each.
        let mut own = pool().pop().unwrap_or_default();
        let both = scratch_slice(&mut own.gate_up, 2 * n * width);
        gate_up.weights.write_product(&Values::of(x)?, gate_up.terms(), kernels, &mut own.packed, both)?;
        observe(Activation::GateUp, both, 2 * width)?;
        let gated = scratch_slice(&mut own.gated, n * width);
        elementwise::gated(activation, both, width, gated);
        observe(Activation::Stage(Stage::Activation), gated, width)?;
        let mut out = zeros(n * down.weights.rows);
        down.weights.write_product(gated, down.terms(), kernels, &mut own.packed, &mut out)?;
        pool().push(own);
        tensor(out, (n, down.weights.rows))
    }
}

/// The first `n` values of `values`, which grows if necessary; their contents are left over from earlier uses.
fn scratch_slice(values: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if values.len() < n {
        *values = zeros(n);
    }
    &mut values[..n]
}

/// A weight matrix, `[rows, columns]`, with one row for each output.
pub(crate) struct Matrix {
    stored: Stored,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    isa: Isa,
    /// Whether products with quantised weights may quantise their inputs.
    numerics: Numerics,
    /// An offset for the weights of each block, `[rows, columns / BLOCK]`: a matrix that is multiplied with the sums of inputs.
    offsets: Option<Box<Matrix>>,
}

/// Weights in memory, see [`Weights`].
pub(crate) enum Stored {
    F32(Slab<f32>),
    F16(Slab<f16>),
    Bf16(Slab<bf16>),
    /// See [`Blocks`].
    Blocks {
        bits: Bits,
        codes: Slab<u8>,
        scales: Slab<f32>,
    },
}

impl Stored {
    /// `n` floats in `arena`: for f16 and bf16 `halves` writes their bits, for any other `dtype` `floats` writes f32.
    pub(crate) fn floats(
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

    fn weights(&self) -> Weights<'_> {
        match self {
            Self::F32(values) => Weights::F32(values),
            Self::F16(values) => Weights::F16(values),
            Self::Bf16(values) => Weights::Bf16(values),
            Self::Blocks { bits, codes, scales } => Weights::Blocks(Blocks { bits: *bits, codes, scales }),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
            Self::Blocks { bits: Bits::Eight, .. } => DType::Int8,
            Self::Blocks { bits: Bits::Four, .. } => DType::Int4,
        }
    }
}

impl Matrix {
    /// A matrix of `stored`, row-major; for quantised weights, `columns` must be whole blocks.
    pub(crate) fn new(stored: Stored, rows: usize, columns: usize, numerics: Numerics) -> Self {
        Self { stored, rows, columns, isa: Isa::current(), numerics, offsets: None }
    }

    /// The same with `offsets`, `[rows, columns / BLOCK]`, added to the weights of each block.
    pub(crate) fn with_offsets(self, offsets: Slab<f32>) -> Self {
        let offsets = Self { stored: Stored::F32(offsets), columns: self.columns / BLOCK, offsets: None, ..self };
        Self { offsets: Some(Box::new(offsets)), ..self }
    }

    /// The dtype of its weights in memory.
    pub(crate) fn dtype(&self) -> DType {
        self.stored.dtype()
    }

    /// The weights as a tensor, `[rows, columns]`.
    ///
    /// # Errors
    /// When they are quantised.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        let shape = (self.rows, self.columns);
        match &self.stored {
            Stored::F32(values) => Tensor::from_slice(values, shape, &Device::Cpu),
            Stored::F16(values) => Tensor::from_slice(values, shape, &Device::Cpu),
            Stored::Bf16(values) => Tensor::from_slice(values, shape, &Device::Cpu),
            Stored::Blocks { .. } => candle_core::bail!("quantised weights cannot be moved from the processor"),
        }
    }

    /// The rows numbered `ids`: `[ids.len(), columns]`.
    pub(crate) fn select(&self, ids: &[u32]) -> Result<Tensor> {
        let mut out = vec![0.0; ids.len() * self.columns];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.columns)) {
            let id = id as usize;
            let own = id * self.columns..(id + 1) * self.columns;
            match self.stored.weights() {
                Weights::F32(values) => f32::widen(&values[own], out),
                Weights::F16(values) => f16::widen(&values[own], out),
                Weights::Bf16(values) => bf16::widen(&values[own], out),
                Weights::Blocks(blocks) => blocks.rows(id..id + 1, self.columns).dequantize(out),
            }
        }
        if let Some(offsets) = &self.offsets {
            let offsets = offsets.select(ids)?;
            let blocks = out.as_chunks_mut::<BLOCK>().0.iter_mut();
            blocks.zip(&*Values::of(&offsets)?).for_each(|(block, offset)| block.iter_mut().for_each(|out| *out += offset));
        }
        tensor(out, (ids.len(), self.columns))
    }

    /// Calls `each` with the rows `rows`, one after the other.
    fn each_row(&self, rows: Range<usize>, each: &mut dyn FnMut(&[f32])) -> Result<()> {
        const TOGETHER: usize = 64;
        let ids: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
        for ids in ids.chunks(TOGETHER) {
            Values::of(&self.select(ids)?)?.chunks_exact(self.columns).for_each(&mut *each);
        }
        Ok(())
    }

    /// `x Wᵀ` of `x`, `[n, columns]`, and what is added to it: `[n, rows]`.
    fn product(&self, x: &Tensor, terms: Terms<'_>, kernels: Kernels) -> Result<Tensor> {
        let (n, columns) = x.dims2()?;
        if columns != self.columns {
            candle_core::bail!("{columns} inputs do not match rows of {} weights", self.columns);
        }
        tensor(self.product_of(&Values::of(x)?, terms, kernels)?, (n, self.rows))
    }

    /// As [`product`](Self::product), of whole rows `x`.
    fn product_of(&self, x: &[f32], terms: Terms<'_>, kernels: Kernels) -> Result<Vec<f32>> {
        let mut out = zeros(x.len() / self.columns * self.rows);
        self.write_product(x, terms, kernels, &mut Vec::new(), &mut out)?;
        Ok(out)
    }

    /// As [`product`](Self::product), of whole rows `x` into `out`; `packed` is scratch memory that grows if necessary.
    fn write_product(
        &self,
        x: &[f32],
        Terms { bias, update }: Terms<'_>,
        kernels: Kernels,
        packed: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Result<()> {
        let (columns, n) = (self.columns, x.len() / self.columns);
        let (few_rows, few_quantized) = if kernels == Kernels::Fastest { (FEW_ROWS, MAX_ROWS) } else { (0, 0) };
        match self.stored.weights() {
            Weights::Blocks(blocks) if self.numerics == Numerics::Fast && self.isa.quantizes_activations() => {
                self.write_integer_product(blocks, x, update, few_quantized, out);
            }
            weights if n <= few_rows => {
                for (x, out) in x.chunks(MAX_ROWS * columns).zip(out.chunks_mut(MAX_ROWS * self.rows)) {
                    self.product_of_few(weights, x, update, out, |rows, out| {
                        let own = rows.start * columns..rows.end * columns;
                        match weights {
                            Weights::F32(values) => self.isa.products(&values[own], x, columns, out),
                            Weights::F16(values) => self.isa.products(&values[own], x, columns, out),
                            Weights::Bf16(values) => self.isa.products(&values[own], x, columns, out),
                            Weights::Blocks(blocks) => self.isa.block_products(blocks.rows(rows, columns), x, columns, out),
                        }
                    });
                }
            }
            weights => product(self.isa, (weights, columns), x, update, scratch_slice(packed, x.len()), out),
        }
        if let Some(offsets) = &self.offsets {
            let sums = x.as_chunks::<BLOCK>().0.iter().map(|block| block.iter().sum()).collect();
            let products = offsets.product(&tensor(sums, (n, columns / BLOCK))?, Terms::default(), kernels)?;
            for (out, products) in out.chunks_exact_mut(self.rows).zip(Values::of(&products)?.chunks_exact(self.rows)) {
                match update.and_then(Update::gain) {
                    None => out.iter_mut().zip(products).for_each(|(out, product)| *out += product),
                    Some(gain) => {
                        out.iter_mut().zip(products).zip(gain).for_each(|((out, product), gain)| *out += gain * product);
                    }
                }
            }
        }
        if let Some(bias) = bias {
            for row in out.chunks_exact_mut(self.rows) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
        Ok(())
    }

    /// `x W` of whole rows `x`, `[n, rows]`: `[n, columns]`. The inputs stay floats.
    ///
    /// # Errors
    /// For weights with offsets.
    pub(crate) fn transposed_product(&self, x: &[f32]) -> Result<Vec<f32>> {
        if self.offsets.is_some() {
            candle_core::bail!("weights with offsets are not multiplied from the left");
        }
        let mut out = zeros(x.len() / self.rows * self.columns);
        let mut packed = zeros(x.len());
        transposed_product(self.isa, self.stored.weights(), x, [self.rows, self.columns], &mut packed, &mut out);
        Ok(out)
    }

    /// As [`write_product`](Self::write_product), with quantised activations; `few` is up to how many rows count as few.
    fn write_integer_product(&self, weights: Blocks<'_>, x: &[f32], update: Option<&Update>, few: usize, out: &mut [f32]) {
        let inputs = QuantizedActivations::new(x, self.columns);
        let n = x.len() / self.columns;
        if n > few {
            let low = update.map(|update| update.low(x, PACKED_INPUTS));
            return integer_product(self.isa, weights, &inputs, low.as_ref(), out);
        }
        let inputs = inputs.pairs(weights.bits.offset());
        self.product_of_few(Weights::Blocks(weights), x, update, out, |rows, out| {
            self.isa.integer_products(weights.rows(rows, self.columns), &inputs, self.columns, out);
        });
    }

    /// The product of up to [`MAX_ROWS`] rows `x`, `n` of them: each task calls `products` for some rows of weights, `[rows, n]`.
    fn product_of_few(
        &self,
        weights: Weights<'_>,
        x: &[f32],
        update: Option<&Update>,
        out: &mut [f32],
        products: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let n = x.len() / self.columns;
        let low = update.map(|update| Shared::new(update, x));
        let tasks = (4 * rayon::current_num_threads()).max(weights.bytes() / TASK_BYTES);
        let share = self.rows.div_ceil(tasks).next_multiple_of(4).max(MIN_TASK_WEIGHTS.div_ceil(self.columns));
        // Tasks have whole tiles of the update.
        let share = if low.is_some() { (share / TILE).max(1) * TILE } else { share };
        let by_weight = |out: &mut [f32]| {
            out.par_chunks_mut(share * n).with_max_len(1).enumerate().for_each(|(i, out)| {
                let rows = i * share..i * share + out.len() / n;
                if let Some(low) = &low {
                    low.compute();
                }
                products(rows.clone(), out);
                if let Some(low) = &low {
                    low.apply(&rows, out);
                }
            });
        };
        if n == 1 {
            return by_weight(out);
        }
        let mut transposed = vec![0.0; out.len()];
        by_weight(&mut transposed);
        for (i, out) in out.chunks_exact_mut(self.rows).enumerate() {
            out.iter_mut().zip(transposed[i..].iter().step_by(n)).for_each(|(out, value)| *out = *value);
        }
    }
}
