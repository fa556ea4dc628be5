//! What a KV cache is like: its shape, its dtype, and where it lies.

use candle_core::{DType, Device, Result, Tensor};
use tandem_core::kv_memory::BLOCK_POSITIONS;
use tandem_kernels::attention::CacheLayout;

/// The shape, dtype and device of the keys and values of one layer.
#[derive(Clone)]
pub(crate) struct KvLayout {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    /// Our kernels read it, on the processor in f32 or f16.
    pub(crate) for_kernels: bool,
}

impl KvLayout {
    pub(crate) fn empty(&self, capacity: usize) -> Result<Tensor> {
        Tensor::zeros((self.kv_heads, capacity, self.head_dim), self.dtype, &self.device)
    }

    /// How the keys, or the values, of one of so many layers lie in the blocks.
    pub(crate) fn blocks(&self, n_layers: usize) -> CacheLayout {
        let layout = CacheLayout::contiguous([self.kv_heads, BLOCK_POSITIONS, self.head_dim]);
        CacheLayout { stride: 2 * n_layers * layout.block_len(), ..layout }
    }
}
