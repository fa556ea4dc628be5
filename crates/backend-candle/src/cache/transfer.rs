//! Keys and values in and out of the cache, in the layout that belongs to no engine ([`KvState`]).

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use tandem_core::backend::{KvShape, KvState};
use tandem_kernels::Float;

use super::KvCache;
use crate::error::TooLargeForF16;

impl KvCache {
    /// Its sizes.
    pub(crate) fn shape(&self) -> KvShape {
        KvShape { n_layers: self.layers.len(), kv_heads: self.layout.kv_heads, head_dim: self.layout.head_dim }
    }

    /// What it holds at `positions`.
    pub(crate) fn export(&self, positions: Range<usize>) -> Result<KvState> {
        let mut data = Vec::new();
        for cache in self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]) {
            let held = cache.narrow(1, positions.start, positions.len())?.to_dtype(DType::F32)?;
            data.extend(held.flatten_all()?.to_vec1::<f32>()?);
        }
        let dtype = match self.layout.dtype {
            DType::F16 => tandem_core::DType::F16,
            DType::BF16 => tandem_core::DType::Bf16,
            _ => tandem_core::DType::F32,
        };
        Ok(KvState::new(self.shape(), positions.start, positions.len(), dtype, data))
    }

    /// Writes `state`, of its own sizes, after the first `held` tokens, rounded to its own dtype.
    pub(crate) fn import(&mut self, held: usize, state: &KvState) -> Result<()> {
        let KvShape { kv_heads, head_dim, .. } = state.shape;
        self.reserve(held, held + state.n_tokens)?;
        let size = kv_heads * state.n_tokens * head_dim;
        if self.layout.dtype == DType::F16 {
            let overflows = |value: f32| value.is_finite() && value >= half::f16::OVERFLOW;
            if let Some(value) = state.data.iter().map(|value| value.abs()).find(|value| overflows(*value)) {
                return Err(TooLargeForF16(value).into());
            }
        }
        for (layer, data) in state.data.chunks_exact(2 * size).enumerate() {
            let tensor = |data: &[f32]| -> Result<Tensor> {
                let tensor = Tensor::from_slice(data, (kv_heads, state.n_tokens, head_dim), &self.layout.device)?;
                if self.layout.device.is_cpu() { Ok(tensor) } else { tensor.to_dtype(self.layout.dtype) }
            };
            self.write(layer, held, &tensor(&data[..size])?, &tensor(&data[size..])?)?;
        }
        Ok(())
    }
}
