//! The options of `tandem bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use tandem::named::ParseNameError;
use tandem::{BackendKind, DType, Numerics};

use super::engine::one_of;
use super::onnx::LibraryArg;
use super::{DeviceChoice, OutputArgs, examples};

/// Measure how fast a model runs here, and what each backend and dtype costs.
///
/// Every backend, dtype and thread count that is named is an entry. Each round of each entry is a process of its own, and they
/// take turns, so that what the machine does meanwhile happens to all of them. One is called faster only where intervals of 95% say so
/// and the gap is 3% or more. Every sample is kept.
///
/// Ctrl-C ends it: what was measured stays, and the exit code is 1. The exit code is 3 when `--gate` finds a loss.
#[derive(Args, Debug)]
#[command(after_help = examples::BENCH)]
pub(crate) struct BenchArgs {
    /// The model: `demo`, `auto`, a name of the catalog such as `qwen2.5:0.5b`, a path, or `owner/name[@revision]` on the hub
    #[arg(value_name = "MODEL", required_unless_present_any = ["shape", "report", "worker"], conflicts_with_all = ["shape", "report"])]
    pub(crate) model: Option<String>,
    /// Random weights in the shape of this published model, made once into the cache
    #[arg(long, value_name = "NAME")]
    pub(crate) shape: Option<String>,
    #[command(flatten)]
    pub(crate) entries: EntryOptions,
    #[command(flatten)]
    pub(crate) work: WorkOptions,
    #[command(flatten)]
    pub(crate) peers: PeerOptions,
    #[command(flatten)]
    pub(crate) report: ReportOptions,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Do one piece of work that standard input asks for
    #[arg(long, hide = true)]
    pub(crate) worker: bool,
}

/// Who takes part.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Entries")]
pub(crate) struct EntryOptions {
    /// Engines, with commas between them [default: all of this build]
    #[arg(long = "backend", value_name = "BACKEND", value_delimiter = ',', value_parser = one_of::<BackendKind>())]
    pub(crate) backends: Vec<BackendKind>,
    /// Where to run: `cpu`, `cuda`, `cuda:N`, `coreml`, or `auto` for the best that can be used [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceChoice>,
    /// Dtypes of the weights [default: f32, int8 and int4 of a checkpoint, a graph's own otherwise; none beside `--graph`]
    #[arg(long = "dtype", value_name = "DTYPE", value_delimiter = ',', value_parser = one_of::<DType>())]
    pub(crate) dtypes: Vec<DType>,
    /// Numbers of threads [default: the processors that this process may use]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(crate) threads: Vec<NonZeroUsize>,
    /// In what the products with quantised weights are computed: `fast`, `exact`, or both [default: fast]
    #[arg(long, value_name = "NUMERICS", value_delimiter = ',', value_parser = one_of::<Numerics>())]
    pub(crate) numerics: Vec<Numerics>,
    /// Whether idle threads of ONNX Runtime spin: `false`, `true`, or both [default: false, as in `tandem run`]
    #[arg(long, value_name = "BOOL", value_delimiter = ',')]
    pub(crate) spin: Vec<bool>,
    /// Let these graphs of the model's take part, with commas between them
    #[arg(long = "graph", value_name = "FILE", value_delimiter = ',')]
    pub(crate) graphs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) library: LibraryArg,
    /// The program that has a backend, in the place of this one
    #[arg(long = "program", value_name = "BACKEND=FILE", hide = true)]
    pub(crate) programs: Vec<Program>,
}

/// What is measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Work")]
pub(crate) struct WorkOptions {
    /// Lengths of prompts in tokens
    #[arg(long = "prompt", value_name = "N", value_delimiter = ',', default_value = "32,128,512")]
    pub(crate) prompts: Vec<usize>,
    /// Tokens to decode at each depth
    #[arg(long = "generate", value_name = "N", default_value = "64")]
    pub(crate) n_generated: NonZeroUsize,
    /// Tokens that are there before decoding begins
    #[arg(long = "depth", value_name = "N", value_delimiter = ',', default_value = "0,512")]
    pub(crate) depths: Vec<usize>,
    /// Sequences of 128 tokens to encode at once, on models that give hidden states
    #[arg(long = "batch", value_name = "N", value_delimiter = ',')]
    pub(crate) batches: Vec<NonZeroUsize>,
    /// Turns of each entry; of fewer than 6, no difference can be told from chance
    #[arg(long, value_name = "N", default_value = "7")]
    pub(crate) rounds: NonZeroUsize,
}

/// What a user would pick instead.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Peers")]
pub(crate) struct PeerOptions {
    /// Let it take part: `llama-bench=PROGRAM`, `genai=PYTHON` (an interpreter with onnxruntime-genai), or `candle-transformers`
    #[arg(long = "peer", value_name = "PEER")]
    pub(crate) peers: Vec<Peer>,
    /// A model for llama-bench; several may be given
    #[arg(long = "gguf", value_name = "FILE")]
    pub(crate) ggufs: Vec<PathBuf>,
    /// A model for genai [default: an int4 export of MODEL, made once into the cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) genai_model: Option<PathBuf>,
}

/// What becomes of the figures.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Report")]
pub(crate) struct ReportOptions {
    /// Where every sample goes, as JSON, after each round [default: the last bench in the cache]
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Write the report as one HTML file with charts
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Compare with an earlier bench, as `--output` wrote it
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Exit with 3 when something takes 10% more time or memory than in the baseline, beyond chance
    #[arg(long, requires = "baseline")]
    pub(crate) gate: bool,
    /// Measure nothing: report on these files, as `--output` wrote them, their samples together
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) report: Vec<PathBuf>,
    /// Facts on the programs that are measured
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) builds: Option<PathBuf>,
}

/// A program with a backend.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) backend: BackendKind,
    pub(crate) path: PathBuf,
}

/// Someone else's engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// llama.cpp's own benchmark.
    LlamaBench(PathBuf),
    /// An interpreter with onnxruntime-genai.
    Genai(PathBuf),
    /// candle's models, in this program.
    CandleTransformers,
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (backend, path) = text.split_once('=').ok_or("is not BACKEND=FILE")?;
        Ok(Self { backend: backend.parse().map_err(|error: ParseNameError| error.to_string())?, path: path.into() })
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("llama-bench", path)) if !path.is_empty() => Ok(Self::LlamaBench(path.into())),
            Some(("genai", path)) if !path.is_empty() => Ok(Self::Genai(path.into())),
            None if text == "candle-transformers" => Ok(Self::CandleTransformers),
            _ => Err(format!("`{text}` is not one of `llama-bench=PROGRAM`, `genai=PYTHON`, `candle-transformers`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_with_what_runs_them() {
        assert_eq!("llama-bench=./x".parse(), Ok(Peer::LlamaBench("./x".into())));
        assert_eq!("genai=python3".parse(), Ok(Peer::Genai("python3".into())));
        assert_eq!("candle-transformers".parse(), Ok(Peer::CandleTransformers));
        for wrong in ["llama-bench", "genai=", "ollama=x", "candle-transformers=x"] {
            assert!(wrong.parse::<Peer>().unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
