//! Weights of floats, where the graph has them: one row for each output, in 32 or 16 bits.

use std::fmt::Debug;
use std::ops::Range;

use half::{bf16, f16};
use ort::operator::KernelContext;
use ort::value::{PrimitiveTensorElementType, TensorValueType, ValueRef};
use tandem_core::backend::Numerics;
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
enum Constant<'n, F: PrimitiveTensorElementType + Debug> {
    /// The graph's own.
    Given(ValueRef<'n, TensorValueType<F>>),
    /// Those of a file that has them at an address at which values of the type cannot lie.
    Copied(Vec<F>),
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

    /// The addresses of what it reads of the graph.
    pub(super) fn range(&self) -> Option<Range<usize>> {
        match &self.values {
            Values::F32(values) => values.range(),
            Values::F16(values) => values.range(),
            Values::Bf16(values) => values.range(),
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

impl<'n, F: PrimitiveTensorElementType + Debug + Copy> Constant<'n, F> {
    /// Input number `place`, which must have `n` values.
    fn of(context: &KernelContext<'n>, place: usize, n: usize) -> ort::Result<Self> {
        let given = context.constant_input::<TensorValueType<F>>(place)?;
        let n_given = given.shape().num_elements();
        if n_given != n || !given.memory_info().is_cpu_accessible() {
            return Err(node_error(format!("a constant of {n_given} values is not a matrix of {n}, or is elsewhere")));
        }
        Ok(match given.data_ptr().cast::<F>().is_aligned() {
            true => Self::Given(given),
            false => Self::Copied(copies(&given).collect()),
        })
    }

    fn range(&self) -> Option<Range<usize>> {
        match self {
            Self::Given(values) => Some(address_range(values.data_ptr(), values.shape().num_elements() * size_of::<F>())),
            Self::Copied(_) => None,
        }
    }

    fn values(&self) -> &[F] {
        match self {
            Self::Given(values) => values.extract_tensor().1,
            Self::Copied(values) => values,
        }
    }
}
