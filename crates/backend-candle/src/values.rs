//! A tensor's values as a slice: on the processor our own loops read what candle holds, without a copy.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Result, Storage, StorageRef, Tensor};
use rayon::prelude::*;

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

/// `n` zeros. Many are written by all threads: memory that is new costs more to touch the first time than what is then done with it.
pub(crate) fn zeros(n: usize) -> Vec<f32> {
    const TOGETHER: usize = 1024;
    const MANY: usize = 128 * TOGETHER;
    if n < MANY {
        return vec![0.0; n];
    }
    let parts = (0..n.div_ceil(TOGETHER)).into_par_iter().with_min_len(32).map(|_| [0.0; TOGETHER]);
    let mut zeros = parts.collect::<Vec<_>>().into_flattened();
    zeros.truncate(n);
    zeros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_as_many_as_asked_for() {
        for n in [0, 1, 1024, 131_071, 131_072, 131_073, 400_000] {
            assert_eq!(zeros(n), vec![0.0; n]);
        }
    }
}
