//! What to build: a decoder's shape, and the format of the graph.

use super::plan::Part;
use super::weights::{FloatType, WeightType};
use crate::error::{Error, Result};

/// Bounds far above any real model, within which a mistaken or hostile configuration causes neither overflow nor exhaustion of memory:
/// products of three sizes fit 64 bits, and a table of rope fits 1 GiB.
pub(super) const MAX_LAYERS: usize = 4096;
pub(super) const MAX_SIZE: usize = (1 << 21) - 1;
const MAX_ROPE: usize = 1 << 28;

/// The shape of a decoder of the Llama family: RMS norms, grouped-query attention with rotary positions, a gated
/// feed-forward block with SiLU.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// The model's name in messages.
    pub name: String,
    /// The prefix of weight names before `layers`, `embed_tokens` and `norm`: `model.`, or empty for a checkpoint without a head.
    pub prefix: String,
    /// Decoder layers.
    pub n_layers: usize,
    /// Rows of the embedding and of the logits.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one attention head; even.
    pub head_dim: usize,
    /// The epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// The query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Queries and keys pass an RMS norm of `head_dim` weights before rotation.
    pub qk_norm: bool,
    /// The projection out of attention has a bias.
    pub attention_output_bias: bool,
    /// The three projections of the feed-forward block have a bias.
    pub mlp_bias: bool,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Rotary position embedding.
    pub rope: RopeTable,
    /// The attention window of each layer in tokens, the current one included; `None` is unlimited. One entry per layer.
    pub layer_windows: Vec<Option<usize>>,
}

/// The angles of rotary position embedding, of which the graph holds cosine and sine for each position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Radians per position, for each of `head_dim / 2` pairs, with the scaling of long contexts applied.
    pub inverse_frequencies: Vec<f32>,
    /// The factor of cosine and sine; 1 except for YaRN.
    pub attention_scaling: f32,
    /// Positions in the table: the longest sequence.
    pub n_positions: usize,
}

/// The format of the graph.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// What the graph computes.
    pub outputs: Outputs,
    /// How the projections of the layers are stored.
    pub weights: WeightFormat,
    /// How the head is stored, and a tied embedding with it.
    pub head: WeightFormat,
    /// The blocks of quantised matrices.
    pub blocks: Blocks,
    /// Matrices of floats are stored as checkpoints have them, `[outputs, inputs]`, in this type, and are cast to floats of 32 bits where it is
    /// narrower; every matrix of the checkpoint must be of it, unless it is that of 32 bits. `None` stores what `MatMul` multiplies by without a
    /// further operator: `[inputs, outputs]`, in the type that the graph computes in. Only with layers of [`WeightFormat::F32`], of decoders.
    pub rows: Option<WeightType>,
    /// The layers' projections have inputs for a low-rank adapter (LoRA).
    pub adapter_inputs: bool,
    /// Named texts for the file, such as where the weights came from.
    pub metadata: Vec<(String, String)>,
}

/// What a graph computes besides the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// `logits`
    Logits,
    /// `hidden_states`, for embeddings; the head is left out.
    HiddenStates,
    /// Both.
    LogitsAndHiddenStates,
}

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// Floats of the graph's own type, whatever the checkpoint has: 32 bits, or 16 where the layers have 16.
    F32,
    /// 16-bit floats, for accelerators: the graph computes in them and keeps its KV cache in them; logits and hidden states are output
    /// with 32 bits. If the layers have this format, so does the head.
    F16,
    /// 8-bit integers with a float scale for each block.
    Int8,
    /// 4-bit integers with a float scale for each block.
    Int4,
}

/// How the rows of quantised weights are divided into blocks. The default is 32 and symmetric, the finest that is fast everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Inputs that share a scale: 16, 32, 64 or 128.
    pub size: usize,
    /// The middle code is zero. Otherwise each block has a zero point besides its scale, which costs one code's bits.
    pub symmetric: bool,
}

impl DecoderSpec {
    /// The table of words.
    pub(super) fn embedding(&self) -> Part {
        Part { name: format!("{}embed_tokens.weight", self.prefix), shape: vec![self.vocab_size, self.hidden_size] }
    }

    /// The width of the queries over all heads.
    pub(super) fn query_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// The width of the keys, or of the values, over all heads.
    pub(super) fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Width of a head in the KV cache: `GroupQueryAttention` accepts multiples of 8 only, and other heads are padded with zeros.
    pub fn cached_head_dim(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    /// Whether `GroupQueryAttention` rotates queries and keys itself, which it does for heads of multiples of 16.
    pub(super) fn rotates_in_attention(&self) -> bool {
        self.head_dim.is_multiple_of(16)
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |field: &str, problem: String| Err(Error::bad_field(&self.name, field, problem));
        if !(1..=MAX_LAYERS).contains(&self.n_layers) {
            return refuse("n_layers", format!("`{}` is not between 1 and {MAX_LAYERS}", self.n_layers));
        }
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
        ] {
            if !(1..=MAX_SIZE).contains(&value) {
                return refuse(field, format!("`{value}` is not between 1 and {MAX_SIZE}"));
            }
        }
        self.rope.check(&self.name, self.head_dim)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return refuse("n_kv_heads", format!("`{}` does not divide `{}` heads", self.n_kv_heads, self.n_heads));
        }
        if self.layer_windows.len() != self.n_layers {
            return refuse("layer_windows", format!("{} of them for {} layers", self.layer_windows.len(), self.n_layers));
        }
        if let Some(window) = self.layer_windows.iter().flatten().find(|&&window| !(1..1 << 31).contains(&window)) {
            return refuse("layer_windows", format!("`{window}` is not a number of tokens"));
        }
        Ok(())
    }
}

impl RopeTable {
    /// Whether the table of the model called `name` fits heads of `head_dim`, and memory.
    pub(super) fn check(&self, name: &str, head_dim: usize) -> Result<()> {
        let refuse = |field: &str, problem: String| Err(Error::bad_field(name, field, problem));
        if !(1..=MAX_SIZE).contains(&self.n_positions) {
            return refuse("rope.n_positions", format!("`{}` is not between 1 and {MAX_SIZE}", self.n_positions));
        }
        if self.n_positions * head_dim > MAX_ROPE {
            let problem = format!("`{}` positions for heads of {head_dim} are more than a table can hold", self.n_positions);
            return refuse("rope.n_positions", problem);
        }
        if self.inverse_frequencies.len() * 2 != head_dim {
            let problem = format!("{} of them for heads of {head_dim}", self.inverse_frequencies.len());
            return refuse("rope.inverse_frequencies", problem);
        }
        Ok(())
    }

    /// Cosines or sines, `[n_positions, head_dim / 2]`, computed as transformers does: the angle in 32 bits, then its cosine or sine, then
    /// the scaling. Source: `LlamaRotaryEmbedding.forward`.
    pub(super) fn values(&self, function: fn(f64) -> f64) -> Vec<f32> {
        let positions = (0..self.n_positions).map(|position| position as f32);
        let angles = positions.flat_map(|position| self.inverse_frequencies.iter().map(move |frequency| position * frequency));
        angles.map(|angle| function(f64::from(angle)) as f32 * self.attention_scaling).collect()
    }
}

impl Outputs {
    pub(super) fn logits(self) -> bool {
        matches!(self, Self::Logits | Self::LogitsAndHiddenStates)
    }

    pub(super) fn hidden_states(self) -> bool {
        matches!(self, Self::HiddenStates | Self::LogitsAndHiddenStates)
    }
}

impl BuildOptions {
    /// Whether the format is possible; `name` is the model's.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        if self.head == WeightFormat::F16 && self.weights != WeightFormat::F16 {
            return Err(Error::bad_field(name, "head", "a head of 16-bit floats goes with layers of 16-bit floats only"));
        }
        if self.rows.is_some() && self.weights != WeightFormat::F32 {
            return Err(Error::bad_field(name, "rows", "only matrices of floats of 32 bits are stored in rows"));
        }
        if ![16, 32, 64, 128].contains(&self.blocks.size) {
            return Err(Error::bad_field(name, "blocks.size", format!("`{}` is not 16, 32, 64 or 128", self.blocks.size)));
        }
        Ok(())
    }

    /// The type in which the graph computes.
    pub(super) fn float(&self) -> FloatType {
        match self.weights {
            WeightFormat::F16 => FloatType::F16,
            _ => FloatType::F32,
        }
    }
}

impl Default for Blocks {
    fn default() -> Self {
        Self { size: 32, symmetric: true }
    }
}

impl WeightFormat {
    /// Its name in the file's metadata.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bits of a quantised weight.
    pub(super) fn bits(self) -> Option<usize> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Int8 => Some(8),
            Self::Int4 => Some(4),
        }
    }
}
