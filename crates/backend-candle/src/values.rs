//! The values of a tensor as a slice, without a copy, for our own kernels on the processor.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Result, Storage, StorageRef, Tensor};

/// The f32 values of a contiguous tensor on the processor.
pub(crate) struct Values<'t> {
    storage: StorageRef<'t>,
    range: Range<usize>,
}

impl<'t> Values<'t> {
    /// The values of `tensor`; an error if it is on another device, of another dtype or not contiguous.
    pub(crate) fn of(tensor: &'t Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) =
            layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "values" }.bt())?;
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) if end <= values.len() => {}
            _ => candle_core::bail!("expected a tensor of f32 on the processor"),
        }
        Ok(Self { storage, range: start..end })
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // `of` has checked it.
            _ => &[],
        }
    }
}

/// A tensor of `values` on the processor, without a copy.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
