//! What runs a model, and how. The same fields are the keys of a configuration file.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Deserialize;
use tandem::machine::Size;
use tandem::named::{Named, ParseNameError};
use tandem::{BackendKind, DType, Device, Numerics};

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
    /// Where to run: `cpu`, `cuda`, `cuda:N`, `coreml`, or `auto` for the best that can be used [default: cpu]
    ///
    /// Exactly this device, or an error that says why it cannot be used. In a configuration file the key is `execution_target`.
    #[arg(long, value_name = "DEVICE")]
    #[serde(rename = "execution_target", deserialize_with = "from_text")]
    pub(crate) device: Option<DeviceChoice>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) compute: ComputeArgs,
    /// The most tokens that a conversation or a text may have [default: what the model was made for]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<NonZeroUsize>,
    /// Plan for a machine with this much memory, such as `16GiB`: what `auto` would take there, and what would fit
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) memory: Option<Size>,
    /// Load the model whatever the plan of its memory says
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) no_memory_check: Option<bool>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) onnx: OnnxArgs,
}

/// Which engine loads what.
#[derive(Args, Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WeightsArgs {
    /// The engine; exactly this one, or an error [default: the first of this build]
    #[arg(long, value_name = "BACKEND", value_parser = one_of::<BackendKind>())]
    pub(crate) backend: Option<BackendKind>,
    /// The dtype of the weights; exactly this one, or an error [default: the most precise there is]
    #[arg(long, value_name = "DTYPE", value_parser = one_of::<DType>())]
    pub(crate) dtype: Option<DType>,
}

/// What it computes with.
#[derive(Args, Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ComputeArgs {
    /// Threads to compute with [default: the processors that this process may use]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// In what the products with quantised weights are computed: `fast` may round activations to 8 bits [default: fast]
    #[arg(long, value_name = "NUMERICS", value_parser = one_of::<Numerics>())]
    pub(crate) numerics: Option<Numerics>,
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
        merge!(self, other; weights, device, compute, context, memory, no_memory_check, onnx)
    }
}

impl WeightsArgs {
    pub(crate) fn or(self, other: Self) -> Self {
        merge!(self, other; backend, dtype)
    }
}

impl ComputeArgs {
    pub(crate) fn or(self, other: Self) -> Self {
        merge!(self, other; threads, numerics)
    }
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
