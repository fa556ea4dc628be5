//! The options of `tandem bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use tandem::adapters::AdapterRef;
use tandem::named::ParseNameError;
use tandem::{BackendKind, DType, Kernels, KvDType, Numerics};

use super::engine::one_of;
use super::onnx::LibraryArg;
use super::{DeviceChoice, OutputArgs, examples};

/// Benchmark a model on this machine: speed, memory and loss of accuracy for each backend and dtype.
///
/// Of a model that generates text, prompts and decoding are measured; of an embedding model, queries, batches of texts of equal length, and
/// texts of mixed length.
///
/// Each combination of backend, dtype and number of threads is an entry. Entries take turns, and each round runs in a separate process,
/// so that disturbances affect all of them alike. An entry is called faster only when the 95% interval shows it and the difference is at
/// least 3%. Every sample is kept.
///
/// Ctrl-C ends the benchmark: what was measured is kept, and the exit code is 1. With `--gate`, the exit code is 3 for a loss, and 1 for
/// figures that cannot be judged: too few, not in the baseline, or of a run that other programs disturbed.
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
    /// Backends, separated by commas [default: all of this build]
    #[arg(long = "backend", value_name = "BACKEND", value_delimiter = ',', value_parser = one_of::<BackendKind>())]
    pub(crate) backends: Vec<BackendKind>,
    /// Where to run: `cpu`, `cuda`, `cuda:N`, `coreml`, or `auto` for the best that can be used [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceChoice>,
    /// Dtypes of the weights [default: f32, int8 and, to generate, int4 of a checkpoint, a graph's own otherwise; none beside `--graph`]
    #[arg(long = "dtype", value_name = "DTYPE", value_delimiter = ',', value_parser = one_of::<DType>())]
    pub(crate) dtypes: Vec<DType>,
    /// Numbers of threads [default: the number of available processors]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(crate) threads: Vec<NonZeroUsize>,
    /// How products with quantised weights are computed: `fast`, `exact`, or both [default: fast]
    #[arg(long, value_name = "NUMERICS", value_delimiter = ',', value_parser = one_of::<Numerics>())]
    pub(crate) numerics: Vec<Numerics>,
    /// Generating: dtypes of the KV cache, `f32`, `f16`, or both [default: as in `tandem run`]
    #[arg(long = "kv-dtype", value_name = "DTYPE", value_delimiter = ',', value_parser = one_of::<KvDType>())]
    pub(crate) kv_dtypes: Vec<KvDType>,
    /// Whether idle threads of ONNX Runtime spin: `false`, `true`, or both [default: false, as in `tandem run`]
    #[arg(long, value_name = "BOOL", value_delimiter = ',')]
    pub(crate) spin: Vec<bool>,
    /// Whose kernels ONNX Runtime computes with on the processor: `tandem`, `runtime`, or both [default: tandem, and runtime without AVX2]
    #[arg(long, value_name = "KERNELS", value_delimiter = ',', value_parser = one_of::<Kernels>())]
    pub(crate) kernels: Vec<Kernels>,
    /// Also measure these graphs of the model, separated by commas
    #[arg(long = "graph", value_name = "FILE", value_delimiter = ',')]
    pub(crate) graphs: Vec<PathBuf>,
    /// Generating: also measure each entry with this low-rank adapter, a directory or a file, `=SCALE` of it (repeatable: their sum)
    #[arg(long, value_name = "ADAPTER[=SCALE]")]
    pub(crate) adapter: Vec<AdapterRef>,
    #[command(flatten)]
    pub(crate) library: LibraryArg,
    /// Program to use for a backend instead of this one
    #[arg(long = "program", value_name = "BACKEND=FILE", hide = true)]
    pub(crate) programs: Vec<Program>,
}

/// What is measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Workload")]
pub(crate) struct WorkOptions {
    /// Whether to generate text or to embed [default: what the model was made for]
    #[arg(long, value_name = "TASK", value_enum)]
    pub(crate) task: Option<BenchTask>,
    /// Generating: prompt lengths in tokens [default: 32,128,512]
    #[arg(long = "prompt", value_name = "N", value_delimiter = ',')]
    pub(crate) prompts: Option<Vec<usize>>,
    /// Generating: number of tokens to decode at each depth [default: 64]
    #[arg(long = "generate", value_name = "N")]
    pub(crate) n_generated: Option<NonZeroUsize>,
    /// Generating: numbers of tokens in the context before decoding [default: 0,512]
    #[arg(long = "depth", value_name = "N", value_delimiter = ',')]
    pub(crate) depths: Option<Vec<usize>>,
    /// Generating: also decode so many sequences together at each depth, and compare them with one
    #[arg(long = "parallel", value_name = "N", value_delimiter = ',')]
    pub(crate) parallel: Option<Vec<usize>>,
    /// Embedding: lengths of texts of equal length in tokens [default: 16,32,128,256]
    #[arg(long = "length", value_name = "N", value_delimiter = ',')]
    pub(crate) lengths: Option<Vec<usize>>,
    /// Embedding: numbers of texts of equal length at once [default: 1,8,32]
    #[arg(long = "batch", value_name = "N", value_delimiter = ',')]
    pub(crate) batches: Option<Vec<usize>>,
    /// Embedding: number of texts of mixed length at once, about 70 tokens on average; 0 for none [default: 128]
    #[arg(long = "mixed", value_name = "N")]
    pub(crate) n_mixed: Option<usize>,
    /// Embedding: number of queries of 16 tokens, one after the other, for up to 4 seconds [default: 200]
    #[arg(long = "queries", value_name = "N")]
    pub(crate) n_queries: Option<usize>,
    /// Number of rounds; with fewer than 6, no difference can be told from chance
    #[arg(long, value_name = "N", default_value = "7")]
    pub(crate) rounds: NonZeroUsize,
}

/// What a user would pick instead.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Peers")]
pub(crate) struct PeerOptions {
    /// Also measure another program: `llama-bench=PROGRAM`, `genai=PYTHON` (an interpreter with onnxruntime-genai), `candle-transformers`, or,
    /// for embedding, `python=WORKER` (`training/embeddings/peers.py`)
    #[arg(long = "peer", value_name = "PEER")]
    pub(crate) peers: Vec<Peer>,
    /// Engines of `python=WORKER`, separated by commas [default: those whose packages are installed]
    #[arg(long = "peer-kind", value_name = "KIND", value_delimiter = ',')]
    pub(crate) kinds: Vec<String>,
    /// Interpreter for `python=WORKER`
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    pub(crate) python: PathBuf,
    /// GGUF file for llama-bench (repeatable)
    #[arg(long = "gguf", value_name = "FILE")]
    pub(crate) ggufs: Vec<PathBuf>,
    /// Model directory for genai [default: an int4 export of MODEL, made once into the cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) genai_model: Option<PathBuf>,
}

/// What becomes of the figures.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Report")]
pub(crate) struct ReportOptions {
    /// Save every sample to this file as JSON, after each round [default: a file in the cache]
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Write the report as one HTML file, with charts
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Compare with an earlier benchmark, a file written by `--output`
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Fail when something takes 10% more time or memory than in the baseline, beyond chance, or cannot be compared with it
    #[arg(long, requires = "baseline")]
    pub(crate) gate: bool,
    /// Report on files written by `--output` instead of measuring; their samples are combined
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) report: Vec<PathBuf>,
    /// Facts on the programs that are measured
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) builds: Option<PathBuf>,
}

/// What a model is measured at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchTask {
    /// It generates text.
    Generate,
    /// It makes vectors of texts.
    Embed,
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
    /// A program of Python that embeds with other engines.
    Python(PathBuf),
}

impl Peer {
    /// What it is asked for by.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::LlamaBench(_) => "llama-bench",
            Self::Genai(_) => "genai",
            Self::CandleTransformers => "candle-transformers",
            Self::Python(_) => "python",
        }
    }
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
            Some(("python", path)) if !path.is_empty() => Ok(Self::Python(path.into())),
            None if text == "candle-transformers" => Ok(Self::CandleTransformers),
            _ => Err(format!(
                "`{text}` is not one of `llama-bench=PROGRAM`, `genai=PYTHON`, `candle-transformers`, `python=WORKER`"
            )),
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
        assert_eq!("python=peers.py".parse(), Ok(Peer::Python("peers.py".into())));
        for wrong in ["llama-bench", "genai=", "python=", "ollama=x", "candle-transformers=x"] {
            assert!(wrong.parse::<Peer>().unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
