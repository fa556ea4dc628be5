//! Weights of floats, where the graph has them: one row for each output, in 32 or 16 bits.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use half::{bf16, f16};
use ort::operator::KernelContext;
use ort::value::{PrimitiveTensorElementType, TensorValueType, ValueRef};
use tandem_core::arena::{Arena, Slab};
use tandem_core::backend::Numerics;
use tandem_core::huge_pages::{self, Copying};
use tandem_kernels::Float;
use tandem_kernels::matrix::{MatrixView, Weights};
use tandem_onnx_graph::{DataType, FloatMatrix};

use super::node_error;
use super::weights::{address_range, copies};

/// A matrix of a node.
pub(super) struct FloatWeights<'n> {
    values: Values<'n>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Weights by their type, `[rows, columns]`.
enum Values<'n> {
    F32(Constant<'n, f32>),
    F16(Constant<'n, f16>),
    Bf16(Constant<'n, bf16>),
}

/// The values of a constant.
struct Constant<'n, F: PrimitiveTensorElementType + Debug> {
    /// The graph's own.
    given: ValueRef<'n, TensorValueType<F>>,
    /// A copy that products use once it is made: in huge pages, or where values of the type can lie.
    copied: Arc<OnceLock<Slab<F>>>,
}

impl<'n> FloatWeights<'n> {
    /// Those that `matrix` describes, a constant input of the node.
    pub(super) fn new(context: &KernelContext<'n>, matrix: &FloatMatrix) -> ort::Result<Self> {
        let FloatMatrix { rows, columns, .. } = *matrix;
        let n = rows.checked_mul(columns).ok_or_else(|| node_error("a matrix is too large"))?;
        let values = match matrix.data_type {
            DataType::FLOAT => Values::F32(Constant::of(context, matrix.weights, n)?),
            DataType::FLOAT16 => Values::F16(Constant::of(context, matrix.weights, n)?),
            DataType::BFLOAT16 => Values::Bf16(Constant::of(context, matrix.weights, n)?),
            other => return Err(node_error(format!("weights are of type {other}"))),
        };
        if n == 0 {
            return Err(node_error("a matrix is empty"));
        }
        Ok(Self { values, rows, columns })
    }

    /// What makes the copy that products use, a part at a time; its memory is in `arena`.
    ///
    /// # Safety
    /// The constants of the node stay where they are until all are called or dropped, and nobody writes to them.
    #[expect(unsafe_code, reason = "another thread reads what the engine keeps")]
    pub(super) unsafe fn copying(&self, arena: &Arc<Arena>) -> Vec<Copying> {
        // SAFETY: the caller promises it.
        unsafe {
            match &self.values {
                Values::F32(values) => values.copying(arena),
                Values::F16(values) => values.copying(arena),
                Values::Bf16(values) => values.copying(arena),
            }
        }
    }

    /// What is computed with it.
    pub(super) fn view(&self) -> MatrixView<'_> {
        let weights = match &self.values {
            Values::F32(values) => Weights::F32(values.values()),
            Values::F16(values) => Weights::F16(values.values()),
            Values::Bf16(values) => Weights::Bf16(values.values()),
        };
        MatrixView::new(weights, [self.rows, self.columns], Numerics::Exact)
    }
}

impl<'n, F: PrimitiveTensorElementType + Debug + Float> Constant<'n, F> {
    /// Input number `place`, which must have `n` values.
    fn of(context: &KernelContext<'n>, place: usize, n: usize) -> ort::Result<Self> {
        let given = context.constant_input::<TensorValueType<F>>(place)?;
        let n_given = given.shape().num_elements();
        if n_given != n || !given.memory_info().is_cpu_accessible() {
            return Err(node_error(format!("a constant of {n_given} values is not a matrix of {n}, or is elsewhere")));
        }
        let copied = OnceLock::new();
        if !given.data_ptr().cast::<F>().is_aligned() {
            // A file may have it at any address.
            copied.get_or_init(|| {
                let mut slab = Arena::default().zeros(n);
                slab.iter_mut().zip(copies(&given)).for_each(|(own, value)| *own = value);
                slab
            });
        }
        Ok(Self { given, copied: Arc::new(copied) })
    }

    /// As [`FloatWeights::copying`].
    ///
    /// # Safety
    /// As there.
    #[expect(unsafe_code, reason = "another thread reads what the engine keeps")]
    unsafe fn copying(&self, arena: &Arc<Arena>) -> Vec<Copying> {
        /// Values that are copied at a time: neither the end of the session nor the memory of both copies waits for more.
        const PART: usize = if cfg!(test) { 1 << 12 } else { 4 << 20 };
        if self.copied.get().is_some() || !huge_pages::are_available() {
            return Vec::new();
        }
        let n = self.given.shape().num_elements();
        let whole = address_range(self.given.data_ptr(), n * size_of::<F>());
        let (copied, unfinished) = (Arc::downgrade(&self.copied), Arc::<Mutex<Option<Slab<F>>>>::default());
        let parts = (0..n).step_by(PART).map(|first| first..n.min(first + PART));
        let part = |part: Range<usize>| -> Copying {
            let (arena, copied, unfinished) = (Arc::clone(arena), copied.clone(), Arc::clone(&unfinished));
            let from = whole.start + part.start * size_of::<F>()..whole.start + part.end * size_of::<F>();
            Box::new(move || {
                // The engine may have made the node more than once.
                let Some(copied) = copied.upgrade() else { return Vec::new() };
                let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
                let slab = unfinished.get_or_insert_with(|| arena.zeros(n));
                // SAFETY: the caller promises that the constant is there, and nobody writes to it; it is aligned, or would have been copied.
                let values = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(from.start), part.len()) };
                slab[part.clone()].copy_from_slice(values);
                if part.end == n
                    && let Some(slab) = unfinished.take()
                {
                    copied.get_or_init(|| slab);
                }
                vec![from]
            })
        };
        parts.map(part).collect()
    }

    fn values(&self) -> &[F] {
        match self.copied.get() {
            Some(copied) => copied,
            None => self.given.extract_tensor().1,
        }
    }
}
