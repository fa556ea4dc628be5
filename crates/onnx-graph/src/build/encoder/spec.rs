//! What an encoder consists of: its sizes, and the weights of each part by name.

use super::super::spec::{BuildOptions, MAX_LAYERS, MAX_SIZE, Outputs, RopeTable};
use crate::error::{Error, Result};

/// A transformer in which every token sees all others, or those within a window: BERT and its descendants, and decoders that were trained
/// further to encode. What a part does not have is `None`.
#[derive(Clone, Debug)]
pub struct EncoderSpec {
    /// The model's name in messages.
    pub name: String,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one attention head.
    pub head_dim: usize,
    /// What products of queries and keys are multiplied by.
    pub score_scale: f32,
    /// The activation of the feed-forward block.
    pub activation: Activation,
    /// The feed-forward block is `down(activation(a) * b)`, where `up` gives `a` and `b` side by side.
    pub is_gated: bool,
    /// From tokens to the first layer.
    pub embedding: EmbeddingSpec,
    /// A bias of the scores by the distance of two tokens, the same for all layers.
    pub relative_bias: Option<RelativeBias>,
    /// The tables of rotary positions that layers use.
    pub ropes: Vec<RopeTable>,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// The norm of the last layer's output.
    pub final_norm: Option<Norm>,
    /// Tokens see those before them only, and a window is of those alone.
    pub is_causal: bool,
    /// The graph has an input `attention_mask`, for programs that pad.
    pub has_mask: bool,
}

/// What is added up for each token.
#[derive(Clone, Debug)]
pub struct EmbeddingSpec {
    /// A row for each word of the vocabulary.
    pub words: Table,
    /// A factor of the words' rows.
    pub scale: Option<f32>,
    /// A row for each type of token: with one row it is always added, otherwise the input `token_type_ids` says which.
    pub token_types: Option<Table>,
    /// Learned positions: the table, and the row of the first token.
    pub positions: Option<(Table, usize)>,
    /// The norm of the sum.
    pub norm: Option<Norm>,
}

/// A matrix of rows of `hidden_size`.
#[derive(Clone, Debug)]
pub struct Table {
    /// The weight's name.
    pub weight: String,
    /// The number of rows.
    pub rows: usize,
}

/// A bias by distance, in T5's buckets. Raffel et al., <https://arxiv.org/abs/1910.10683>.
#[derive(Clone, Debug)]
pub struct RelativeBias {
    /// The weight, `[n_buckets, n_heads]`.
    pub weight: String,
    /// Half of them for tokens before, half for those behind.
    pub n_buckets: usize,
    /// Distances from here on are in the last bucket.
    pub max_distance: usize,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct EncoderLayer {
    /// Queries, keys and values: a matrix for each of them, or one of all three.
    pub qkv: Linear,
    /// The norm of each query head.
    pub query_norm: Option<Norm>,
    /// The norm of each key head.
    pub key_norm: Option<Norm>,
    /// Its table in [`EncoderSpec::ropes`].
    pub rope: Option<usize>,
    /// How many tokens in either direction a token sees, itself included; `None` is all.
    pub window: Option<usize>,
    /// The projection out of attention.
    pub attention_out: Linear,
    /// Around attention.
    pub attention_norms: Norms,
    /// The projections into the feed-forward block: one, or `a` and `b` of a gated block, which may also be in one matrix.
    pub up: Linear,
    /// The projection out of it.
    pub down: Linear,
    /// Around the feed-forward block.
    pub mlp_norms: Norms,
}

/// Where a block `f` has its norms: `of_sum(x + after(f(before(x))))`.
#[derive(Clone, Debug, Default)]
pub struct Norms {
    /// Of what goes into it.
    pub before: Option<Norm>,
    /// Of what comes out of it.
    pub after: Option<Norm>,
    /// Of the sum with the residual.
    pub of_sum: Option<Norm>,
}

/// A norm over the last dim.
#[derive(Clone, Debug)]
pub struct Norm {
    /// How it is computed.
    pub kind: NormKind,
    /// The weight's name.
    pub weight: String,
    /// The bias's name.
    pub bias: Option<String>,
    /// The epsilon.
    pub epsilon: f32,
}

/// The kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Mean 0 and variance 1. Ba et al., <https://arxiv.org/abs/1607.06450>.
    Layer,
    /// Mean square 1. Zhang and Sennrich, <https://arxiv.org/abs/1910.07467>.
    Rms,
    /// The same, and the weight is stored less 1: Gemma's.
    RmsOfOnePlus,
}

/// Weights `[outputs, inputs]` that are stacked, and a bias for each or none at all.
#[derive(Clone, Debug, Default)]
pub struct Linear {
    /// The weights' names.
    pub weights: Vec<String>,
    /// The biases' names.
    pub biases: Vec<String>,
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x/2 * (1 + erf(x / √2))`
    Gelu,
    /// The approximation of it by a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + exp(-x))`
    Silu,
}

impl EncoderSpec {
    /// The width of the queries over all heads.
    pub(super) fn query_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// The width of the keys, or of the values, over all heads.
    pub(super) fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// The width of what goes into the activation.
    pub(super) fn up_size(&self) -> usize {
        self.intermediate_size * if self.is_gated { 2 } else { 1 }
    }

    pub(in crate::build) fn check(&self, options: &BuildOptions) -> Result<()> {
        let refuse = |field: &str, problem: String| Err(Error::bad_field(&self.name, field, problem));
        if options.outputs != Outputs::HiddenStates || options.adapter_inputs {
            return refuse("outputs", "an encoder gives hidden states, and takes no adapters".into());
        }
        if options.rows.is_some() {
            return refuse("rows", "the matrices of an encoder are stored as `MatMul` takes them".into());
        }
        if !(1..=MAX_LAYERS).contains(&self.layers.len()) {
            return refuse("layers", format!("`{}` is not between 1 and {MAX_LAYERS}", self.layers.len()));
        }
        let tables = [self.embedding.token_types.as_ref(), self.embedding.positions.as_ref().map(|(table, _)| table)];
        let tables = tables.into_iter().flatten().map(|table| (table.weight.as_str(), table.rows));
        for (field, value) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("words", self.embedding.words.rows),
        ]
        .into_iter()
        .chain(tables)
        {
            if !(1..=MAX_SIZE).contains(&value) {
                return refuse(field, format!("`{value}` is not between 1 and {MAX_SIZE}"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return refuse("n_kv_heads", format!("`{}` does not divide `{}` heads", self.n_kv_heads, self.n_heads));
        }
        if self.relative_bias.is_some() && self.n_heads != self.n_kv_heads {
            return refuse("relative_bias", "it goes with a key head for each query head only".into());
        }
        self.ropes.iter().try_for_each(|rope| rope.check(&self.name, self.head_dim))?;
        for (index, layer) in self.layers.iter().enumerate() {
            layer.check(self).or_else(|problem| refuse(&format!("layers.{index}"), problem.into()))?;
        }
        Ok(())
    }
}

impl EncoderLayer {
    fn check(&self, spec: &EncoderSpec) -> std::result::Result<(), &'static str> {
        let fits = |linear: &Linear, counts: &[usize]| {
            counts.contains(&linear.weights.len()) && [0, linear.weights.len()].contains(&linear.biases.len())
        };
        let up = if spec.is_gated { [1, 2].as_slice() } else { &[1] };
        if !(fits(&self.qkv, &[1, 3]) && fits(&self.attention_out, &[1]) && fits(&self.up, up) && fits(&self.down, &[1])) {
            return Err("a projection has another number of weights or biases than it can have");
        }
        if self.rope.is_some_and(|rope| rope >= spec.ropes.len()) {
            return Err("its table of rotary positions is not there");
        }
        if self.window.is_some_and(|window| !(1..=MAX_SIZE << 9).contains(&window)) {
            return Err("its window is not a number of tokens");
        }
        Ok(())
    }
}
