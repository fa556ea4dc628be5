//! Values that lie between the tokens and the logits, so that two engines can be held against each other stage by stage.

use std::fmt;

use super::TokenId;
use crate::error::Result;

/// What is computed at one place of a decoder or an encoder, in the order in which it is computed.
///
/// Where an encoder norms the sum of a block and what it was given, that norm is the sum's stage: no other has its place. What it adds to
/// tokens before the first layer is part of the embedding.
///
/// A backend gives the stages that it has: a model without norms of queries and keys has none of them, and an engine that turns queries
/// within its attention does not show them turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The rows of the embedding: `[n, hidden_size]`.
    Embedding,
    /// The norm before attention: `[n, hidden_size]`.
    AttentionNorm,
    /// Queries with their bias: `[n, heads * head_dim]`.
    Query,
    /// Keys with their bias: `[n, kv_heads * head_dim]`.
    Key,
    /// Values with their bias: `[n, kv_heads * head_dim]`.
    Value,
    /// Queries after their norm.
    QueryNorm,
    /// Keys after their norm.
    KeyNorm,
    /// Queries after they were turned by their positions.
    QueryRope,
    /// Keys after they were turned by their positions.
    KeyRope,
    /// What the heads read from the values: `[n, heads * head_dim]`.
    AttentionContext,
    /// The projection out of attention: `[n, hidden_size]`.
    AttentionOutput,
    /// The sum of it and what the layer was given.
    AttentionResidual,
    /// The norm before the feed-forward block: `[n, hidden_size]`.
    MlpNorm,
    /// The projection that becomes the gate: `[n, intermediate_size]`.
    Gate,
    /// The projection that is gated, or the only one.
    Up,
    /// The gated product, or the activation.
    Activation,
    /// The projection out of the feed-forward block: `[n, hidden_size]`.
    Down,
    /// The sum of it and what the block was given: the layer's result.
    MlpResidual,
    /// The norm after the last layer: `[n, hidden_size]`.
    FinalNorm,
    /// The logits: `[n, vocab_size]`.
    Logits,
}

/// A stage of one layer, or one before or behind all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbePoint {
    /// The layer; `None` for the embedding, the last norm and the logits.
    pub layer: Option<usize>,
    /// The stage.
    pub stage: Stage,
}

/// Shows the values between tokens and logits: for finding where two engines part, not for speed.
pub trait Prober {
    /// What one pass over `tokens` computes at those of `points` that this model shows, in the order of computation.
    ///
    /// # Errors
    /// Those of [`Session::append_into`](super::Session::append_into).
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>>;
}

/// The values at one point for every token: `[n_tokens, width]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Where.
    pub point: ProbePoint,
    /// The values.
    pub values: Vec<f32>,
    /// The size of a row.
    pub width: usize,
}

impl Stage {
    /// Those before the layers.
    pub const BEFORE: [Self; 1] = [Self::Embedding];
    /// Those of a layer.
    pub const OF_LAYER: [Self; 17] = [
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::QueryRope,
        Self::KeyRope,
        Self::AttentionContext,
        Self::AttentionOutput,
        Self::AttentionResidual,
        Self::MlpNorm,
        Self::Gate,
        Self::Up,
        Self::Activation,
        Self::Down,
        Self::MlpResidual,
    ];
    /// Those behind the layers.
    pub const AFTER: [Self; 2] = [Self::FinalNorm, Self::Logits];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::AttentionNorm => "attention_norm",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::QueryNorm => "query_norm",
            Self::KeyNorm => "key_norm",
            Self::QueryRope => "query_rope",
            Self::KeyRope => "key_rope",
            Self::AttentionContext => "attention_context",
            Self::AttentionOutput => "attention_output",
            Self::AttentionResidual => "attention_residual",
            Self::MlpNorm => "mlp_norm",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Activation => "activation",
            Self::Down => "down",
            Self::MlpResidual => "mlp_residual",
            Self::FinalNorm => "final_norm",
            Self::Logits => "logits",
        }
    }
}

impl ProbePoint {
    /// Every point of a decoder of `n_layers`, in the order of computation.
    pub fn all(n_layers: usize) -> Vec<Self> {
        let outside = |stages: &'static [Stage]| stages.iter().map(|&stage| Self { layer: None, stage });
        let layers = (0..n_layers).flat_map(Self::of_layer);
        outside(&Stage::BEFORE).chain(layers).chain(outside(&Stage::AFTER)).collect()
    }

    /// Every point of one layer, in the order of computation.
    pub fn of_layer(layer: usize) -> impl Iterator<Item = Self> {
        Stage::OF_LAYER.into_iter().map(move |stage| Self { layer: Some(layer), stage })
    }
}

impl Probe {
    /// Takes `values` of shape `[n_tokens, values.len() / n_tokens]`.
    ///
    /// # Panics
    /// When `values` is not a whole number of rows: a mistake of the backend.
    pub fn new(point: ProbePoint, values: Vec<f32>, tokens: &[TokenId]) -> Self {
        assert!(!tokens.is_empty() && values.len().is_multiple_of(tokens.len()), "values of whole rows");
        let width = values.len() / tokens.len();
        Self { point, values, width }
    }

    /// Those of token `i`: `[width]`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for ProbePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "layer {layer} {}", self.stage),
            None => write!(f, "{}", self.stage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_in_the_order_of_computation() {
        let points = ProbePoint::all(2);
        assert_eq!(points.len(), 1 + 2 * 17 + 2);
        let of_first: Vec<Stage> = points.iter().filter(|point| point.layer == Some(0)).map(|point| point.stage).collect();
        assert!(of_first.is_sorted(), "{of_first:?}");
        assert_eq!((points[0].to_string(), points[18].to_string()), ("embedding".into(), "layer 1 attention_norm".into()));
        assert_eq!(points.last().unwrap().stage, Stage::Logits);
    }
}
