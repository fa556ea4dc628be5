//! Keys and values in and out of the cache, in the layout that belongs to no engine ([`KvState`]).

use std::ops::Range;

use half::f16;
use ort::memory::Allocator;
use ort::value::{DynValue, TensorElementType};
use tandem_core::backend::{KvDType, KvState};
use tandem_core::{DType, Error, Result};
use tandem_kernels::attention::{CacheLayout, append};

use super::blocks::Held;
use super::{CachePort, InBlocks, KvCache, copy_tokens, new_buffer};
use crate::error::Doing;
use crate::graph::KvOrder;

impl KvCache {
    /// What is held in `dtype` at `positions`, in `order`.
    pub(crate) fn export(&self, order: &KvOrder, dtype: DType, positions: Range<usize>) -> Result<KvState> {
        let (ports, values) = match self {
            Self::InBlocks(cache) => return Ok(cache.export(order, dtype, &positions)),
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
            Self::InBlocks(cache) => {
                for (&place, data) in order.places.iter().zip(parts) {
                    let written = match cache.ports[place].dtype {
                        TensorElementType::Float16 => cache.write::<f16>(place, held, data),
                        _ => cache.write::<f32>(place, held, data),
                    };
                    written.map_err(too_large)?;
                }
            }
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

impl InBlocks {
    fn export(&self, order: &KvOrder, dtype: DType, positions: &Range<usize>) -> KvState {
        let mut data = Vec::new();
        for &place in &order.places {
            match self.ports[place].dtype {
                TensorElementType::Float16 => self.read::<f16>(place, positions, &mut data),
                _ => self.read::<f32>(place, positions, &mut data),
            }
        }
        KvState::new(order.shape, positions.start, positions.len(), dtype, data)
    }

    fn read<F: Held>(&self, place: usize, positions: &Range<usize>, out: &mut Vec<f32>) {
        let view = self.blocks.view::<F>(&self.ports[place], place);
        let rows = (0..view.layout.kv_heads).flat_map(|head| view.rows(head, positions.clone()));
        rows.for_each(|rows| out.extend(rows.iter().map(|value| value.widened())));
    }

    fn write<F: Held>(&mut self, place: usize, held: usize, data: &[f32]) -> std::result::Result<(), f32> {
        let (cache, layout) = self.blocks.values_mut::<F>(&self.ports[place], place);
        append(data, cache, layout, held)
    }
}

/// Appends the values at `positions` to `out`: `[kv_heads, n, head_dim]`.
fn read<F: Held>(port: &CachePort, cache: &DynValue, positions: &Range<usize>, out: &mut Vec<f32>) -> Result<()> {
    let (_, values) = cache.try_extract_tensor::<F>().doing("to read the KV cache")?;
    for head in values.chunks_exact(values.len() / port.kv_heads) {
        let held = &head[positions.start * port.head_dim..positions.end * port.head_dim];
        out.extend(held.iter().map(|value| value.widened()));
    }
    Ok(())
}

fn write(port: &CachePort, cache: &mut DynValue, held: usize, data: &[f32]) -> Result<()> {
    const DOING: &str = "to write the KV cache";
    match port.dtype {
        TensorElementType::Float16 => write_to(port, cache.try_extract_tensor_mut::<f16>().doing(DOING)?.1, held, data),
        _ => write_to(port, cache.try_extract_tensor_mut::<f32>().doing(DOING)?.1, held, data),
    }
}

fn write_to<F: Held>(port: &CachePort, cache: &mut [F], held: usize, data: &[f32]) -> Result<()> {
    let capacity = cache.len() / (port.kv_heads * port.head_dim);
    append(data, cache, CacheLayout::contiguous([port.kv_heads, capacity, port.head_dim]), held).map_err(too_large)
}

fn too_large(value: f32) -> Error {
    Error::BadKv { value, dtype: KvDType::F16 }
}
