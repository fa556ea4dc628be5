//! What runs a model, and how. The same fields are the keys of a configuration file.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Deserialize;
use tandem::backends::ComputeUnits;
use tandem::machine::Size;
use tandem::{BackendKind, DType, Device, Error, Numerics};

use super::generation::from_text;

/// Every field is `None` when it was not given; the field's name is its key in a configuration file, but for `device`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineOptions {
    /// The engine; exactly this one, or an error [default: the first of this build]
    #[arg(long, value_name = "BACKEND", value_parser = one_of::<BackendKind>(&["onnx", "candle"]))]
    #[serde(deserialize_with = "from_text")]
    pub(crate) backend: Option<BackendKind>,
    /// Where to run: `cpu`, `cuda`, `cuda:N`, `coreml`, or `auto` for the best that can be used [default: cpu]
    ///
    /// Exactly this device, or an error that says why it cannot be used. In a configuration file the key is `execution_target`.
    #[arg(long, value_name = "DEVICE")]
    #[serde(rename = "execution_target", deserialize_with = "from_text")]
    pub(crate) device: Option<DeviceChoice>,
    /// The dtype of the weights; exactly this one, or an error [default: the most precise there is]
    #[arg(long, value_name = "DTYPE", value_parser = one_of::<DType>(&["f32", "f16", "bf16", "int8", "int4"]))]
    #[serde(deserialize_with = "from_text")]
    pub(crate) dtype: Option<DType>,
    /// Threads to compute with [default: the processors that this process may use]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Let idle threads spin: a little faster, at the price of busy processors between tokens
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) spin: Option<bool>,
    /// In what the products with quantised weights are computed: `fast` may round activations to 8 bits [default: fast]
    #[arg(long, value_name = "NUMERICS", value_parser = PossibleValuesParser::new(["fast", "exact"]).try_map(|text| numerics(&text)))]
    #[serde(deserialize_with = "numerics_from_text")]
    pub(crate) numerics: Option<Numerics>,
    /// Load this graph of the model's in the place of the one chosen by dtype
    #[arg(long, value_name = "FILE")]
    pub(crate) graph: Option<PathBuf>,
    /// The most tokens that a conversation or a text may have [default: what the model was made for]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<NonZeroUsize>,
    /// Plan for a machine with this much memory, such as `16GiB`: what `auto` would take there, and what would fit
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "size_from_text")]
    pub(crate) memory: Option<Size>,
    /// Load the model whatever the plan of its memory says
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) no_memory_check: Option<bool>,
    /// Refuse to run unless at least this share of the graph, 0 to 1, runs on the device
    #[arg(long, value_name = "SHARE")]
    pub(crate) require_device: Option<f64>,
    /// ONNX Runtime's library, in the place of the one that is found
    #[arg(long, value_name = "FILE")]
    pub(crate) ort_library: Option<PathBuf>,
    /// The units that CoreML may use [default: all]
    #[arg(
        long,
        value_name = "UNITS",
        help_heading = "CoreML",
        value_parser = PossibleValuesParser::new(["all", "cpu-and-neural-engine", "cpu-and-gpu", "cpu-only"]).try_map(|text| units(&text))
    )]
    #[serde(deserialize_with = "units_from_text")]
    pub(crate) coreml_units: Option<ComputeUnits>,
    /// The format of compiled models [default: mlprogram]
    #[arg(long, value_name = "FORMAT", help_heading = "CoreML", value_parser = one_of::<CoreMlFormat>(&["mlprogram", "neural-network"]))]
    #[serde(deserialize_with = "from_text")]
    pub(crate) coreml_format: Option<CoreMlFormat>,
    /// Give CoreML only what has fixed shapes
    #[arg(long, value_name = "BOOL", help_heading = "CoreML", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) coreml_static_shapes: Option<bool>,
    /// Give CoreML what is inside control flow as well
    #[arg(long, value_name = "BOOL", help_heading = "CoreML", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) coreml_subgraphs: Option<bool>,
    /// Where CoreML keeps compiled models
    #[arg(long, value_name = "DIR", help_heading = "CoreML")]
    pub(crate) coreml_cache: Option<PathBuf>,
}

/// A device, or the best that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    Auto,
    Exactly(Device),
}

/// The format of models that CoreML compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CoreMlFormat {
    MlProgram,
    NeuralNetwork,
}

impl EngineOptions {
    /// What `self` gives, and `other` where it gives nothing.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            backend: self.backend.or(other.backend),
            device: self.device.or(other.device),
            dtype: self.dtype.or(other.dtype),
            threads: self.threads.or(other.threads),
            spin: self.spin.or(other.spin),
            numerics: self.numerics.or(other.numerics),
            graph: self.graph.or(other.graph),
            context: self.context.or(other.context),
            memory: self.memory.or(other.memory),
            no_memory_check: self.no_memory_check.or(other.no_memory_check),
            require_device: self.require_device.or(other.require_device),
            ort_library: self.ort_library.or(other.ort_library),
            coreml_units: self.coreml_units.or(other.coreml_units),
            coreml_format: self.coreml_format.or(other.coreml_format),
            coreml_static_shapes: self.coreml_static_shapes.or(other.coreml_static_shapes),
            coreml_subgraphs: self.coreml_subgraphs.or(other.coreml_subgraphs),
            coreml_cache: self.coreml_cache.or(other.coreml_cache),
        }
    }

    /// The paths, which a configuration file gives relative to itself.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.graph, &mut self.ort_library, &mut self.coreml_cache].into_iter().flatten()
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Exactly).map_err(|error| match (text, error) {
            // Metal has a reason of its own, and what takes its place.
            ("metal", Error::InvalidOption { problem, .. }) => format!("`{text}` {problem}"),
            _ => format!("`{text}` is none of `auto`, `cpu`, `cuda`, `cuda:N`, `coreml`"),
        })
    }
}

impl FromStr for CoreMlFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mlprogram" => Ok(Self::MlProgram),
            "neural-network" => Ok(Self::NeuralNetwork),
            _ => Err(format!("`{text}` is none of `mlprogram`, `neural-network`")),
        }
    }
}

fn units(text: &str) -> Result<ComputeUnits, String> {
    match text {
        "all" => Ok(ComputeUnits::All),
        "cpu-and-neural-engine" => Ok(ComputeUnits::CpuAndNeuralEngine),
        "cpu-and-gpu" => Ok(ComputeUnits::CpuAndGpu),
        "cpu-only" => Ok(ComputeUnits::CpuOnly),
        _ => Err(format!("`{text}` is none of `all`, `cpu-and-neural-engine`, `cpu-and-gpu`, `cpu-only`")),
    }
}

fn units_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ComputeUnits>, D::Error> {
    units(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

fn size_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

pub(super) fn numerics(text: &str) -> Result<Numerics, String> {
    match text {
        "fast" => Ok(Numerics::Fast),
        "exact" => Ok(Numerics::Exact),
        _ => Err(format!("`{text}` is none of `fast`, `exact`")),
    }
}

fn numerics_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Numerics>, D::Error> {
    numerics(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

/// A parser that lists what it takes, for messages and completions.
pub(super) fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
{
    PossibleValuesParser::new(names.iter().copied()).try_map(|text| text.parse::<T>())
}
