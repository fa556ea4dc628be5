//! The parts of a decoder with their gradients: with our kernels, whose gradients are written here, or of candle's operations, whose
//! gradients candle knows.

mod attention;
mod head;
mod linear;
mod rows;

use std::sync::Arc;

use candle_core::{CpuStorage, Layout, Result, Shape, Tensor};

pub(super) use self::attention::Attention;
pub(super) use self::head::FrozenHead;
pub(super) use self::linear::{FrozenLinear, Pair};
pub(super) use self::rows::{Norm, RotaryRows, silu_product};

/// The values of an argument of an operation.
fn values<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "train" }.bt())?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The result of an operation.
fn result(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// An operation of one argument with a gradient of our own.
fn apply(x: &Tensor, operation: impl candle_core::CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    x.contiguous()?.apply_op1_arc(Arc::new(Box::new(operation)))
}
