//! Keys and values in a layout that belongs to no engine.

use std::ops::Range;

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

    /// What it has of some tokens, counted from its first.
    ///
    /// # Panics
    /// For tokens that it has not.
    #[must_use]
    pub fn part(&self, tokens: Range<usize>) -> Self {
        let width = self.shape.head_dim;
        let own = tokens.start * width..tokens.end * width;
        let heads = self.data.chunks_exact((self.n_tokens * width).max(1));
        let data = heads.flat_map(|head| &head[own.clone()]).copied().collect();
        Self { first_position: self.first_position + tokens.start, n_tokens: tokens.len(), data, ..self.clone() }
    }

    /// The largest difference from `other`, in parts of the largest value of its keys or values of its layer; `None` for other sizes and for
    /// values that are not finite.
    pub fn difference(&self, other: &Self) -> Option<f64> {
        if (self.shape, self.n_tokens) != (other.shape, other.n_tokens) || !self.is_whole() || !other.is_whole() {
            return None;
        }
        let size = (self.data.len() / (2 * self.shape.n_layers).max(1)).max(1);
        let mut most = 0.0_f64;
        for (own, other) in self.data.chunks_exact(size).zip(other.data.chunks_exact(size)) {
            let largest = other.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let differs = own.iter().zip(other).map(|(own, other)| (own - other).abs());
            if !own.iter().chain(other).all(|value| value.is_finite()) {
                return None;
            }
            let by = differs.fold(0.0_f32, f32::max);
            most = most.max(if by == 0.0 { 0.0 } else { f64::from(by) / f64::from(largest) });
        }
        Some(most)
    }

    /// Whether `data` has the length that the sizes say.
    pub fn is_whole(&self) -> bool {
        self.shape.n_values(self.n_tokens) == Some(self.data.len())
    }
}
