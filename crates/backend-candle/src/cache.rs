//! The KV cache of one sequence: `[kv_heads, capacity, head_dim]` for each layer, written in place, so that a rewind only changes a number.

use candle_core::{DType, Device, Result, Tensor};
use tandem_core::allocator;

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
        layer.keys.slice_set(keys, 1, held)?;
        layer.values.slice_set(values, 1, held)?;
        Ok(layer)
    }
}

impl KvLayout {
    fn empty(&self, capacity: usize) -> Result<Tensor> {
        Tensor::zeros((self.kv_heads, capacity, self.head_dim), self.dtype, &self.device)
    }
}
