//! Text to vectors: what is published beside a model of how its hidden states become an embedding, read and applied.
//!
//! The format is that of sentence-transformers, in the forms before and after release 5.4 (`sentence_transformers/base/modules/` and
//! `sentence_transformer/modules/` of 6.1; `models/` of 5.1). Nothing of it is guessed: what is missing takes the rule that
//! sentence-transformers has for it, and [`EmbeddingConfig::remarks`] says so.

mod chunks;
mod config;
mod dense;
mod embedder;
mod fingerprint;
mod graph_pooling;
mod modules;
mod pooling;
mod prompts;
mod tokens;
mod vectors;
mod verify;

pub use self::chunks::{Chunk, ChunkEmbeddings, Chunking};
pub(crate) use self::config::max_tokens;
pub use self::config::{EmbeddingConfig, is_embedder};
pub use self::dense::{Dense, DenseActivation};
pub use self::embedder::{EmbedOptions, Embedder, Embeddings};
pub use self::fingerprint::{Arithmetic, Fingerprint, PROBES, Space};
pub use self::pooling::{Pool, Pooling};
pub use self::prompts::{Prompt, Prompts, Role};
pub use self::tokens::{TokenizedText, Truncate};
pub use self::vectors::{Normalize, Similarity, normalize};
pub use self::verify::{Difference, IndexRow, Verdict, Verification, verify};

/// What is done with a vector after pooling.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A linear layer with an activation.
    Dense(Dense),
    /// Division by its length.
    Normalize,
}
