//! The values of a tensor as a slice, without a copy, for our own kernels on the processor.

use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Result, Storage, StorageRef, Tensor, WithDType};
use half::f16;
use tandem_kernels::Float;

/// The values of a contiguous tensor on the processor.
pub(crate) struct Values<'t, F> {
    storage: StorageRef<'t>,
    range: Range<usize>,
    of: PhantomData<F>,
}

/// What values of tensors on the processor are for our kernels.
pub(crate) trait Stored: Float + WithDType {
    fn slice(storage: &CpuStorage) -> Option<&[Self]>;
}

impl Stored for f32 {
    fn slice(storage: &CpuStorage) -> Option<&[Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }
}

impl Stored for f16 {
    fn slice(storage: &CpuStorage) -> Option<&[Self]> {
        if let CpuStorage::F16(values) = storage { Some(values) } else { None }
    }
}

impl<'t> Values<'t, f32> {
    /// The f32 values of `tensor`; an error if it is on another device, of another dtype or not contiguous.
    pub(crate) fn of(tensor: &'t Tensor) -> Result<Self> {
        Self::stored(tensor)
    }
}

impl<'t, F: Stored> Values<'t, F> {
    /// The values of `tensor`; an error if it is on another device, of another dtype or not contiguous.
    pub(crate) fn stored(tensor: &'t Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) =
            layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "values" }.bt())?;
        match &*storage {
            Storage::Cpu(values) if F::slice(values).is_some_and(|values| end <= values.len()) => {}
            _ => candle_core::bail!("expected a tensor of {} on the processor", <F as Float>::DTYPE),
        }
        Ok(Self { storage, range: start..end, of: PhantomData })
    }
}

impl<F: Stored> Deref for Values<'_, F> {
    type Target = [F];

    fn deref(&self) -> &[F] {
        match &*self.storage {
            Storage::Cpu(values) => F::slice(values).map_or(&[], |values| &values[self.range.clone()]),
            // `stored` has checked it.
            _ => &[],
        }
    }
}

/// A tensor of `values` on the processor, without a copy.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
