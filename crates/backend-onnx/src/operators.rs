//! Tandem's kernels as custom operators of ONNX Runtime, on the processor: products with quantised weights and with floats, and
//! attention.
//!
//! They take the inputs and attributes of the operators that they stand in for (`com.microsoft`), which an edit gives to this domain just
//! before the engine loads a graph. Weights are read where the graph has them: in files beside it the engine maps them, and nothing is packed or
//! copied. Loops run on the threads of rayon's pool from which the graph is run ([`Threads`](tandem_kernels::Threads)). A run may be of
//! several sequences ([`Batch`]).

mod attention;
mod batch;
mod block;
mod floats;
mod places;
mod product;
mod updates;
mod weights;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use ort::operator::{ComputeContext, KernelContext, OperatorDomain};
use ort::value::{PrimitiveTensorElementType, TensorValueType, ValueRef, ValueRefMut};
use tandem_core::arena::Arena;
use tandem_core::backend::{Kernels as Whose, LoadOptions};
use tandem_core::huge_pages::{Copying, MovingFiles};
use tandem_core::{Device, Error, Remedy, Result};
use tandem_kernels::matrix::Kernels;
use tandem_kernels::{check_instruction_set, instruction_set};
use tandem_onnx_graph::OPERATOR_DOMAIN;

use self::attention::Attention;
pub(crate) use self::attention::TOO_LARGE;
pub(crate) use self::batch::{Batch, CacheMemory, Sequence, with_batch};
use self::block::Block;
use self::floats::FloatWeights;
use self::product::Product;
pub(crate) use self::updates::{ModelUpdates, Registered, Updates};
use self::weights::BlockWeights;
pub(crate) use self::weights::order_inputs;

/// The kernels that `options` request, or those that are used by default.
///
/// # Errors
/// [`Error::InvalidOption`] where Tandem's own are requested for another device than the processor, and for a `TANDEM_ISA` that this processor
/// lacks.
pub(crate) fn kernels_for(options: &LoadOptions) -> Result<Whose> {
    match (options.onnx.kernels, options.device) {
        (Some(Whose::Tandem), device) if device != Device::Cpu => Err(Error::InvalidOption {
            option: "kernels".into(),
            value: Whose::Tandem.to_string(),
            problem: format!("computes on the processor alone, and the model was requested on `{device}`"),
            hint: Some(["leave it out".into(), Remedy::UseDevice(Device::Cpu)].into()),
        }),
        (Some(Whose::Tandem), _) => check_instruction_set().map(|()| Whose::Tandem),
        (None, Device::Cpu) => check_instruction_set().map(|()| default_kernels()),
        _ => Ok(Whose::Runtime),
    }
}

/// The kernels that are used on the processor by default: without vector instructions the engine's are several times as fast.
pub(crate) fn default_kernels() -> Whose {
    if instruction_set() == "plain" { Whose::Runtime } else { Whose::Tandem }
}

/// The weights of a session's operators, while they are in mapped files.
#[derive(Default)]
pub(crate) struct MappedWeights {
    arena: Arc<Arena>,
    mapped: Mutex<Mapped>,
}

#[derive(Default)]
struct Mapped {
    /// What copies each, in parts.
    copies: Vec<Vec<Copying>>,
    /// What is moved as it is.
    ranges: Vec<Range<usize>>,
}

impl MappedWeights {
    /// Moves those of the operators that were made so far into memory of the process's own: in strips where products are faster so, and as they are
    /// elsewhere.
    ///
    /// # Safety
    /// The session lives until the result is dropped.
    #[expect(unsafe_code, reason = "the weights stay with the session, and are moved while it runs")]
    pub(crate) unsafe fn start_moving(&self) -> MovingFiles {
        let Mapped { copies, ranges } = std::mem::take(&mut *self.mapped.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: constants of the session, which keeps them until it is dropped and writes to none once it is made.
        unsafe { MovingFiles::start(copies.into_iter().flatten().collect(), ranges) }
    }

    /// Makes all copies on the calling thread, and says how many.
    #[cfg(test)]
    fn copy_all(&self) -> usize {
        let copies = std::mem::take(&mut self.mapped.lock().unwrap_or_else(PoisonError::into_inner).copies);
        copies.into_iter().flatten().map(|copy| copy()).filter(|left| !left.is_empty()).count()
    }

    #[expect(unsafe_code, reason = "another thread reads what the engine keeps")]
    fn add(&self, weights: &BlockWeights<'_>) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: it is called while `start_moving` requires the session, and otherwise dropped.
        let copies = unsafe { weights.copying(&self.arena) };
        if !weights.is_interleaved() {
            mapped.ranges.extend(weights.ranges());
        }
        // The largest, which is the head, is seldom read while a prompt is.
        let place = mapped.copies.iter().position(|others| others.len() < copies.len()).unwrap_or(mapped.copies.len());
        mapped.copies.insert(place, copies);
    }

    #[expect(unsafe_code, reason = "another thread reads what the engine keeps")]
    fn add_floats(&self, weights: &FloatWeights<'_>) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as for weights in blocks.
        mapped.copies.push(unsafe { weights.copying(&self.arena) });
    }
}

/// The operators for one session, with the adapters that `updates` has; they note their weights in `mapped`. With [`Kernels::ByShape`] a row of a product does not depend on the others.
pub(crate) fn domain(kernels: Kernels, updates: &Arc<Updates>, mapped: &Arc<MappedWeights>) -> ort::Result<OperatorDomain> {
    let scratch = Arc::new(ScratchPool::default());
    OperatorDomain::new(OPERATOR_DOMAIN)?
        .add(Product { kernels, scratch: Arc::clone(&scratch), updates: Arc::clone(updates), mapped: Arc::clone(mapped) })?
        .add(Block { kernels, scratch: Arc::clone(&scratch), updates: Arc::clone(updates), mapped: Arc::clone(mapped) })?
        .add(Attention::<f32>::new(&scratch))?
        .add(Attention::<f16>::new(&scratch))
}

/// Buffers that the nodes of a session use one after the other: new memory would have to be cleared by the system first.
#[derive(Debug, Default)]
struct ScratchPool(Mutex<Vec<Scratch>>);

#[derive(Debug, Default)]
struct Scratch {
    /// What a kernel is given.
    inputs: Vec<f32>,
    /// What it packs.
    packed: Vec<f32>,
    /// What it appends to a cache.
    appended: Vec<f32>,
    /// What lies between the steps of a block.
    slots: Vec<Vec<f32>>,
}

impl ScratchPool {
    /// Calls `with` with buffers that no other call has; their contents are left over from earlier ones.
    fn with<T>(&self, with: impl FnOnce(&mut Scratch) -> T) -> T {
        let pool = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = pool().pop().unwrap_or_default();
        let result = with(&mut own);
        pool().push(own);
        result
    }
}

/// What is wrong with a node, as an error of the engine.
fn node_error(problem: impl Into<String>) -> ort::Error {
    ort::Error::new(problem)
}

/// A tensor of floats that a node is given.
type Floats<'c, F = f32> = ValueRef<'c, TensorValueType<F>>;

/// A tensor of floats that a node makes.
type FloatsMut<'c, F = f32> = ValueRefMut<'c, TensorValueType<F>>;

/// Input number `index`, if the node has it.
fn optional_input<'c, T>(context: &'c ComputeContext, index: usize) -> ort::Result<Option<ValueRef<'c, TensorValueType<T>>>>
where
    T: PrimitiveTensorElementType + Debug,
{
    context.input(index)?.map(ValueRef::downcast).transpose()
}

/// Input number `index`, which the node must have.
fn input<'c, T>(context: &'c ComputeContext, index: usize) -> ort::Result<ValueRef<'c, TensorValueType<T>>>
where
    T: PrimitiveTensorElementType + Debug,
{
    optional_input(context, index)?.ok_or_else(|| node_error(format!("input {index} is missing")))
}

/// Output number `index`, of `shape`, which the node must have.
fn output<'c, F>(context: &'c ComputeContext, index: usize, shape: &[usize]) -> ort::Result<FloatsMut<'c, F>>
where
    F: PrimitiveTensorElementType + Debug,
{
    context.output(index, shape)?.ok_or_else(|| node_error(format!("output {index} is missing")))?.downcast()
}

/// The shape of `value`.
fn shape<F>(value: &Floats<'_, F>) -> ort::Result<Vec<usize>>
where
    F: PrimitiveTensorElementType + Debug,
{
    value.shape().iter().map(|&size| usize::try_from(size).map_err(|_| node_error("a shape has a negative size"))).collect()
}

/// The attribute `name`, which counts something.
fn count(context: &KernelContext<'_>, name: &str) -> ort::Result<usize> {
    let value = context.get::<i64>(name).and_then(|value| usize::try_from(value).ok());
    value.ok_or_else(|| node_error(format!("the attribute `{name}` is missing or negative")))
}

#[cfg(test)]
mod tests;
