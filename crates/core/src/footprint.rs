//! How much memory a model takes, in parts that a person can read. Each backend states its own; above, plans are made of them.

use std::num::Saturating;
use std::sync::Arc;

use serde::Serialize;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::files::ModelFiles;
use crate::primitives::DType;

/// A number of values or bytes. Sizes that a file states may be any numbers: what exceeds all of them is the largest.
pub type Count = Saturating<u64>;

/// How full a session gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens that the session holds when it is fullest.
    pub n_tokens: usize,
    /// Tokens that it may hold at most; its memory grows up to this.
    pub context_length: usize,
}

/// What a run takes, in parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Footprint {
    /// There from loading to the end.
    pub kept: Vec<Part>,
    /// There while the model is loaded only.
    pub loading: Vec<Part>,
    /// There while tokens are computed only.
    pub running: Vec<Part>,
    /// What decoding reads of it.
    pub decoding: Decoding,
}

/// What limits the speed of decoding: every token reads the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Decoding {
    /// Bytes of weights that are read for a token.
    pub bytes_per_token: u64,
    /// The share of the memory's [bandwidth](crate::bandwidth) at which the engine reads them, 0 to 1, as measured.
    pub efficiency: f64,
}

/// One part of a footprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is, in words.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// It is the content of a file: the kernel can take it back and read it again, at the price of time.
    pub is_file: bool,
}

/// The sizes of a model by which memory is planned; see [`ModelConfig`] for their meaning. They come from a model's headers or from a
/// catalog, which has the same facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Rows of the embedding.
    pub vocab_size: Count,
    /// Width of the hidden states.
    pub hidden_size: Count,
    /// Width inside the feed-forward block.
    pub intermediate_size: Count,
    /// Matrices of that block: three where it has a gate, else two.
    pub n_mlp_matrices: Count,
    /// Layers.
    pub n_layers: Count,
    /// Query heads.
    pub n_heads: Count,
    /// Key and value heads.
    pub n_kv_heads: Count,
    /// Width of a head.
    pub head_dim: Count,
    /// The head is the embedding.
    pub tied: bool,
    /// It generates text; without that it has no KV cache and no head.
    pub generates: bool,
    /// The most tokens that it was made for.
    pub max_context: Count,
    /// Bytes of the weights as they are stored.
    pub stored_bytes: Count,
    /// Bytes of `tokenizer.json`.
    pub tokenizer_bytes: Count,
}

/// What an opened model takes, by the work it does; it outlives the model's loading.
pub type EstimateFootprint = Arc<dyn Fn(&Workload) -> Footprint + Send + Sync>;

/// The feed-forward width of most decoders in hidden widths, where only a graph knows it.
const USUAL_INNER_RATIO: Count = Saturating(4);

/// Bytes of a published `tokenizer.json` for each entry of the vocabulary: Qwen2.5's has 7.0 MB for 151,936, Llama 3.2's 17.2 MB for
/// 128,256 and Qwen3's 11.4 MB.
const TOKENIZER_BYTES_OF_TOKEN: Count = Saturating(80);

/// Bytes that a tokenizer's tables take for each byte of `tokenizer.json`, measured with one of 151,646 tokens.
const TOKENIZER_TABLES: Count = Saturating(8);

/// Copies of a row of logits: the product, the values taken out of it, and the sampler's candidates.
const LOGITS_COPIES: Count = Saturating(4);

impl Footprint {
    /// The most that is in memory at once: what is kept, and the worse of loading and running.
    pub fn sum(&self) -> u64 {
        total(self.parts())
    }

    /// That part of it that the kernel cannot take back.
    pub fn unreclaimable(&self) -> u64 {
        let own = |parts: &[Part]| total(parts.iter().filter(|part| !part.is_file));
        own(&self.kept).saturating_add(own(&self.loading).max(own(&self.running)))
    }

    /// The parts that are there when most is in memory.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let phase = if total(&self.loading) > total(&self.running) { &self.loading } else { &self.running };
        self.kept.iter().chain(phase)
    }
}

impl Decoding {
    /// How many tokens a second are decoded where memory gives `bandwidth` bytes a second: the estimate for an empty session of a model
    /// that no cache holds.
    pub fn tokens_per_second(&self, bandwidth: f64) -> f64 {
        bandwidth * self.efficiency / self.bytes_per_token.max(1) as f64
    }
}

impl Part {
    /// Memory of the process's own.
    pub fn own(name: &'static str, bytes: Count) -> Self {
        Self { name, bytes: bytes.0, is_file: false }
    }

    /// A mapped file.
    pub fn file(name: &'static str, bytes: Count) -> Self {
        Self { name, bytes: bytes.0, is_file: true }
    }
}

impl ModelShape {
    /// That of the model of `files`, whose weights take `stored_bytes` there.
    ///
    /// # Errors
    /// When the tokenizer's size cannot be read.
    pub fn of(files: &ModelFiles, config: &ModelConfig, stored_bytes: u64) -> Result<Self> {
        let tokenizer_bytes = match (files.gguf(), &files.tokenizer) {
            // It is a part of the file.
            (Some(_), _) => Self::usual_tokenizer_bytes(count(config.vocab_size)),
            (None, Some(tokenizer)) => Saturating(tokenizer.len()?),
            (None, None) => Saturating(0),
        };
        Ok(Self {
            vocab_size: count(config.vocab_size),
            hidden_size: count(config.hidden_size),
            intermediate_size: match config.intermediate_size {
                0 => USUAL_INNER_RATIO * count(config.hidden_size),
                known => count(known),
            },
            n_mlp_matrices: count(config.n_mlp_matrices()),
            n_layers: count(config.n_layers),
            n_heads: count(config.n_heads),
            n_kv_heads: count(config.n_kv_heads),
            head_dim: count(config.head_dim()),
            tied: config.tie_word_embeddings,
            generates: config.is_causal,
            max_context: count(config.max_context),
            stored_bytes: Saturating(stored_bytes),
            tokenizer_bytes,
        })
    }

    /// What a published `tokenizer.json` of `vocab_size` entries has, more or less.
    pub fn usual_tokenizer_bytes(vocab_size: Count) -> Count {
        TOKENIZER_BYTES_OF_TOKEN * vocab_size
    }

    /// Values of the queries of one token.
    pub fn query_size(&self) -> Count {
        self.n_heads * self.head_dim
    }

    /// Values of the keys, or the values, of one token in one layer.
    pub fn kv_size(&self) -> Count {
        self.n_kv_heads * self.head_dim
    }

    /// Weights of the layers' projections.
    pub fn projections(&self) -> Count {
        let attention =
            self.hidden_size * (self.query_size() + Saturating(2) * self.kv_size()) + self.query_size() * self.hidden_size;
        self.n_layers * (attention + self.n_mlp_matrices * self.hidden_size * self.intermediate_size)
    }

    /// Weights of the embedding; the head has as many.
    pub fn embedding(&self) -> Count {
        self.vocab_size * self.hidden_size
    }

    /// Weights that decoding reads for a token: of an embedding that is not the head, it reads one row.
    pub fn read_per_token(&self) -> Count {
        self.projections() + self.embedding()
    }

    /// Keys and values of `n_tokens` when one takes `value` bytes.
    pub fn kv_bytes(&self, n_tokens: Count, value: Count) -> Count {
        Saturating(2) * self.n_layers * self.kv_size() * value * n_tokens
    }

    /// What a tokenizer takes in memory, whatever the engine.
    pub fn tokenizer(&self) -> Part {
        Part::own("tokenizer", TOKENIZER_TABLES * self.tokenizer_bytes)
    }

    /// What the logits of one token take, from the engine's product to the sampler.
    pub fn logits(&self) -> Part {
        Part::own("logits", LOGITS_COPIES * Saturating(4) * self.vocab_size)
    }
}

/// Bytes of `n` weights as `dtype`, in blocks of 32 with a scale of 32 bits where it is quantised: what both engines make of a
/// checkpoint.
pub fn weight_bytes(dtype: DType, n: Count) -> Count {
    match dtype {
        DType::F32 => Saturating(4) * n,
        DType::F16 | DType::Bf16 => Saturating(2) * n,
        DType::Int8 => n + n / Saturating(8),
        DType::Int4 => n / Saturating(2) + n / Saturating(8),
    }
}

/// A size that a configuration states.
fn count(n: usize) -> Count {
    Saturating(n as u64)
}

fn total<'p>(parts: impl IntoIterator<Item = &'p Part>) -> u64 {
    parts.into_iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
}
