//! The command line as clap reads it: types and help, no behaviour.

mod adapter;
mod bench;
mod embed;
mod engine;
mod examples;
mod generation;
mod graph_format;
mod models;
mod onnx;
mod parity;
mod rerank;
mod verify;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use tandem::adapters::AdapterRef;

pub(crate) use self::adapter::{
    AdapterArgs, AdapterCommand, AdapterConvertArgs, AdapterForm, AdapterListArgs, AdapterShowArgs, AdapterVerifyArgs, TrainArgs,
    TrainMethod,
};
pub(crate) use self::bench::{BenchArgs, BenchTask, EntryOptions, Peer, PeerOptions, ReportOptions, WorkOptions};
pub(crate) use self::embed::{EmbedArgs, EmbeddingOptions, Precision, VectorFormat};
pub(crate) use self::engine::{ComputeArgs, DTypeArg, DeviceChoice, EngineOptions, KvArgs, WeightsArgs};
pub(crate) use self::generation::GenerationOptions;
pub(crate) use self::graph_format::GraphFormatArgs;
pub(crate) use self::models::{ListArgs, PullArgs, RmArgs};
pub(crate) use self::onnx::{LibraryArg, OnnxArgs};
pub(crate) use self::parity::{ParityArgs, SideChoice};
pub(crate) use self::rerank::RerankArgs;
pub(crate) use self::verify::{FingerprintArgs, VerifyIndexArgs};

/// Local text generation and text embeddings on engines that are held to the same answer.
#[derive(Debug, Parser)]
#[command(name = "tandem", max_term_width = 100, after_help = examples::TANDEM)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Chat(ChatArgs),
    Embed(EmbedArgs),
    Rerank(RerankArgs),
    Fingerprint(FingerprintArgs),
    VerifyIndex(VerifyIndexArgs),
    Score(ScoreArgs),
    Bench(Box<BenchArgs>),
    Show(ShowArgs),
    Export(ExportArgs),
    Adapter(AdapterArgs),
    Parity(ParityArgs),
    Pull(PullArgs),
    List(ListArgs),
    Rm(RmArgs),
    Devices(DevicesArgs),
    Doctor(DoctorArgs),
    Setup(SetupArgs),
    Completions(CompletionsArgs),
}

/// Generate text from a prompt.
///
/// The text is streamed to standard output, and one line of statistics goes to standard error. The prompt is sent as a user message
/// through the model's chat template; with `--raw` it is continued as plain text.
///
/// Ctrl-C stops the generation: the text so far remains, and the exit code is 1. A second Ctrl-C ends the program immediately.
#[derive(Args, Debug)]
#[command(after_help = examples::RUN, after_long_help = examples::RUN_LONG)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The prompt; `-`, or no prompt when standard input is not a terminal, reads it from standard input
    ///
    /// One trailing newline of standard input is removed.
    #[arg(conflicts_with = "prompts")]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) many: ManyOptions,
    #[command(flatten)]
    pub(crate) speculation: SpeculationOptions,
    #[command(flatten)]
    pub(crate) generation: GenerationOptions,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Many prompts at once.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Many prompts")]
pub(crate) struct ManyOptions {
    /// Generate from each line of FILE: a JSON string, or an object with `prompt`; `-` reads standard input
    ///
    /// Prompts are computed together. Each has what it has alone with the same seed; results are in the order of the file. Ctrl-C keeps
    /// those that are finished.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Maximum number of prompts that are computed together [default: 8]
    #[arg(long, value_name = "N")]
    pub(crate) parallel: Option<NonZeroUsize>,
    /// Compute each prompt from its first token, even where another begins with the same
    #[arg(long)]
    pub(crate) no_prefix_cache: bool,
}

/// Speculative decoding.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Speculative decoding")]
pub(crate) struct SpeculationOptions {
    /// Draft tokens by prompt lookup: from the prompt and the answer so far, and from the text of FILE if one is given
    ///
    /// Drafts are verified several at a time, and the output is the same as without. It is faster where text repeats, as in edited code,
    /// lists and quotations; where drafts are rejected, drafting pauses. FILE is a text most of which is expected in the answer.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with = "draft")]
    pub(crate) lookup: Option<Option<PathBuf>>,
    /// Draft tokens with a smaller model that has the same tokenizer
    ///
    /// Drafts are verified several at a time, and the output is the same as without.
    #[arg(long, value_name = "MODEL")]
    pub(crate) draft: Option<String>,
}

/// Chat with a model.
///
/// The conversation stays in the KV cache: each turn computes only what is new. `/help` lists the commands. Ctrl-C stops an answer and
/// keeps the conversation. Without a terminal, each line of standard input is one message.
#[derive(Args, Debug)]
#[command(after_help = examples::CHAT)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Continue a conversation that `/save` wrote
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Do not keep a history of the input
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) speculation: SpeculationOptions,
    #[command(flatten)]
    pub(crate) generation: GenerationOptions,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Score a text: log-probabilities and perplexity.
///
/// Each token is scored given all tokens before it, so the first has no score. Log-probabilities are natural logarithms, the rank is
/// the number of tokens that are more probable, and the perplexity is the exponential of the mean negative log-probability.
#[derive(Args, Debug)]
#[command(after_help = examples::SCORE)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The text; `-`, or no text when standard input is not a terminal, reads it from standard input
    pub(crate) text: Option<String>,
    /// Number of most probable tokens to report at each position
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) top: usize,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Show what a model is, which files it has and where it runs.
#[derive(Args, Debug)]
#[command(after_help = examples::SHOW)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Read the files only, without loading the model
    #[arg(long)]
    pub(crate) no_load: bool,
    /// Report the SHA-256 of every file
    #[arg(long)]
    pub(crate) hashes: bool,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Export a checkpoint to a directory with an ONNX graph.
///
/// The directory is self-contained: Tandem, onnxruntime-genai and any program with ONNX Runtime load it as it is. It is moved into
/// place when it is complete; Ctrl-C leaves nothing behind. The same checkpoint and dtype give the same bytes. Memory use is a few of
/// the largest weights, whatever the size of the model.
///
/// A model does not have to be exported to be run: `tandem run` builds the graph of a checkpoint itself and caches it.
#[derive(Args, Debug)]
#[command(after_help = examples::EXPORT)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) format: GraphFormatArgs,
    /// Merge a low-rank adapter into the weights (repeatable: their sum): a directory, a file, or `owner/name` on the hub
    #[arg(long, value_name = "ADAPTER[=SCALE]")]
    pub(crate) adapter: Vec<AdapterRef>,
    /// Directory to create [default: the model's name and the dtype, in the working directory]
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Replace an earlier export
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// List the devices, and why those that cannot be used cannot.
///
/// Backends that are not part of this build are listed too. The exit code is always 0.
#[derive(Args, Debug)]
#[command(after_help = examples::DEVICES)]
pub(crate) struct DevicesArgs {
    #[command(flatten)]
    pub(crate) library: LibraryArg,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Check the installation and suggest fixes.
///
/// Each usable device runs a small computation. The exit code is 1 when something that is needed does not work.
#[derive(Args, Debug)]
#[command(after_help = examples::DOCTOR)]
pub(crate) struct DoctorArgs {
    /// Verify the hash of every file of the cached models
    #[arg(long)]
    pub(crate) verify: bool,
    /// As `--verify`, and download damaged files again
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) library: LibraryArg,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Install ONNX Runtime's library for this user.
///
/// One pinned wheel is downloaded with pip and verified by its SHA-256, and its library is put into the user's cache. When the library
/// is already installed, nothing is done.
#[derive(Args, Debug)]
#[command(after_help = examples::SETUP)]
pub(crate) struct SetupArgs {
    /// Take the library from this wheel instead of downloading one
    #[arg(long, value_name = "FILE")]
    pub(crate) wheel: Option<PathBuf>,
    /// Install it even if it is already installed
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Print a shell completion script.
#[derive(Args, Debug)]
#[command(after_help = examples::COMPLETIONS)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ModelArg {
    /// The model: `demo`, `auto`, a name of the catalog such as `qwen2.5:0.5b`, a path, or `owner/name[@revision]` on the hub
    ///
    /// A path names a directory with a model's files, an `.onnx` file within one, or a `.gguf` file. `owner/name:Q4_K_M` selects one of
    /// several GGUF files of a repository. `auto` is the largest model of the catalog that fits into memory and is estimated to decode 10
    /// tokens per second.
    #[arg(id = "model", value_name = "MODEL")]
    pub(crate) reference: String,
}

/// What every command has.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print one JSON document and nothing else on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Print only errors on standard error
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Report on standard error what was chosen: device, seed, versions
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// `$first` with `$second`'s fields where it has none.
macro_rules! merge {
    ($first:ident, $second:ident; $($field:ident),+) => {
        Self { $($field: $first.$field.or($second.$field)),+ }
    };
}
use merge;

impl Command {
    pub(crate) fn output(&self) -> OutputArgs {
        match self {
            Self::Run(args) => args.output,
            Self::Chat(args) => args.output,
            Self::Embed(args) => args.output,
            Self::Rerank(args) => args.output,
            Self::Fingerprint(args) => args.output,
            Self::VerifyIndex(args) => args.output,
            Self::Score(args) => args.output,
            Self::Bench(args) => args.output,
            Self::Show(args) => args.output,
            Self::Export(args) => args.output,
            Self::Adapter(args) => match &args.command {
                AdapterCommand::List(args) => args.output,
                AdapterCommand::Show(args) => args.output,
                AdapterCommand::Verify(args) => args.output,
                AdapterCommand::Convert(args) => args.output,
                AdapterCommand::Train(args) => args.output,
            },
            Self::Parity(args) => args.output,
            Self::Pull(args) => args.output,
            Self::List(args) => args.output,
            Self::Rm(args) => args.output,
            Self::Devices(args) => args.output,
            Self::Doctor(args) => args.output,
            Self::Setup(args) => args.output,
            Self::Completions(_) => OutputArgs::default(),
        }
    }
}
