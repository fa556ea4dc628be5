//! The arguments of `tandem adapter`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tandem::adapters::ALL_LINEAR;
use tandem::{DType, Device};

use super::engine::among;
use super::{OutputArgs, examples};

/// List, show, check, convert and train low-rank adapters (LoRA).
///
/// An adapter is a directory of PEFT or mlx-lm, an `.onnx_adapter` file of ONNX Runtime, a GGUF file of llama.cpp, or `owner/name[@revision]`
/// on the Hugging Face hub. `run`, `chat`, `score`, `bench`, `parity` and others apply one with `--adapter`, to any base on either engine.
#[derive(Args, Debug)]
#[command(after_help = examples::ADAPTER)]
pub(crate) struct AdapterArgs {
    #[command(subcommand)]
    pub(crate) command: AdapterCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdapterCommand {
    List(AdapterListArgs),
    Show(AdapterShowArgs),
    Verify(AdapterVerifyArgs),
    Convert(AdapterConvertArgs),
    Train(Box<TrainArgs>),
}

/// List the adapters in directories.
#[derive(Args, Debug)]
pub(crate) struct AdapterListArgs {
    /// Where to look: each of them, and the directories in it
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directories: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Show what an adapter changes: its modules, ranks and scales, the model that it was trained on, its SHA-256.
#[derive(Args, Debug)]
pub(crate) struct AdapterShowArgs {
    #[command(flatten)]
    pub(crate) adapter: AdapterArg,
    /// The model that it is for; files of ONNX Runtime and of llama.cpp may need it
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Check that an adapter fits a model: every module is there and has its shape.
///
/// The exit code is 1 when it does not fit. An adapter that was trained on a model of another name is a warning.
#[derive(Args, Debug)]
pub(crate) struct AdapterVerifyArgs {
    #[command(flatten)]
    pub(crate) adapter: AdapterArg,
    /// The model's checkpoint
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Write an adapter in another form, or merge it into a checkpoint.
///
/// Values are kept as they are: converting there and back gives the same numbers. What is written is there whole or not at all.
#[derive(Args, Debug)]
pub(crate) struct AdapterConvertArgs {
    #[command(flatten)]
    pub(crate) adapter: AdapterArg,
    /// The form
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) to: AdapterForm,
    /// The directory or file to write, which must not exist
    #[arg(short = 'o', long = "output", value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The model that it is for: the checkpoint to merge into; files of ONNX Runtime and of llama.cpp may need it
    #[arg(long, value_name = "MODEL", required_if_eq("to", "merged"))]
    pub(crate) base: Option<String>,
    /// How much of it is merged; 1 is what it was trained for
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    pub(crate) scale: f32,
    /// Dtype of what is written [default: f32; merged: that of the checkpoint]
    #[arg(long, value_name = "DTYPE", value_parser = among::<DType>(&["f32", "f16", "bf16"]))]
    pub(crate) dtype: Option<DType>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The forms that adapters are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AdapterForm {
    /// A directory of Hugging Face's PEFT
    Peft,
    /// A directory of mlx-lm
    Mlx,
    /// An `.onnx_adapter` file of ONNX Runtime
    OnnxAdapter,
    /// The checkpoint with the adapter in its weights
    Merged,
}

#[derive(Args, Debug)]
pub(crate) struct AdapterArg {
    /// The adapter: a directory, a file, or `owner/name[@revision]` on the hub
    #[arg(id = "adapter", value_name = "ADAPTER")]
    pub(crate) reference: String,
}

/// Train an adapter on conversations, on candle.
///
/// Each line of the data is a conversation: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`, or
/// `{"prompt": "…", "completion": "…"}`. What is learned are the answers of the assistant, with the model's own chat template. The result
/// is a directory of PEFT. Models of Qwen2, Qwen3, Llama and Mistral can be trained, from checkpoints.
///
/// Ctrl-C ends the training after keeping its state; `--resume` goes on as if nothing had happened. The same seed gives the same adapter.
#[derive(Args, Debug)]
#[command(after_help = examples::TRAIN)]
pub(crate) struct TrainArgs {
    /// The model to train beside: `demo`, a directory, `owner/name` on the hub, or a name of the catalog
    #[arg(value_name = "BASE")]
    pub(crate) base: String,
    /// The conversations to learn, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Conversations whose loss is measured and not learned [default: every tenth of the data]
    #[arg(long, value_name = "FILE")]
    pub(crate) held_out: Option<PathBuf>,
    /// The directory of the adapter, which must not exist
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Go on from the state that an earlier run kept
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) method: TrainMethod,
    /// Number of threads [default: the processors available to this process]
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Device: `cpu`, `cuda` or `cuda:N`
    #[arg(long, value_name = "DEVICE", default_value = "cpu", help_heading = "Engine")]
    pub(crate) device: Device,
    /// Train even if the plan of the memory does not fit
    #[arg(long, help_heading = "Engine")]
    pub(crate) no_memory_check: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What is trained, and how long.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainMethod {
    /// Rank of the factors
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) rank: NonZeroUsize,
    /// What is added is `alpha / rank` times their product [default: twice the rank]
    #[arg(long, value_name = "ALPHA")]
    pub(crate) alpha: Option<f64>,
    /// Linear layers that get factors, such as `q_proj,v_proj`, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = ALL_LINEAR)]
    pub(crate) targets: Vec<String>,
    /// Number of updates
    #[arg(long, value_name = "N", default_value = "200")]
    pub(crate) steps: NonZeroUsize,
    /// Conversations that are computed together
    #[arg(long, value_name = "N", default_value = "4")]
    pub(crate) batch: NonZeroUsize,
    /// Such batches for one update
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) accumulate: NonZeroUsize,
    /// Largest learning rate; it rises evenly during the warm-up and falls by half a cosine
    #[arg(long, value_name = "RATE", default_value_t = 2e-4)]
    pub(crate) learning_rate: f64,
    /// Updates of the warm-up [default: a twentieth of the steps]
    #[arg(long, value_name = "N")]
    pub(crate) warmup: Option<usize>,
    /// Weight decay of AdamW
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) weight_decay: f64,
    /// Longest gradient; a longer one is shortened to it, and 0 is any
    #[arg(long, value_name = "LENGTH", default_value_t = 1.0)]
    pub(crate) clip: f64,
    /// Most tokens of a conversation; what exceeds them is cut from its end
    #[arg(long, value_name = "N", default_value = "1024")]
    pub(crate) max_tokens: NonZeroUsize,
    /// Random seed of the first factors and of the order
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Updates between two measurements of the held-out loss; 0 for the first and the last alone
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) evaluate_every: usize,
    /// Updates between two states that `--resume` can go on from
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub(crate) save_every: usize,
}
