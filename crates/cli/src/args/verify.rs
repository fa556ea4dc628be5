//! The options of `tandem fingerprint` and `tandem verify-index`.

use std::path::PathBuf;

use clap::Args;

use super::{EmbeddingOptions, EngineOptions, ModelArg, OutputArgs, examples};

/// Describe the vectors that a model makes.
///
/// Where the `id` is equal a text has the same vector, to within the rounding of engine and dtype: it is a hash of the weights, of what the
/// tokenizer does, and of pooling, prompt, normalisation, dimensions and length. Queries and documents have different ones where their prompts
/// differ.
#[derive(Args, Debug)]
#[command(after_help = examples::FINGERPRINT)]
pub(crate) struct FingerprintArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) embedding: EmbeddingOptions,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Check that the vectors of an index are those that a model makes.
///
/// Some rows are embedded again. Where they differ, other prompts, poolings, ends, lengths and more are tried, and what explains the index is
/// named.
#[derive(Args, Debug)]
#[command(after_help = examples::VERIFY_INDEX)]
pub(crate) struct VerifyIndexArgs {
    /// The index: `.jsonl` with a text and a vector in each line, or `.npy` with the texts in `--input`
    #[arg(value_name = "FILE")]
    pub(crate) index: PathBuf,
    /// The model: as for `tandem embed`
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// The texts of a `.npy` file, in its order
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    pub(crate) input: Option<PathBuf>,
    /// The field, or the column, that has the text
    #[arg(long, value_name = "NAME", default_value = "text", help_heading = "Input")]
    pub(crate) field: String,
    /// The field that has the vector
    #[arg(long, value_name = "NAME", default_value = "embedding", help_heading = "Input")]
    pub(crate) vector_field: String,
    /// Number of rows to embed again
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Input")]
    pub(crate) rows: usize,
    #[command(flatten)]
    pub(crate) embedding: EmbeddingOptions,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
