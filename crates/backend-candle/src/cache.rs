//! The KV cache of one sequence, written in place, so that a rewind only changes a number. For our kernels it lies in the blocks of
//! [`KvMemory`], in which every layer has its keys and then its values; for candle's operations each layer has two tensors.

mod transfer;

use std::sync::{PoisonError, RwLock};

use candle_core::{DType, Result, Tensor};
use half::f16;
use tandem_core::allocator;
use tandem_core::kv_memory::KvMemory;
use tandem_kernels::attention::{AttentionMask, CacheView, append};

use crate::decoder::{Decode, QkvHeads};
use crate::error::TooLargeForF16;
use crate::kv_layout::KvLayout;
use crate::operations;
use crate::values::{Stored, Values};

/// Tokens of the first tensors; their capacity doubles when it is used up.
const FIRST_CAPACITY: usize = 256;

/// The keys and values of every layer.
pub(crate) struct KvCache {
    held: Held,
    layout: KvLayout,
    n_layers: usize,
    context_length: usize,
}

enum Held {
    Blocks(RwLock<KvMemory>),
    Tensors { layers: Vec<LayerCache>, capacity: usize },
}

/// The keys and values of one layer.
struct LayerCache {
    /// `[kv_heads, capacity, head_dim]`
    keys: Tensor,
    /// `[kv_heads, capacity, head_dim]`
    values: Tensor,
}

impl KvCache {
    /// An empty cache that grows up to `context_length`.
    pub(crate) fn new(n_layers: usize, layout: KvLayout, context_length: usize) -> Result<Self> {
        let held = if layout.for_kernels {
            let block_bytes = 2 * n_layers * layout.blocks(n_layers).block_len() * layout.dtype.size_in_bytes();
            Held::Blocks(RwLock::new(KvMemory::new(block_bytes, context_length)?))
        } else {
            let capacity = FIRST_CAPACITY.min(context_length);
            let layers = (0..n_layers).map(|_| Ok(LayerCache { keys: layout.empty(capacity)?, values: layout.empty(capacity)? }));
            Held::Tensors { layers: layers.collect::<Result<_>>()?, capacity }
        };
        Ok(Self { held, layout, n_layers, context_length })
    }

    /// Grows the cache to `n_tokens` if necessary, keeping the first `held`.
    pub(crate) fn reserve(&mut self, held: usize, n_tokens: usize) -> Result<()> {
        let (layers, capacity) = match &mut self.held {
            Held::Blocks(memory) => return Ok(memory.get_mut().unwrap_or_else(PoisonError::into_inner).reserve(n_tokens)?),
            Held::Tensors { layers, capacity } => (layers, capacity),
        };
        if n_tokens <= *capacity {
            return Ok(());
        }
        let larger = n_tokens.max(2 * *capacity).min(self.context_length);
        let grown = |old: &Tensor| -> Result<Tensor> {
            let new = self.layout.empty(larger)?;
            if held > 0 {
                new.slice_set(&old.narrow(1, 0, held)?.contiguous()?, 1, 0)?;
            }
            Ok(new)
        };
        // If an allocation fails, the old layers stay: none is replaced before all exist.
        let grown = layers.iter().map(|layer| Ok(LayerCache { keys: grown(&layer.keys)?, values: grown(&layer.values)? }));
        *layers = grown.collect::<Result<_>>()?;
        *capacity = larger;
        // The old buffers are too small to be reused.
        allocator::trim();
        Ok(())
    }

    /// A cache of its own with the first `n_tokens`, that grows up to `context_length`.
    pub(crate) fn copy(&self, n_tokens: usize, context_length: usize) -> Result<Self> {
        let mut copy = Self::new(self.n_layers, self.layout.clone(), context_length)?;
        copy.reserve(0, n_tokens)?;
        match (&self.held, &mut copy.held) {
            (Held::Blocks(memory), Held::Blocks(copy)) => {
                let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
                let copy = copy.get_mut().unwrap_or_else(PoisonError::into_inner).values_mut::<u8>();
                copy.copy_from_slice(&memory.values()[..copy.len()]);
            }
            (Held::Tensors { layers, .. }, Held::Tensors { layers: copies, .. }) if n_tokens > 0 => {
                for (layer, copy) in layers.iter().zip(copies) {
                    copy.keys.slice_set(&layer.keys.narrow(1, 0, n_tokens)?.contiguous()?, 1, 0)?;
                    copy.values.slice_set(&layer.values.narrow(1, 0, n_tokens)?.contiguous()?, 1, 0)?;
                }
            }
            _ => {}
        }
        Ok(copy)
    }

    /// Tokens for which there is memory.
    pub(crate) fn capacity(&self) -> usize {
        match &self.held {
            Held::Blocks(memory) => memory.read().unwrap_or_else(PoisonError::into_inner).capacity(),
            Held::Tensors { capacity, .. } => *capacity,
        }
    }

    /// Writes `keys` and `values`, `[kv_heads, n, head_dim]`, of layer `layer` after the first `held` tokens.
    fn write(&self, layer: usize, held: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        match &self.held {
            Held::Blocks(memory) => {
                let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
                match self.layout.dtype {
                    DType::F16 => self.append_to::<f16>(&mut memory, layer, held, [keys, values]),
                    _ => self.append_to::<f32>(&mut memory, layer, held, [keys, values]),
                }
            }
            Held::Tensors { layers, .. } => {
                layers[layer].keys.slice_set(keys, 1, held)?;
                layers[layer].values.slice_set(values, 1, held)
            }
        }
    }

    fn append_to<F: Stored>(&self, memory: &mut KvMemory, layer: usize, held: usize, given: [&Tensor; 2]) -> Result<()> {
        let layout = self.layout.blocks(self.n_layers);
        for (number, given) in given.into_iter().enumerate() {
            let cache = &mut memory.values_mut::<F>()[(2 * layer + number) * layout.block_len()..];
            append(&Values::of(given)?, cache, layout, held).map_err(TooLargeForF16)?;
        }
        Ok(())
    }

    /// Appends the keys and values of `heads` after the first `held` tokens, and returns the attention of its queries: as
    /// [`Decode::attention`] of `decoder`.
    pub(crate) fn attention(&self, decoder: &dyn Decode, heads: &QkvHeads, held: usize) -> Result<Tensor> {
        self.write(heads.layer, held, &heads.keys, &heads.values)?;
        let mask = AttentionMask { n_past: heads.first_query, window: heads.window, ahead: None };
        match &self.held {
            Held::Blocks(memory) => {
                let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
                let of = (decoder.scoring(), heads.kernels);
                match self.layout.dtype {
                    DType::F16 => operations::attention_to(&heads.queries, self.views::<f16>(&memory, heads.layer), mask, of),
                    _ => operations::attention_to(&heads.queries, self.views::<f32>(&memory, heads.layer), mask, of),
                }
            }
            Held::Tensors { layers, .. } => {
                let LayerCache { keys, values } = &layers[heads.layer];
                decoder.attention(&heads.queries, keys, values, mask)
            }
        }
    }

    /// The keys and the values of layer number `layer`.
    fn views<'m, F: Stored>(&self, memory: &'m KvMemory, layer: usize) -> [CacheView<'m, F>; 2] {
        let layout = self.layout.blocks(self.n_layers);
        [0, 1].map(|number| {
            let first = (2 * layer + number) * layout.block_len();
            CacheView { values: memory.values().get(first..).unwrap_or_default(), layout }
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use tandem_core::Error;
    use tandem_core::backend::KvDType;

    use super::*;
    use crate::error::Doing;

    fn cache(dtype: DType) -> KvCache {
        let layout = KvLayout { kv_heads: 2, head_dim: 4, dtype, device: Device::Cpu, for_kernels: true };
        KvCache::new(3, layout, 1000).unwrap()
    }

    /// Keys, or values, of the tokens numbered `tokens`: `[2, n, 4]`.
    fn given(tokens: std::ops::Range<usize>) -> Tensor {
        let shape = (2, tokens.len(), 4);
        let of_head =
            |head: usize| tokens.clone().flat_map(move |token| (0..4).map(move |i| (head * 5 + token * 3 + i) as f32 * 0.1));
        Tensor::from_vec((0..2).flat_map(of_head).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
    }

    /// The keys and the values of the first `n` tokens of a layer.
    fn held(cache: &KvCache, layer: usize, n: usize) -> [Vec<f16>; 2] {
        let Held::Blocks(memory) = &cache.held else { panic!("it lies in blocks") };
        let memory = memory.read().unwrap();
        let of = |view: CacheView<'_, f16>| (0..2).flat_map(|head| view.rows(head, 0..n).flatten().copied()).collect();
        cache.views(&memory, layer).map(of)
    }

    fn rounded(given: &Tensor) -> Vec<f16> {
        Values::of(given).unwrap().iter().map(|value| f16::from_f32(*value)).collect()
    }

    #[test]
    fn a_narrow_cache_keeps_what_it_holds_as_it_grows() {
        let mut cache = cache(DType::F16);
        cache.reserve(0, 200).unwrap();
        assert_eq!(cache.capacity(), 256);
        for layer in 0..3 {
            cache.write(layer, 0, &given(layer..layer + 200), &given(50 + layer..250 + layer)).unwrap();
        }
        cache.reserve(200, 300).unwrap();
        assert_eq!(cache.capacity(), 512);
        for layer in 0..3 {
            cache.write(layer, 200, &given(layer + 200..layer + 300), &given(250 + layer..350 + layer)).unwrap();
        }
        let copy = cache.copy(270, 1000).unwrap();
        assert_eq!(copy.capacity(), 512);
        for layer in 0..3 {
            let expected = |n: usize| [rounded(&given(layer..layer + n)), rounded(&given(50 + layer..50 + layer + n))];
            assert_eq!(held(&cache, layer, 300), expected(300));
            assert_eq!(held(&copy, layer, 270), expected(270));
        }
    }

    #[test]
    fn a_copy_of_nothing_is_empty() {
        let empty = cache(DType::F16);
        assert_eq!(empty.copy(0, 10).unwrap().capacity(), 0);
    }

    #[test]
    fn capacity_that_nothing_was_written_to_is_zero() {
        let mut cache = cache(DType::F16);
        cache.reserve(0, 4).unwrap();
        cache.write(1, 3, &given(0..1), &given(0..1)).unwrap();
        let [keys, values] = held(&cache, 1, 256);
        let is_zero = |values: &[f16]| values.iter().all(|value| *value == f16::ZERO);
        for own in [keys, values] {
            assert!(is_zero(&own[..12]) && is_zero(&own[16..1024]) && !is_zero(&own[12..16]));
        }
        assert!([0, 2].iter().all(|layer| held(&cache, *layer, 256).iter().all(|own| is_zero(own))));
    }

    #[test]
    fn a_key_that_f16_cannot_hold_is_an_error_with_a_remedy() {
        let large = Tensor::full(-65_520.0_f32, (2, 1, 4), &Device::Cpu).unwrap().contiguous().unwrap();
        let mut narrow = cache(DType::F16);
        narrow.reserve(0, 1).unwrap();
        let error: Error = narrow.write(0, 0, &large, &given(0..1)).doing("to run the model").err().unwrap().into();
        assert!(matches!(error, Error::BadKv { value, dtype: KvDType::F16 } if value == 65_520.0), "{error}");
        assert_eq!(error.to_string(), "a key or a value of 65520 does not fit into a KV cache of `f16`");
        assert!(error.hint().unwrap().to_string().contains("`f32`"));
        let mut wide = cache(DType::F32);
        wide.reserve(0, 1).unwrap();
        wide.write(0, 0, &large, &given(0..1)).unwrap();
    }
}
