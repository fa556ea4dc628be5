//! Keys and values in a layout that belongs to no engine.

use super::DType;
use crate::error::{Error, Result};

/// The sizes of a KV cache. Two models can exchange keys and values when these are equal and the weights are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder layers.
    pub n_layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Keys (after rotation) and values of consecutive tokens of one sequence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KvState {
    /// The sizes of the cache.
    pub shape: KvShape,
    /// The position of the first token.
    pub first_position: usize,
    /// The number of tokens.
    pub n_tokens: usize,
    /// What the engine stored them in; to `f32` and back is exact.
    pub dtype: DType,
    /// `[n_layers, 2, kv_heads, n_tokens, head_dim]`: of each layer keys, then values.
    pub data: Vec<f32>,
}

impl KvShape {
    /// Values for `n_tokens` of all layers, keys and values together; `None` beyond the address space.
    pub fn n_values(&self, n_tokens: usize) -> Option<usize> {
        [2, self.kv_heads, n_tokens, self.head_dim].into_iter().try_fold(self.n_layers, usize::checked_mul)
    }
}

impl KvState {
    /// Of `data`, which a backend read out of its cache.
    pub fn new(shape: KvShape, first_position: usize, n_tokens: usize, dtype: DType, data: Vec<f32>) -> Self {
        Self { shape, first_position, n_tokens, dtype, data }
    }

    /// Refuses keys and values of another shape than `own`, that of a session that imports them.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] with both shapes.
    pub fn require_shape(&self, own: KvShape) -> Result<()> {
        if self.shape == own {
            return Ok(());
        }
        let KvShape { n_layers, kv_heads, head_dim } = own;
        let problem = format!("the model has {n_layers} layers of {kv_heads} heads of {head_dim}");
        Err(Error::invalid_option("keys and values", format!("{:?}", self.shape), problem))
    }

    /// Whether `data` has the length that the sizes say.
    pub fn is_whole(&self) -> bool {
        self.shape.n_values(self.n_tokens) == Some(self.data.len())
    }
}
