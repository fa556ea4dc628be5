//! What runs a model, and how. The same fields are the keys of a configuration file.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tandem::adapters::AdapterRef;
use tandem::machine::Size;
use tandem::named::{Named, ParseNameError};
use tandem::{BackendKind, DType, Device, KvDType, LoadOptions, Numerics, Settings};

use super::generation::from_text;
use super::merge;
use super::onnx::OnnxArgs;

/// Every field is `None` when it was not given; the field's name is its key in a configuration file, but for `device`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineOptions {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) weights: WeightsArgs,
    /// Device: `cpu`, `cuda`, `cuda:N`, `coreml`, or `auto` for the best available one [default: cpu]
    ///
    /// If the device cannot be used, this is an error that says why; nothing falls back. In a configuration file the key is
    /// `execution_target`.
    #[arg(long, value_name = "DEVICE")]
    #[serde(rename = "execution_target", deserialize_with = "from_text")]
    pub(crate) device: Option<DeviceChoice>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Commands that only encode have no option for it.
    #[arg(skip)]
    #[serde(flatten)]
    pub(crate) kv: KvArgs,
    /// Context length: maximum number of tokens of prompt and answer [default: the model's]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<NonZeroUsize>,
    /// Apply a low-rank adapter (LoRA): a directory, a file, or `owner/name[@revision]` on the hub, with `=SCALE` behind it for a part of
    /// it (repeatable: their sum)
    #[arg(long, value_name = "ADAPTER[=SCALE]")]
    #[serde(deserialize_with = "adapters_from_texts")]
    pub(crate) adapter: Vec<AdapterRef>,
    /// Plan for a machine with this much memory, such as `16GiB`
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) memory: Option<Size>,
    /// Load the model even if its memory plan does not fit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) no_memory_check: Option<bool>,
    /// Move weights into huge pages, which speeds up decoding; `false` leaves them in mapped files, which processes share [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) huge_pages: Option<bool>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) onnx: OnnxArgs,
}

/// Which engine loads what.
#[derive(Args, Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WeightsArgs {
    /// Backend that runs the model; an error if it is not available [default: the first of this build]
    #[arg(long, value_name = "BACKEND", value_parser = one_of::<BackendKind>())]
    pub(crate) backend: Option<BackendKind>,
    /// Dtype of the weights; an error if it is not available [default: `auto` for `run`, `chat`, `show` and `pull`, else `published`]
    ///
    /// `auto` is the most exact dtype that fits into memory and is estimated to decode 15 tokens per second on this machine; if none
    /// does, the smallest. `published` is the most precise one that the model's files have.
    #[arg(long, value_name = "DTYPE", value_parser = dtype_parser())]
    #[serde(deserialize_with = "from_text")]
    pub(crate) dtype: Option<DTypeArg>,
}

/// What it computes with.
#[derive(Args, Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ComputeArgs {
    /// Number of threads [default: the processors available to this process]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Arithmetic for quantised weights: `fast` may quantise activations to 8 bits [default: fast]
    #[arg(long, value_name = "NUMERICS", value_parser = one_of::<Numerics>())]
    pub(crate) numerics: Option<Numerics>,
}

/// In what a model that generates holds keys and values.
#[derive(Args, Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct KvArgs {
    /// Dtype of the KV cache [default: f16 beside weights that are not f32, unless numerics are exact; else f32]
    ///
    /// f16 takes half the memory of f32, and a long context decodes faster. A graph whose attention is not computed by Tandem's kernels has
    /// the dtype that it declares; another is an error.
    #[arg(long, value_name = "DTYPE", value_parser = one_of::<KvDType>(), help_heading = "Engine")]
    pub(crate) kv_dtype: Option<KvDType>,
}

/// A dtype, the one that suits this machine, or the one that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DTypeArg {
    Auto,
    Published,
    Exactly(DType),
}

/// A device, or the best that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    Auto,
    Exactly(Device),
}

impl EngineOptions {
    /// What `self` gives, and `other` where it gives nothing.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            weights: self.weights.or(other.weights),
            device: self.device.or(other.device),
            compute: self.compute.or(other.compute),
            kv: self.kv.or(other.kv),
            context: self.context.or(other.context),
            adapter: if self.adapter.is_empty() { other.adapter } else { self.adapter },
            memory: self.memory.or(other.memory),
            no_memory_check: self.no_memory_check.or(other.no_memory_check),
            huge_pages: self.huge_pages.or(other.huge_pages),
            onnx: self.onnx.or(other.onnx),
        }
    }
}

/// `["./one", "./two=0.5"]`
fn adapters_from_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AdapterRef>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

impl WeightsArgs {
    /// The same, with the published dtype where none is given: for work that measures a model.
    pub(crate) fn or_published(self) -> Self {
        Self { dtype: self.dtype.or(Some(DTypeArg::Published)), ..self }
    }

    /// What they ask for, and nothing else.
    pub(crate) fn settings(self) -> Settings {
        let dtype = match self.dtype {
            Some(DTypeArg::Exactly(dtype)) => Some(dtype),
            _ => None,
        };
        let as_published = self.dtype == Some(DTypeArg::Published);
        Settings { backend: self.backend, load: LoadOptions::new().with_dtype(dtype), as_published, ..Settings::default() }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        merge!(self, other; backend, dtype)
    }
}

impl ComputeArgs {
    pub(crate) fn or(self, other: Self) -> Self {
        merge!(self, other; threads, numerics)
    }
}

impl KvArgs {
    /// `engine`, of a command that has this option.
    pub(crate) fn within(self, engine: EngineOptions) -> EngineOptions {
        EngineOptions { kv: self, ..engine }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        merge!(self, other; kv_dtype)
    }
}

impl DTypeArg {
    const AUTO: &str = "auto";
    const PUBLISHED: &str = "published";
}

impl FromStr for DTypeArg {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        match text {
            Self::AUTO => Ok(Self::Auto),
            Self::PUBLISHED => Ok(Self::Published),
            _ => text.parse().map(Self::Exactly).map_err(|_| ParseNameError::not_one_of("dtype", text, &dtype_names())),
        }
    }
}

fn dtype_names() -> Vec<&'static str> {
    [&[DTypeArg::AUTO, DTypeArg::PUBLISHED], DType::NAMES].concat()
}

fn dtype_parser() -> impl TypedValueParser<Value = DTypeArg> {
    PossibleValuesParser::new(dtype_names()).try_map(|text| text.parse::<DTypeArg>())
}

impl FromStr for DeviceChoice {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Exactly).map_err(|error| match text {
            // Metal has a reason of its own, and what takes its place.
            "metal" => error,
            _ => ParseNameError::not_one_of("device", text, &[&["auto"], &Device::NAMES[..]].concat()),
        })
    }
}

/// A parser that lists what it takes, for messages and completions.
pub(super) fn one_of<T>() -> impl TypedValueParser<Value = T>
where
    T: Named + FromStr<Err = ParseNameError> + Send + Sync,
{
    among(T::NAMES)
}

/// The same for `names` alone.
pub(super) fn among<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
{
    PossibleValuesParser::new(names.iter().copied()).try_map(|text| text.parse::<T>())
}
