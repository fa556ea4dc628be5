//! Keys and values in and out of the cache, in the layout that belongs to no engine ([`KvState`]).

use std::ops::Range;
use std::sync::PoisonError;

use candle_core::{DType, Result, Tensor};
use half::f16;
use tandem_core::backend::{KvShape, KvState};
use tandem_kernels::Float;
use tandem_kernels::attention::CacheView;

use super::{Held, KvCache};
use crate::error::TooLargeForF16;

impl KvCache {
    /// Its sizes.
    pub(crate) fn shape(&self) -> KvShape {
        KvShape { n_layers: self.n_layers, kv_heads: self.layout.kv_heads, head_dim: self.layout.head_dim }
    }

    /// What it holds at `positions`.
    pub(crate) fn export(&self, positions: Range<usize>) -> Result<KvState> {
        let mut data = Vec::new();
        match &self.held {
            Held::Blocks(memory) => {
                let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
                for layer in 0..self.n_layers {
                    match self.layout.dtype {
                        DType::F16 => read(self.views::<f16>(&memory, layer), &positions, &mut data),
                        _ => read(self.views::<f32>(&memory, layer), &positions, &mut data),
                    }
                }
            }
            Held::Tensors { layers, .. } => {
                for cache in layers.iter().flat_map(|layer| [&layer.keys, &layer.values]) {
                    let held = cache.narrow(1, positions.start, positions.len())?.to_dtype(DType::F32)?;
                    data.extend(held.flatten_all()?.to_vec1::<f32>()?);
                }
            }
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
            let overflows = |value: f32| value.is_finite() && value >= f16::OVERFLOW;
            if let Some(value) = state.data.iter().map(|value| value.abs()).find(|value| overflows(*value)) {
                return Err(TooLargeForF16(value).into());
            }
        }
        for (layer, data) in state.data.chunks_exact(2 * size).enumerate() {
            let tensor = |data: &[f32]| -> Result<Tensor> {
                let tensor = Tensor::from_slice(data, (kv_heads, state.n_tokens, head_dim), &self.layout.device)?;
                if self.layout.for_kernels { Ok(tensor) } else { tensor.to_dtype(self.layout.dtype) }
            };
            self.write(layer, held, &tensor(&data[..size])?, &tensor(&data[size..])?)?;
        }
        Ok(())
    }
}

/// Appends the keys and then the values at `positions` to `out`: `[kv_heads, n, head_dim]` each.
fn read<F: Float>(caches: [CacheView<'_, F>; 2], positions: &Range<usize>, out: &mut Vec<f32>) {
    for cache in caches {
        let heads = (0..cache.layout.kv_heads).flat_map(|head| cache.rows(head, positions.clone()));
        heads.for_each(|rows| out.extend(rows.iter().map(|value| value.widened())));
    }
}
