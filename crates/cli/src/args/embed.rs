//! The options of `tandem embed`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tandem::embedding::{Chunking, EmbedOptions, Normalize, Pool, Pooling, Prompt, Role, Similarity, Truncate};

use super::engine::one_of;
use super::{EngineOptions, ModelArg, OutputArgs, examples};

/// Make vectors of texts with an embedding model.
///
/// Pooling, normalisation, prompts and the longest text are what the model's publisher says, in the files of sentence-transformers; what
/// follows a rule instead is said on standard error. A vector does not depend on the texts around it.
///
/// Texts are arguments, lines of standard input, or records of a file, and vectors come in their order. Memory does not grow with the
/// input. Ctrl-C keeps what is done: `--resume` goes on.
///
/// With `--chunk`, a row is a part of a text: `index` is the text, `chunk` which part of it, `start` and `end` its characters in the text,
/// all counted from 0. Beside an array they are in `FILE.chunks.npy`, a row for each vector. Tokens of a prompt and of the tokenizer come
/// on top of those of a chunk, within what the model takes.
#[derive(Args, Debug)]
#[command(after_help = examples::EMBED)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The texts; without any, each line of standard input is one
    pub(crate) texts: Vec<String>,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) embedding: EmbeddingOptions,
    /// Divide texts into chunks of at most this many tokens, each beginning with so many of the one before; every chunk has a vector
    #[arg(long, value_name = "TOKENS:OVERLAP", help_heading = "Embedding")]
    pub(crate) chunk: Option<Chunking>,
    #[command(flatten)]
    pub(crate) vectors: VectorArgs,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// Read texts from this file: `.jsonl`, `.csv` and `.parquet` by their field, any other a text for each line
    #[arg(long, value_name = "FILE", conflicts_with = "texts")]
    pub(crate) input: Option<PathBuf>,
    /// The field, or the column, that has the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) field: String,
}

/// How a text becomes a vector.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Embedding")]
pub(crate) struct EmbeddingOptions {
    /// What the texts are for: the model's prompt for it is put before each [default: the model's default prompt, which few have]
    #[arg(long, value_name = "ROLE", value_parser = one_of::<Role>())]
    pub(crate) role: Option<Role>,
    /// Put this before each text
    #[arg(long, value_name = "TEXT", conflicts_with = "role")]
    pub(crate) prompt: Option<String>,
    /// Put the model's prompt of this name before each text
    #[arg(long, value_name = "NAME", conflicts_with_all = ["role", "prompt"])]
    pub(crate) prompt_name: Option<String>,
    /// Keep this many dimensions, the first ones [default: the model's]
    #[arg(long, value_name = "N")]
    pub(crate) dimensions: Option<usize>,
    /// Divide vectors by their length: `auto` as the model's files say, `yes` at the end, `no` nowhere
    #[arg(long, value_name = "WHEN", value_parser = one_of::<Normalize>(), default_value_t)]
    pub(crate) normalize: Normalize,
    /// What to do with a text that is too long: cut its `end` or `start`, or `error`
    #[arg(long, value_name = "HOW", value_parser = one_of::<Truncate>(), default_value_t)]
    pub(crate) truncate: Truncate,
    /// How the hidden states of tokens become a vector, whatever the model's files say
    #[arg(long, value_name = "POOLING", value_parser = one_of::<Pool>())]
    pub(crate) pooling: Option<Pool>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Vectors")]
pub(crate) struct VectorArgs {
    /// Write vectors to this file, in the format of its name: `.jsonl`, `.npy` or `.parquet`
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Format of the vectors [default: that of the file's name; `table` on a terminal, else `jsonl`]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<VectorFormat>,
    /// Type of the values: `f32`, `f16`, `int8` (each vector scaled to 127) or `binary` (a bit for each value above 0)
    #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
    pub(crate) precision: Precision,
    /// Leave the text out of `jsonl` and `parquet`
    #[arg(long)]
    pub(crate) no_text: bool,
    /// Embed texts that occur more than once only once
    #[arg(long)]
    pub(crate) dedupe: bool,
    /// Go on where an earlier run with the same file was stopped
    #[arg(long, requires = "file")]
    pub(crate) resume: bool,
    /// Replace the file
    #[arg(long, requires = "file", conflicts_with = "resume")]
    pub(crate) force: bool,
    /// Show how alike the texts are instead of their vectors, by the model's measure or this one
    #[arg(
        long,
        value_name = "MEASURE",
        value_parser = one_of::<Similarity>(),
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "cosine",
        conflicts_with_all = ["file", "format", "precision"]
    )]
    pub(crate) similarity: Option<Similarity>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VectorFormat {
    /// For people: the first values of each.
    Table,
    /// One JSON object for each text.
    Jsonl,
    /// NumPy's array format.
    Npy,
    /// Columns, in a build with the feature `parquet`.
    Parquet,
}

/// What values are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// As computed.
    #[default]
    F32,
    /// Rounded to 16 bits.
    F16,
    /// Scaled so that the largest of a vector is 127, and rounded.
    Int8,
    /// A bit for each value, set above 0; the first is the highest of its byte.
    Binary,
}

impl EmbeddingOptions {
    /// As the library takes them.
    pub(crate) fn options(&self) -> EmbedOptions {
        let prompt = match (&self.role, &self.prompt, &self.prompt_name) {
            (Some(role), ..) => Prompt::Role(*role),
            (_, Some(text), _) => Prompt::Text(text.clone()),
            (.., Some(name)) => Prompt::Named(name.clone()),
            _ => Prompt::Default,
        };
        EmbedOptions::new()
            .with_prompt(prompt)
            .with_dimensions(self.dimensions)
            .with_normalize(self.normalize)
            .with_truncate(self.truncate)
    }

    /// The pooling that was asked for.
    pub(crate) fn pooling(&self) -> Option<Pooling> {
        self.pooling.map(Pooling::of)
    }
}
