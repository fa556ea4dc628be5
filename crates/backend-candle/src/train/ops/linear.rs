//! A linear layer whose weights have no gradient.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};

use super::{apply, result, values};
use crate::linear::{Kernels, Linear};
use crate::values::{Values, tensor};

/// `x Wᵀ + b`
pub(in crate::train) enum FrozenLinear {
    /// With our kernels.
    Own(Linear),
    /// With candle's product: `[inputs, outputs]` and `[outputs]`. candle computes the gradient of the weights as well.
    Tensors { weights: Tensor, bias: Option<Tensor> },
}

impl FrozenLinear {
    pub(in crate::train) fn new(linear: Linear, device: &Device, own: bool) -> Result<Self> {
        if own {
            return Ok(Self::Own(linear));
        }
        let bias = match linear.bias {
            Some(bias) => Some(Tensor::from_slice(&bias, bias.len(), device)?),
            None => None,
        };
        let weights = linear.weights.to_tensor()?.to_dtype(DType::F32)?.to_device(device)?.t()?;
        Ok(Self::Tensors { weights, bias })
    }

    pub(in crate::train) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// The width of what it gives.
    pub(in crate::train) fn outputs(&self) -> usize {
        match self {
            Self::Own(linear) => linear.weights.rows,
            Self::Tensors { weights, .. } => weights.dims()[1],
        }
    }

    /// Applies it to `x`, `[n, inputs]`.
    pub(in crate::train) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(linear) => apply(x, Product(linear.clone())),
            Self::Tensors { weights, bias: None } => x.matmul(weights),
            Self::Tensors { weights, bias: Some(bias) } => x.matmul(weights)?.broadcast_add(bias),
        }
    }
}

struct Product(Linear);

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let n = x.len() / self.0.weights.columns;
        Ok(result(self.0.product_of(x, Kernels::Fastest)?, (n, self.0.weights.rows)))
    }

    fn bwd(&self, _x: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let weights = &self.0.weights;
        let gradient = gradient.contiguous()?;
        let n = gradient.dim(0)?;
        tensor(weights.transposed_product(&Values::of(&gradient)?)?, (n, weights.columns)).map(Some)
    }
}
