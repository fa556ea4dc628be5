//! What concerns ONNX Runtime alone.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use tandem::backends::{ComputeUnits, CoreMlFormat, CoreMlOptions};
use tandem::{Kernels, OnnxOptions};

use super::engine::one_of;
use super::merge;

#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "ONNX Runtime")]
pub(crate) struct OnnxArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) library: LibraryArg,
    /// Graph file to load instead of the one chosen by dtype
    #[arg(long, value_name = "FILE")]
    pub(crate) graph: Option<PathBuf>,
    /// Fail unless at least this share of the graph, 0 to 1, runs on the device
    #[arg(long, value_name = "SHARE")]
    pub(crate) require_device: Option<f64>,
    /// Let idle threads spin: slightly faster, but processors are busy between tokens
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) spin: Option<bool>,
    /// Whose kernels compute products and attention on the processor: `tandem` or `runtime` [default: tandem, and runtime without AVX2]
    #[arg(long, value_name = "KERNELS", value_parser = one_of::<Kernels>())]
    pub(crate) kernels: Option<Kernels>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) coreml: CoreMlArgs,
}

/// Where its library is.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LibraryArg {
    /// ONNX Runtime library to use instead of the one that is found
    #[arg(long, value_name = "FILE")]
    pub(crate) ort_library: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[command(next_help_heading = "CoreML")]
pub(crate) struct CoreMlArgs {
    /// Compute units that CoreML may use [default: all]
    #[arg(long, value_name = "UNITS", value_parser = one_of::<ComputeUnits>())]
    coreml_units: Option<ComputeUnits>,
    /// Format of compiled models [default: mlprogram]
    #[arg(long, value_name = "FORMAT", value_parser = one_of::<CoreMlFormat>())]
    coreml_format: Option<CoreMlFormat>,
    /// Give CoreML only nodes with fixed shapes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    coreml_static_shapes: Option<bool>,
    /// Give CoreML nodes inside control flow as well
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    coreml_subgraphs: Option<bool>,
    /// Directory for compiled models
    #[arg(long, value_name = "DIR")]
    coreml_cache: Option<PathBuf>,
}

impl OnnxArgs {
    /// What `self` gives, and `other` where it gives nothing.
    pub(crate) fn or(self, other: Self) -> Self {
        merge!(self, other; library, graph, require_device, spin, kernels, coreml)
    }

    /// The paths, which a configuration file gives relative to itself.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.graph, &mut self.library.ort_library, &mut self.coreml.coreml_cache].into_iter().flatten()
    }

    /// What is asked for; what is left out is the library's default.
    pub(crate) fn options(&self) -> OnnxOptions {
        let coreml = CoreMlOptions::new()
            .with_compute_units(self.coreml.coreml_units.unwrap_or_default())
            .with_format(self.coreml.coreml_format.unwrap_or_default())
            .with_static_shapes(self.coreml.coreml_static_shapes.unwrap_or_default())
            .with_subgraphs(self.coreml.coreml_subgraphs.unwrap_or_default())
            .with_cache_dir(self.coreml.coreml_cache.clone());
        OnnxOptions::new()
            .with_library(self.library.ort_library.clone())
            .with_graph(self.graph.clone())
            .with_require_device(self.require_device)
            .with_spin(self.spin.unwrap_or_default())
            .with_kernels(self.kernels)
            .with_coreml(coreml)
    }
}

impl LibraryArg {
    pub(crate) fn or(self, other: Self) -> Self {
        merge!(self, other; ort_library)
    }
}

impl CoreMlArgs {
    fn or(self, other: Self) -> Self {
        merge!(self, other; coreml_units, coreml_format, coreml_static_shapes, coreml_subgraphs, coreml_cache)
    }
}
