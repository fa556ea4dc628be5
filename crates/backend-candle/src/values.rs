//! A tensor's values as a slice: on the processor our own loops read what candle holds, without a copy.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Result, Storage, StorageRef, Tensor};

/// The f32 values of a contiguous tensor on the processor.
pub(crate) struct Values<'t> {
    storage: StorageRef<'t>,
    range: Range<usize>,
}

impl<'t> Values<'t> {
    /// Those of `tensor`; an error when it lies elsewhere, is of another dtype, or has gaps.
    pub(crate) fn of(tensor: &'t Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) =
            layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "values" }.bt())?;
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) if end <= values.len() => {}
            _ => candle_core::bail!("a tensor of f32 on the processor was expected"),
        }
        Ok(Self { storage, range: start..end })
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // Checked when it was made.
            _ => &[],
        }
    }
}

/// A tensor of `values` on the processor; they are not copied.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
