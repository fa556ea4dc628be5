//! Keys and values in and out of the cache, in the layout that belongs to no engine ([`KvState`]).

use std::ops::Range;

use half::f16;
use ort::memory::Allocator;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType};
use tandem_core::backend::{KvDType, KvState};
use tandem_core::{DType, Error, Result};
use tandem_kernels::Float;
use tandem_kernels::attention::append;

use super::{CachePort, KvCache, copy_tokens, new_buffer};
use crate::error::Doing;
use crate::graph::KvOrder;

impl KvCache {
    /// What is held in `dtype` at `positions`, in `order`.
    pub(crate) fn export(&self, order: &KvOrder, dtype: DType, positions: Range<usize>) -> Result<KvState> {
        let (ports, values) = match self {
            Self::InPlace(cache) => (&cache.ports, &cache.buffers),
            Self::Carried(cache) => (&cache.ports, &cache.pasts),
        };
        let mut data = Vec::new();
        for &place in &order.places {
            match ports[place].dtype {
                TensorElementType::Float16 => read::<f16>(&ports[place], &values[place], &positions, &mut data)?,
                _ => read::<f32>(&ports[place], &values[place], &positions, &mut data)?,
            }
        }
        Ok(KvState::new(order.shape, positions.start, positions.len(), dtype, data))
    }

    /// Writes `state`, whose sizes are those of `order`, after the first `held` tokens, rounded to the cache's own dtype.
    pub(crate) fn import(&mut self, order: &KvOrder, held: usize, state: &KvState) -> Result<()> {
        let total = held + state.n_tokens;
        self.reserve(held, total)?;
        let parts = state.data.chunks_exact(state.data.len() / order.places.len());
        match self {
            Self::InPlace(cache) => {
                for (&place, data) in order.places.iter().zip(parts) {
                    write(&cache.ports[place], &mut cache.buffers[place], held, data)?;
                }
            }
            Self::Carried(cache) => {
                let new = |port| new_buffer(port, &Allocator::default(), total);
                let mut pasts: Vec<DynValue> = cache.ports.iter().map(new).collect::<Result<_>>()?;
                for (&place, data) in order.places.iter().zip(parts) {
                    copy_tokens(&cache.ports[place], &cache.pasts[place], &mut pasts[place], held)?;
                    write(&cache.ports[place], &mut pasts[place], held, data)?;
                }
                cache.pasts = pasts;
            }
        }
        Ok(())
    }
}

/// Appends the values at `positions` to `out`: `[kv_heads, n, head_dim]`.
fn read<F>(port: &CachePort, cache: &DynValue, positions: &Range<usize>, out: &mut Vec<f32>) -> Result<()>
where
    F: Float + PrimitiveTensorElementType,
{
    let (_, values) = cache.try_extract_tensor::<F>().doing("to read the KV cache")?;
    for head in values.chunks_exact(values.len() / port.kv_heads) {
        let held = &head[positions.start * port.head_dim..positions.end * port.head_dim];
        out.extend(held.iter().map(|value| value.widened()));
    }
    Ok(())
}

fn write(port: &CachePort, cache: &mut DynValue, held: usize, data: &[f32]) -> Result<()> {
    const DOING: &str = "to write the KV cache";
    let heads = [port.kv_heads, port.head_dim];
    let written = match port.dtype {
        TensorElementType::Float16 => append(data, cache.try_extract_tensor_mut::<f16>().doing(DOING)?.1, heads, held),
        _ => append(data, cache.try_extract_tensor_mut::<f32>().doing(DOING)?.1, heads, held),
    };
    written.map_err(|value| Error::BadKv { value, dtype: KvDType::F16 })
}
