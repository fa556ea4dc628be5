//! The options of `tandem rerank`.

use std::path::PathBuf;

use clap::Args;
use tandem::rerank::TruncatePair;

use super::engine::one_of;
use super::{EngineOptions, ModelArg, OutputArgs, examples};

/// Order documents by how well they answer a query.
///
/// The model is a cross-encoder, or a language model that was trained to judge documents. A score is what its publisher makes of the logit:
/// most often a number between 0 and 1. The score of a document does not depend on the others.
#[derive(Args, Debug)]
#[command(after_help = examples::RERANK)]
pub(crate) struct RerankArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The documents; without any, each line of standard input is one
    pub(crate) documents: Vec<String>,
    /// The query
    #[arg(short = 'Q', long, value_name = "TEXT")]
    pub(crate) query: String,
    /// Read documents from this file: `.jsonl`, `.csv` and `.parquet` by their field, any other a document for each line
    #[arg(long, value_name = "FILE", conflicts_with = "documents")]
    pub(crate) input: Option<PathBuf>,
    /// The field, or the column, that has the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) field: String,
    /// Report only this many, the best
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<usize>,
    /// What the task is, for models that read a prompt [default: what their template says]
    #[arg(long, value_name = "TEXT")]
    pub(crate) instruction: Option<String>,
    /// What to cut of a pair that is too long: the `longest` of the two, or the `document`
    #[arg(long, value_name = "WHICH", value_parser = one_of::<TruncatePair>(), default_value_t)]
    pub(crate) truncate_pair: TruncatePair,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
