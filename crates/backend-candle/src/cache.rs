//! The KV cache of one sequence: `[kv_heads, capacity, head_dim]` for each layer, written in place, so that a rewind only changes a number.

mod transfer;

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor};
use half::f16;
use half::vec::HalfBitsVecExt;
use tandem_core::allocator;
use tandem_kernels::attention::append;

use crate::error::TooLargeForF16;

/// Tokens of the first allocation; the capacity doubles when it is used up.
pub(crate) const FIRST_CAPACITY: usize = 256;

/// The keys and values of every layer.
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
    layout: KvLayout,
    capacity: usize,
    context_length: usize,
}

/// The shape, dtype and device of the keys and values of one layer.
#[derive(Clone)]
pub(crate) struct KvLayout {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) dtype: DType,
    pub(crate) device: Device,
}

/// The keys and values of one layer.
pub(crate) struct LayerCache {
    /// `[kv_heads, capacity, head_dim]`
    pub(crate) keys: Tensor,
    /// `[kv_heads, capacity, head_dim]`
    pub(crate) values: Tensor,
}

impl KvCache {
    /// An empty cache that grows up to `context_length`.
    pub(crate) fn new(n_layers: usize, layout: KvLayout, context_length: usize) -> Result<Self> {
        let capacity = FIRST_CAPACITY.min(context_length);
        let layers = (0..n_layers).map(|_| Ok(LayerCache { keys: layout.empty(capacity)?, values: layout.empty(capacity)? }));
        Ok(Self { layers: layers.collect::<Result<_>>()?, layout, capacity, context_length })
    }

    /// Grows the cache to `n_tokens` if necessary, keeping the first `held`.
    pub(crate) fn reserve(&mut self, held: usize, n_tokens: usize) -> Result<()> {
        if n_tokens <= self.capacity {
            return Ok(());
        }
        let capacity = n_tokens.max(2 * self.capacity).min(self.context_length);
        let grown = |old: &Tensor| -> Result<Tensor> {
            let new = self.layout.empty(capacity)?;
            if held > 0 {
                new.slice_set(&old.narrow(1, 0, held)?.contiguous()?, 1, 0)?;
            }
            Ok(new)
        };
        // If an allocation fails, the old layers stay: none is replaced before all exist.
        let layers = self.layers.iter().map(|layer| Ok(LayerCache { keys: grown(&layer.keys)?, values: grown(&layer.values)? }));
        self.layers = layers.collect::<Result<_>>()?;
        self.capacity = capacity;
        // The old buffers are too small to be reused.
        allocator::trim();
        Ok(())
    }

    /// A cache of its own with the first `n_tokens`, that grows up to `context_length`.
    pub(crate) fn copy(&self, n_tokens: usize, context_length: usize) -> Result<Self> {
        let mut copy = Self::new(self.layers.len(), self.layout.clone(), context_length)?;
        copy.reserve(0, n_tokens)?;
        if n_tokens > 0 {
            for (layer, copy) in self.layers.iter().zip(&copy.layers) {
                copy.keys.slice_set(&layer.keys.narrow(1, 0, n_tokens)?.contiguous()?, 1, 0)?;
                copy.values.slice_set(&layer.values.narrow(1, 0, n_tokens)?.contiguous()?, 1, 0)?;
            }
        }
        Ok(copy)
    }

    /// Tokens for which there is memory.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes `keys` and `values`, `[kv_heads, n, head_dim]`, of layer `layer` after the first `held` tokens, and returns the layer.
    pub(crate) fn write(&self, layer: usize, held: usize, keys: &Tensor, values: &Tensor) -> Result<&LayerCache> {
        let layer = &self.layers[layer];
        for (cache, given) in [(&layer.keys, keys), (&layer.values, values)] {
            match (self.layout.dtype == given.dtype(), &self.layout.device) {
                (false, Device::Cpu) => {
                    let KvLayout { kv_heads, head_dim, .. } = self.layout;
                    cache.inplace_op2(given, &AppendNarrowed { kv_heads, head_dim, held })?;
                }
                _ => cache.slice_set(given, 1, held)?,
            }
        }
        Ok(layer)
    }
}

impl KvLayout {
    fn empty(&self, capacity: usize) -> Result<Tensor> {
        let shape = (self.kv_heads, capacity, self.head_dim);
        match (self.dtype, &self.device) {
            // candle writes zeros of 16 bits one by one, which takes the memory of all capacity.
            (DType::F16, Device::Cpu) => {
                let zeros = vec![0_u16; self.kv_heads * capacity * self.head_dim];
                Tensor::from_vec(zeros.reinterpret_into::<f16>(), shape, &Device::Cpu)
            }
            _ => Tensor::zeros(shape, self.dtype, &self.device),
        }
    }
}

/// Writes f32 tokens after the first `held` of a cache in f16.
struct AppendNarrowed {
    kv_heads: usize,
    head_dim: usize,
    held: usize,
}

impl InplaceOp2 for AppendNarrowed {
    fn name(&self) -> &'static str {
        "append-narrowed"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, to: &Layout, given: &CpuStorage, from: &Layout) -> Result<()> {
        let (Some((start, end)), Some((first, last))) = (to.contiguous_offsets(), from.contiguous_offsets()) else {
            candle_core::bail!("keys and values are contiguous");
        };
        match (cache, given) {
            (CpuStorage::F16(cache), CpuStorage::F32(given)) => {
                let (cache, given) = (&mut cache[start..end], &given[first..last]);
                append(given, cache, [self.kv_heads, self.head_dim], self.held).map_err(|value| TooLargeForF16(value).into())
            }
            _ => candle_core::bail!("keys and values are f32, and their cache is f16"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tandem_core::Error;
    use tandem_core::backend::KvDType;

    use super::*;
    use crate::error::Doing;
    use crate::values::Values;

    fn cache(dtype: DType) -> KvCache {
        KvCache::new(1, KvLayout { kv_heads: 2, head_dim: 4, dtype, device: Device::Cpu }, 1000).unwrap()
    }

    /// Keys, or values, of the tokens numbered `tokens`: `[2, n, 4]`.
    fn given(tokens: std::ops::Range<usize>) -> Tensor {
        let shape = (2, tokens.len(), 4);
        let of_head =
            |head: usize| tokens.clone().flat_map(move |token| (0..4).map(move |i| (head * 5 + token * 3 + i) as f32 * 0.1));
        Tensor::from_vec((0..2).flat_map(of_head).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_narrow_cache_keeps_what_it_holds_as_it_grows() {
        let mut cache = cache(DType::F16);
        cache.reserve(0, 200).unwrap();
        cache.write(0, 0, &given(0..200), &given(50..250)).unwrap();
        cache.reserve(200, 300).unwrap();
        assert_eq!(cache.capacity, 512);
        let layer = cache.write(0, 200, &given(200..300), &given(250..350)).unwrap();
        for (held, expected) in [(&layer.keys, given(0..300)), (&layer.values, given(50..350))] {
            let held = held.narrow(1, 0, 300).unwrap().contiguous().unwrap();
            let held = Values::<f16>::stored(&held).unwrap();
            let expected: Vec<f16> = Values::of(&expected).unwrap().iter().map(|value| f16::from_f32(*value)).collect();
            assert_eq!(*held, *expected);
        }
    }

    #[test]
    fn capacity_that_nothing_was_written_to_is_zero() {
        let cache = cache(DType::F16);
        let layer = cache.write(0, 3, &given(0..1), &given(0..1)).unwrap();
        let values = Values::<f16>::stored(&layer.keys).unwrap();
        assert!(values[..12].iter().chain(&values[16..1024]).all(|value| *value == f16::ZERO));
    }

    #[test]
    fn a_key_that_f16_cannot_hold_is_an_error_with_a_remedy() {
        let large = Tensor::full(-65_520.0_f32, (2, 1, 4), &Device::Cpu).unwrap().contiguous().unwrap();
        let narrow = cache(DType::F16);
        let error: Error = narrow.write(0, 0, &large, &given(0..1)).doing("to run the model").err().unwrap().into();
        assert!(matches!(error, Error::BadKv { value, dtype: KvDType::F16 } if value == 65_520.0), "{error}");
        assert_eq!(error.to_string(), "a key or a value of 65520 does not fit into a KV cache of `f16`");
        assert!(error.hint().unwrap().to_string().contains("`f32`"));
        cache(DType::F32).write(0, 0, &large, &given(0..1)).unwrap();
    }
}
