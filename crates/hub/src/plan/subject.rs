//! What is to be loaded: a model's form and where its weights lie, from headers or from the catalog.

use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::gguf::Gguf;
use tandem_core::{DType, Result};

use crate::catalog::CatalogEntry;

/// A model as the plan sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// Its form.
    pub shape: Shape,
    /// Where its weights lie.
    pub weights: Weights,
    /// Bytes of `tokenizer.json`.
    pub tokenizer_bytes: u64,
}

/// The sizes of a decoder; see [`ModelConfig`] for their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Width of the hidden states.
    pub hidden_size: u64,
    /// Width inside the feed-forward block.
    pub intermediate_size: u64,
    /// Layers.
    pub n_layers: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Key and value heads.
    pub n_kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// The head is the embedding.
    pub tied: bool,
    /// The most tokens that it was made for.
    pub max_context: u64,
}

/// Where weights lie.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// In safetensors files, mapped, of which the engine makes what it computes with.
    Checkpoint {
        /// Bytes of the weights as stored: an engine that keeps them so takes no more.
        bytes: u64,
    },
    /// In one GGUF file, mapped, of which the engine makes blocks of its own.
    Gguf {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes of what is made of it.
        made: u64,
    },
    /// In a graph that is loaded as it is.
    Graph(GraphWeights),
}

/// The constants of a graph by what the engine does with them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GraphWeights {
    /// Floats that products multiply by (`MatMul`, `Gemm`), which the engine copies into an order of its own.
    pub float_products: u64,
    /// Codes and scales of 8 and 4 bits that products multiply by (`MatMulNBits`).
    pub block_products: u64,
    /// All others: embeddings, norms, tables.
    pub others: u64,
    /// Those of the products that something else reads too, such as an embedding that is the head.
    pub shared: u64,
    /// How many of all these lie inside the graph's own file rather than beside it.
    pub inline: u64,
    /// Bytes of a value in the KV cache.
    pub kv_value: u64,
    /// Keys and values are appended to in place.
    pub in_place: bool,
}

/// Bytes of a published `tokenizer.json` for each entry of the vocabulary: Qwen2.5's has 7.0 MB for 151,936, Llama 3.2's 17.2 MB for
/// 128,256 and Qwen3's 11.4 MB.
const TOKENIZER_BYTES_OF_TOKEN: u64 = 80;

impl Subject {
    /// A checkpoint or a GGUF file of `files` as candle makes it of `dtype`, or as it is stored; nothing but headers is read.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Gguf::open`].
    pub fn of_weights(files: &ModelFiles, config: &ModelConfig, dtype: Option<DType>) -> Result<(DType, Self)> {
        let Some(path) = files.gguf() else {
            let mut subject = Self::of_checkpoint(files, config)?;
            if let Weights::Checkpoint { bytes } = &mut subject.weights
                && !config.architecture.has_llama_form()
            {
                // candle-transformers, which keeps no narrow floats.
                *bytes *= 2;
            }
            return Ok((dtype.unwrap_or(DType::F32), subject));
        };
        let gguf = Gguf::open(path)?;
        let (mut made, mut stored) = (0, DType::F32);
        for (name, kind) in gguf.tensors() {
            let n: u64 = gguf.tensor(name)?.shape.iter().map(|&size| size as u64).product();
            // As stored, or floats of all of it where those are asked for; narrow floats stay so in either case.
            let kept = match (kind.dtype(), dtype) {
                (floats @ (DType::F32 | DType::F16 | DType::Bf16), None | Some(DType::F32)) => floats,
                (stored, dtype) => dtype.unwrap_or(stored),
            };
            made += bytes_of(kept, n);
            stored = if kind.dtype() == DType::Int4 || kind.dtype() == DType::Int8 { kind.dtype() } else { stored };
        }
        let weights = Weights::Gguf { bytes: ModelFile::Path(path.into()).len()?, made };
        Ok((dtype.unwrap_or(stored), Self::of(files, config, weights)?))
    }

    /// A checkpoint of `files`, by its headers.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn of_checkpoint(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let checkpoint = Checkpoint::open(files)?;
        let names: Vec<String> = checkpoint.names().map(ToOwned::to_owned).collect();
        let bytes = names.iter().map(|name| checkpoint.tensor(name).map_or(0, |tensor| tensor.bytes.len() as u64)).sum();
        Self::of(files, config, Weights::Checkpoint { bytes })
    }

    /// A model of `files` with `weights`.
    ///
    /// # Errors
    /// When the tokenizer cannot be looked at.
    pub fn of(files: &ModelFiles, config: &ModelConfig, weights: Weights) -> Result<Self> {
        let tokenizer_bytes = match files.gguf() {
            // It is a part of the file.
            Some(_) => TOKENIZER_BYTES_OF_TOKEN * config.vocab_size as u64,
            None => files.tokenizer.as_ref().map_or(Ok(0), ModelFile::len)?,
        };
        Ok(Self { shape: Shape::of(config), weights, tokenizer_bytes })
    }

    /// The checkpoint of a catalog's entry, published in 16-bit floats.
    pub fn of_entry(entry: &CatalogEntry) -> Self {
        Self {
            shape: Shape {
                vocab_size: entry.vocabulary as u64,
                hidden_size: entry.hidden_size as u64,
                intermediate_size: entry.intermediate_size as u64,
                n_layers: entry.layers as u64,
                n_heads: entry.heads as u64,
                n_kv_heads: entry.kv_heads as u64,
                head_dim: entry.head_dim as u64,
                tied: entry.tied_head,
                max_context: entry.context as u64,
            },
            weights: Weights::Checkpoint { bytes: 2 * entry.parameters },
            tokenizer_bytes: TOKENIZER_BYTES_OF_TOKEN * entry.vocabulary as u64,
        }
    }
}

impl Shape {
    /// The form that a configuration describes.
    pub fn of(config: &ModelConfig) -> Self {
        Self {
            vocab_size: config.vocab_size as u64,
            hidden_size: config.hidden_size as u64,
            intermediate_size: config.intermediate_size as u64,
            n_layers: config.n_layers as u64,
            n_heads: config.n_heads as u64,
            n_kv_heads: config.n_kv_heads as u64,
            head_dim: config.head_dim() as u64,
            tied: config.tie_word_embeddings,
            max_context: config.max_context as u64,
        }
    }

    /// Values of the queries of one token.
    pub(super) fn query_size(&self) -> u64 {
        self.n_heads * self.head_dim
    }

    /// Values of the keys, or the values, of one token in one layer.
    pub(super) fn kv_size(&self) -> u64 {
        self.n_kv_heads * self.head_dim
    }

    /// Weights of the layers' projections.
    pub(super) fn projections(&self) -> u64 {
        let attention = self.hidden_size * (self.query_size() + 2 * self.kv_size()) + self.query_size() * self.hidden_size;
        self.n_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
    }

    /// Weights of the embedding; the head has as many.
    pub(super) fn embedding(&self) -> u64 {
        self.vocab_size * self.hidden_size
    }

    /// Keys and values of `n_tokens` when one takes `value` bytes.
    pub(super) fn kv_bytes(&self, n_tokens: u64, value: u64) -> u64 {
        2 * self.n_layers * self.kv_size() * value * n_tokens
    }
}

/// Bytes of `n` weights as `dtype`, blocks of 32 with a scale of 32 bits where it is quantised: what both backends make.
pub(super) fn bytes_of(dtype: DType, n: u64) -> u64 {
    match dtype {
        DType::F32 => 4 * n,
        DType::F16 | DType::Bf16 => 2 * n,
        DType::Int8 => n + n / 8,
        DType::Int4 => n / 2 + n / 8,
    }
}
