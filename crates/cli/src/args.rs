//! The command line as clap reads it: types and help, no behaviour.

mod bench;
mod engine;
mod examples;
mod form;
mod generation;
mod models;
mod onnx;
mod parity;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use self::bench::{BenchArgs, ContenderOptions, Peer, ReportOptions};
pub(crate) use self::engine::{ComputeArgs, DeviceChoice, EngineOptions, WeightsArgs};
pub(crate) use self::form::FormOptions;
pub(crate) use self::generation::GenerationOptions;
pub(crate) use self::models::{ListArgs, PullArgs, RmArgs};
pub(crate) use self::onnx::{LibraryArg, OnnxArgs};
pub(crate) use self::parity::{ParityArgs, SideChoice};

/// Local text generation on engines that are held to the same answer.
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
    Score(ScoreArgs),
    Bench(BenchArgs),
    Show(ShowArgs),
    Export(ExportArgs),
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
/// The text goes to standard output as it comes, one line of figures to standard error. The prompt is what a person says to the
/// model, in the model's chat template; with `--raw` it is a text to continue.
///
/// Ctrl-C ends the generation: what was generated stays, and the exit code is 1. A second Ctrl-C ends the program at once.
#[derive(Args, Debug)]
#[command(after_help = examples::RUN, after_long_help = examples::RUN_LONG)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The prompt; `-`, or none when standard input is no terminal, reads it from standard input
    ///
    /// One line end at the end of standard input is left out.
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) generation: GenerationOptions,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Talk with a model.
///
/// The conversation stays in the KV cache: each turn computes only what is new. `/help` lists what can be done besides talking.
/// Ctrl-C ends an answer and keeps the conversation. Without a terminal, each line of standard input is one message.
#[derive(Args, Debug)]
#[command(after_help = examples::CHAT)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Begin with the conversation that `/save` wrote
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Keep no history of what was typed
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) generation: GenerationOptions,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Say how probable a model finds a text: log-probabilities and perplexity.
///
/// Each token is scored given all tokens before it; the first has none before it and no score. Log-probabilities are natural
/// logarithms, the rank counts the tokens that are more probable, and the perplexity is the exponential of the mean negative
/// log-probability.
#[derive(Args, Debug)]
#[command(after_help = examples::SCORE)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The text; `-`, or none when standard input is no terminal, reads it from standard input
    pub(crate) text: Option<String>,
    /// How many of the most probable tokens to give at each place
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) top: usize,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Show what a model is, which files it has and where it runs.
#[derive(Args, Debug)]
#[command(after_help = examples::SHOW)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Read the files only: load nothing, and say nothing of where it runs
    #[arg(long)]
    pub(crate) no_load: bool,
    /// Give the SHA-256 of every file
    #[arg(long)]
    pub(crate) hashes: bool,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Make a directory with an ONNX graph of a checkpoint.
///
/// The directory stands on its own: Tandem, onnxruntime-genai and any program with ONNX Runtime load it as it is. It appears when it
/// is whole; Ctrl-C leaves nothing. The same checkpoint and dtype give the same bytes. Memory holds a few of the largest weights,
/// whatever the size of the model.
///
/// A model need not be exported to be run: `tandem run` makes the graph of a checkpoint itself and keeps it in the cache.
#[derive(Args, Debug)]
#[command(after_help = examples::EXPORT)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) form: FormOptions,
    /// The directory to make [default: the model's name and the dtype, here]
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Put it in the place of an earlier export
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// List the devices that can be used, and why others cannot.
///
/// Backends that this build does not have are listed too. The exit code is 0 whatever can be used.
#[derive(Args, Debug)]
#[command(after_help = examples::DEVICES)]
pub(crate) struct DevicesArgs {
    #[command(flatten)]
    pub(crate) library: LibraryArg,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Look whether everything that is needed works, and say what to do.
///
/// Each device that is said to be usable has to compute something. The exit code is 1 when something that is needed does not work.
#[derive(Args, Debug)]
#[command(after_help = examples::DOCTOR)]
pub(crate) struct DoctorArgs {
    /// Read every file of the models in the cache, and compare it with its hash
    #[arg(long)]
    pub(crate) verify: bool,
    /// As `--verify`, and download again what is damaged
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) library: LibraryArg,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Obtain ONNX Runtime's library for this user.
///
/// One pinned wheel is obtained through Python's package client, checked by its SHA-256, and one file of it is put into the user's
/// cache. When the library is there already, nothing is done.
#[derive(Args, Debug)]
#[command(after_help = examples::SETUP)]
pub(crate) struct SetupArgs {
    /// Take the library from this wheel and download nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) wheel: Option<PathBuf>,
    /// Obtain it even when it is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Write a script that completes this command line in a shell.
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
    /// A path is that of a directory with a model's files, of an `.onnx` file within one, or of a `.gguf` file. Where a repository of the
    /// hub has several GGUF files, `owner/name:Q4_K_M` names one of them. `auto` is the largest model of the catalog that fits the memory.
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
    /// Say nothing on standard error but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say on standard error what was chosen: device, seed, versions
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
            Self::Score(args) => args.output,
            Self::Bench(args) => args.output,
            Self::Show(args) => args.output,
            Self::Export(args) => args.output,
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
