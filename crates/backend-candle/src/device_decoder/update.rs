//! What adapters add to a product, in candle's operations and in f32, whatever the dtype of the weights.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use tandem_core::adapter::{AdapterSum, ModuleUpdate};

use super::Projection;
use crate::error::Doing;
use crate::linear::{take_parts, updates};

/// `gain ∘ (x W) + (x A) B`.
pub(super) struct DeviceUpdate {
    /// The factors of all modules of the matrix, side by side: `[inputs, rank]`.
    a: Tensor,
    /// Those of each module at its outputs, and zeros elsewhere: `[rank, outputs]`. On a GPU one product with zeros is faster than several.
    b: Tensor,
    /// `[outputs]`
    gain: Option<Tensor>,
}

impl DeviceUpdate {
    fn new(updates: &[(Range<usize>, ModuleUpdate)], [n_inputs, n_outputs]: [usize; 2], device: &Device) -> Result<Self> {
        let rank: usize = updates.iter().map(|(_, update)| update.rank).sum();
        let (mut a, mut b) = (Vec::with_capacity(rank * n_inputs), vec![0.0; rank * n_outputs]);
        let mut gains: Option<Vec<f32>> = None;
        for (rows, update) in updates {
            let first = a.len() / n_inputs;
            a.extend_from_slice(&update.a);
            for (output, values) in rows.clone().zip(update.b.chunks_exact(update.rank)) {
                b[first * n_outputs + output..].iter_mut().step_by(n_outputs).zip(values).for_each(|(b, value)| *b = *value);
            }
            if let Some(own) = &update.gain {
                let all = gains.get_or_insert_with(|| vec![1.0; n_outputs]);
                all[rows.clone()].iter_mut().zip(own).for_each(|(all, gain)| *all += gain - 1.0);
            }
        }
        Ok(Self {
            a: Tensor::from_vec(a, (rank, n_inputs), device)?.t()?,
            b: Tensor::from_vec(b, (rank, n_outputs), device)?,
            gain: gains.map(|gains| Tensor::from_vec(gains, n_outputs, device)).transpose()?,
        })
    }

    /// The updated `product` of `x`, `[n, inputs]`: `[n, outputs]`.
    pub(super) fn apply(&self, x: &Tensor, product: &Tensor) -> Result<Tensor> {
        let low = x.to_dtype(DType::F32)?.matmul(&self.a)?.matmul(&self.b)?;
        let wide = product.to_dtype(DType::F32)?;
        let gained = match &self.gain {
            Some(gain) => wide.broadcast_mul(gain)?,
            None => wide,
        };
        (gained + low)?.to_dtype(product.dtype())
    }
}

impl Projection {
    /// Takes what `adapters` have for its modules.
    ///
    /// # Errors
    /// Those of [`AdapterSum::take_parts`].
    pub(super) fn adapt(&mut self, adapters: &mut AdapterSum<'_>) -> tandem_core::Result<()> {
        const DOING: &str = "to apply an adapter";
        let (n_inputs, n_outputs) = self.weights.dims2().doing(DOING)?;
        let mut read = |rows: Range<usize>, each: &mut dyn FnMut(&[f32])| Ok(self.each_row(rows, each).doing(DOING)?);
        let updates = updates(&take_parts(adapters, &self.modules, n_inputs)?, &mut read)?;
        if !updates.is_empty() {
            let update = DeviceUpdate::new(&updates, [n_inputs, n_outputs], self.weights.device()).doing(DOING)?;
            self.update = Some(Arc::new(update));
        }
        Ok(())
    }

    /// Calls `each` with the weights of the outputs `rows`, one after the other.
    fn each_row(&self, rows: Range<usize>, each: &mut dyn FnMut(&[f32])) -> Result<()> {
        let own = self.weights.t()?.narrow(0, rows.start, rows.len())?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let width = own.dim(1)?;
        own.flatten_all()?.to_vec1::<f32>()?.chunks_exact(width).for_each(each);
        Ok(())
    }
}
