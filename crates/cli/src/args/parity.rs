//! The arguments of `tandem parity`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use tandem::adapters::AdapterRef;
use tandem::named::ParseNameError;
use tandem::{BackendKind, DType, Device, Kernels, KvDType};

use super::engine::{ComputeArgs, KvArgs};
use super::onnx::LibraryArg;
use super::{ModelArg, OutputArgs, examples};

/// Check whether a model gives the same results on another engine, device or dtype.
///
/// Every candidate is compared with the reference: the tokens of the same texts, the weights, each side with itself (the noise of this
/// machine), the logits of the same tokens, and generated texts up to where they diverge. Limits depend on the two dtypes. A position
/// where the sides choose different tokens is a near tie, or it is a real difference and is shown.
///
/// Of an embedding model, the vectors of the same texts are compared instead: their cosines, the ten nearest texts of each, and each side with
/// itself (a text alone and in a batch, in another order, after another load).
///
/// The verdict is `same` (equal within rounding), `close` (another dtype, within its limits, with what it costs), or `different`.
///
/// A side is `BACKEND[+KERNELS][:DTYPE][/KV_DTYPE][@DEVICE][=PATH]`, such as `onnx:int4`, `candle:f32@cpu`, `onnx+runtime:int4` for ONNX
/// Runtime's own kernels, `candle:int4/f32` with a KV cache of f32, or `onnx=./model/onnx/model_q4.onnx` for a graph or a directory in the place of MODEL. What is measured before Ctrl-C or an error is reported.
#[derive(Args, Debug)]
#[command(after_help = examples::PARITY)]
pub(crate) struct ParityArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Reference side, with floating-point weights
    #[arg(long, value_name = "SIDE", default_value = "candle:f32")]
    pub(crate) reference: SideChoice,
    /// Side to compare with the reference (repeatable)
    #[arg(long = "candidate", value_name = "SIDE", required = true)]
    pub(crate) candidates: Vec<SideChoice>,
    /// File of prompts to use instead of the built-in ones, one per line (as JSON in a `.jsonl` file)
    #[arg(long, value_name = "FILE")]
    pub(crate) corpus: Option<PathBuf>,
    /// File of limits to use instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    pub(crate) thresholds: Option<PathBuf>,
    /// Generating: maximum number of tokens of a built-in prompt; longer ones are truncated
    #[arg(long, value_name = "N", default_value = "1024")]
    pub(crate) prompt_tokens: NonZeroUsize,
    /// Generating: number of tokens to generate from a prompt; 0 generates nothing
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) generate: usize,
    /// Generating: number of prompts to generate from
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) texts: usize,
    /// Generating: random seed of sampled texts
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Judge by the limits for random weights, where the checkpoint does not declare them
    #[arg(long)]
    pub(crate) random_weights: bool,
    /// Find the first stage of the first layer that computes a different result from the same inputs
    #[arg(long)]
    pub(crate) bisect: bool,
    /// Apply a low-rank adapter to every side (repeatable): a directory, a file, or `owner/name` on the hub, with `=SCALE` for a part of it
    #[arg(long, value_name = "ADAPTER[=SCALE]")]
    pub(crate) adapter: Vec<AdapterRef>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    #[command(flatten)]
    pub(crate) library: LibraryArg,
    /// Also write the report to this file as JSON, after each candidate
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the report as one HTML file, with charts
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What one side is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SideChoice {
    /// As it was written.
    pub(crate) text: String,
    pub(crate) backend: BackendKind,
    /// Those of ONNX Runtime, where they are named.
    pub(crate) kernels: Option<Kernels>,
    pub(crate) dtype: Option<DType>,
    /// That of keys and values.
    pub(crate) kv_dtype: Option<KvDType>,
    pub(crate) device: Option<Device>,
    /// A graph or a directory in the place of the model.
    pub(crate) path: Option<String>,
}

impl FromStr for SideChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (engine, path) = match text.split_once('=') {
            Some((engine, path)) => {
                (engine, Some(path.to_owned()).filter(|path| !path.is_empty()).ok_or("there is no path after `=`")?)
            }
            None => (text, String::new()),
        };
        let (engine, device) = divide(engine, '@');
        let (engine, kv_dtype) = divide(engine, '/');
        let (engine, dtype) = divide(engine, ':');
        let (backend, kernels) = divide(engine, '+');
        let backend = backend.parse().map_err(|_| {
            format!(
                "`{backend}` is not a backend: a side is BACKEND[+KERNELS][:DTYPE][/KV_DTYPE][@DEVICE][=PATH] with `onnx` or `candle`, such as \
                 `onnx:int4`"
            )
        })?;
        if kernels.is_some() && backend != BackendKind::Onnx {
            return Err(format!("`+KERNELS` is for `onnx`: `{backend}` always computes with Tandem's kernels"));
        }
        Ok(Self {
            text: text.into(),
            backend,
            kernels: named(kernels)?,
            dtype: named(dtype)?,
            kv_dtype: named(kv_dtype)?,
            device: named(device)?,
            path: Some(path).filter(|path| !path.is_empty()),
        })
    }
}

/// What lies before and behind `mark`.
fn divide(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn named<T: FromStr<Err = ParseNameError>>(text: Option<&str>) -> Result<Option<T>, String> {
    text.map(|text| text.parse().map_err(|error: ParseNameError| error.to_string())).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_read() {
        let check = |text: &str, expected: (BackendKind, Option<DType>, Option<Device>, Option<&str>)| {
            let side: SideChoice = text.parse().unwrap();
            assert_eq!((side.backend, side.dtype, side.device, side.path.as_deref()), expected, "{text}");
        };
        check("onnx", (BackendKind::Onnx, None, None, None));
        check("candle:f32", (BackendKind::Candle, Some(DType::F32), None, None));
        check("onnx:int4@cuda:1", (BackendKind::Onnx, Some(DType::Int4), Some(Device::Cuda(1)), None));
        check("onnx=./a=b/m.onnx", (BackendKind::Onnx, None, None, Some("./a=b/m.onnx")));
        check("onnx:f16@cpu=/m", (BackendKind::Onnx, Some(DType::F16), Some(Device::Cpu), Some("/m")));
        let side: SideChoice = "onnx+runtime:int4@cpu".parse().unwrap();
        assert_eq!((side.kernels, side.dtype, side.device), (Some(Kernels::Runtime), Some(DType::Int4), Some(Device::Cpu)));
        let side: SideChoice = "candle:int4/f32@cpu=/m".parse().unwrap();
        assert_eq!((side.dtype, side.kv_dtype, side.path.as_deref()), (Some(DType::Int4), Some(KvDType::F32), Some("/m")));
        assert_eq!("candle/f16".parse::<SideChoice>().unwrap().kv_dtype, Some(KvDType::F16));
        for bad in [
            "",
            "candle:int4/int8",
            "candle/",
            "tensorflow",
            "candle+runtime",
            "onnx+mlas",
            "onnx+:int4",
            "onnx:int3",
            "onnx@tpu",
            "onnx=",
            "candle:f32:f16",
            "./model.onnx",
        ] {
            assert!(bad.parse::<SideChoice>().is_err(), "{bad}");
        }
    }
}
