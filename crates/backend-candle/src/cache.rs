//! Keys and values of one sequence, written in place: `[kv_heads, capacity, head_dim]` for each layer.

use candle_core::{DType, Device, Result, Tensor};
use tandem_core::allocator;

/// Tokens that there is room for at first; room doubles when it is used up.
const FIRST_CAPACITY: usize = 256;

/// The keys and values of every layer.
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
    kept: Kept,
    capacity: usize,
    context_length: usize,
}

/// What is kept of a token in each layer, and where.
#[derive(Clone)]
pub(crate) struct Kept {
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
    /// An empty one that grows up to `context_length`.
    pub(crate) fn new(n_layers: usize, kept: Kept, context_length: usize) -> Result<Self> {
        let capacity = FIRST_CAPACITY.min(context_length);
        let layers = (0..n_layers).map(|_| Ok(LayerCache { keys: kept.empty(capacity)?, values: kept.empty(capacity)? }));
        Ok(Self { layers: layers.collect::<Result<_>>()?, kept, capacity, context_length })
    }

    /// Makes room for `n_tokens`, of which the first `held` are kept.
    pub(crate) fn reserve(&mut self, held: usize, n_tokens: usize) -> Result<()> {
        if n_tokens <= self.capacity {
            return Ok(());
        }
        let capacity = n_tokens.max(2 * self.capacity).min(self.context_length);
        let grown = |old: &Tensor| -> Result<Tensor> {
            let new = self.kept.empty(capacity)?;
            if held > 0 {
                new.slice_set(&old.narrow(1, 0, held)?.contiguous()?, 1, 0)?;
            }
            Ok(new)
        };
        // The number of tokens is that of every layer: none is replaced before all are made.
        let layers = self.layers.iter().map(|layer| Ok(LayerCache { keys: grown(&layer.keys)?, values: grown(&layer.values)? }));
        self.layers = layers.collect::<Result<_>>()?;
        self.capacity = capacity;
        // What was outgrown is too small for what comes next.
        allocator::trim();
        Ok(())
    }

    /// Writes `keys` and `values`, `[kv_heads, n, head_dim]`, of layer `layer` after the first `held` tokens, and returns all.
    pub(crate) fn write(&self, layer: usize, held: usize, keys: &Tensor, values: &Tensor) -> Result<&LayerCache> {
        let layer = &self.layers[layer];
        layer.keys.slice_set(keys, 1, held)?;
        layer.values.slice_set(values, 1, held)?;
        Ok(layer)
    }
}

impl Kept {
    fn empty(&self, capacity: usize) -> Result<Tensor> {
        Tensor::zeros((self.kv_heads, capacity, self.head_dim), self.dtype, &self.device)
    }
}
