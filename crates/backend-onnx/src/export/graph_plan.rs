//! What `tandem-onnx-graph` is told to build from a checkpoint, once its configuration and weights agree.

mod encoder_inventory;
mod inventory;
mod specs;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use tandem_core::adapter::{Merged, ScaledAdapter};
use tandem_core::backend::{Kernels, LoadOptions, Purpose};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::files::ModelFiles;
use tandem_core::{
    BackendKind, CancelToken, DType, Error, GraphFormat, GraphOutputs, Progress, ProgressEvent, Remedies, Remedy, Result,
};
use tandem_onnx_graph::{
    Blocks, BuildOptions, DecoderSpec, EncoderSpec, Outputs, SourceError, Spec, Weight, WeightFormat, WeightType, build_inline,
    export,
};

use crate::error::bad_graph;
use crate::operators::kernels_for;

/// A graph that can be built: the weights are there, with the shapes that the configuration says.
pub(crate) struct GraphPlan {
    checkpoint: Checkpoint,
    /// What is merged into its weights.
    adapters: Vec<ScaledAdapter>,
    spec: PlannedSpec,
    options: BuildOptions,
    dtype: DType,
    /// Bytes of the weights as stored.
    stored_bytes: u64,
    /// An upper bound on the bytes of the graph.
    n_bytes: u64,
}

/// What is built.
enum PlannedSpec {
    Decoder(DecoderSpec),
    Encoder(EncoderSpec),
}

/// Who runs a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunBy {
    /// Tandem, which does not pad.
    Tandem,
    /// Tandem with its own kernels, which read floats as checkpoints have them.
    OwnKernels,
    /// Any program.
    Anyone,
}

impl RunBy {
    /// Who runs the graph of a model that is loaded with `options`: where texts are padded, it must be one for any program.
    ///
    /// # Errors
    /// As [`kernels_for`].
    pub(crate) fn of(options: &LoadOptions) -> Result<Self> {
        Ok(match kernels_for(options)? {
            _ if options.onnx.buckets_on(options.device).is_some() => Self::Anyone,
            Kernels::Tandem => Self::OwnKernels,
            Kernels::Runtime => Self::Tandem,
        })
    }

    /// Whether matrices of floats stay as the checkpoint has them in a graph of `format`. Those of encoders do not: long sequences gain nothing
    /// from it.
    pub(crate) fn keeps_rows(self, format: GraphFormat) -> bool {
        self == Self::OwnKernels && format.dtype == DType::F32 && format.outputs == GraphOutputs::Logits
    }
}

/// Whether the graph of a model of `config` that is built for `purpose` encodes, and does not generate.
pub(crate) fn encodes(config: &ModelConfig, purpose: Purpose) -> bool {
    !config.is_causal || purpose == Purpose::Encode
}

/// The graph that is built of a model of `config` with weights of `dtype` for `purpose`.
pub(crate) fn graph_format(config: &ModelConfig, dtype: DType, purpose: Purpose) -> GraphFormat {
    let outputs = if encodes(config, purpose) { GraphOutputs::HiddenStates } else { GraphOutputs::Logits };
    GraphFormat { outputs, ..GraphFormat::of(dtype) }
}

impl GraphPlan {
    /// Opens the checkpoint of `files`, which `config` describes, for a graph of `format` that is `run_by` someone.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a dtype that cannot be built, or weights that are quantised already; [`Error::BadFile`] and
    /// [`Error::BadField`] when a file is damaged, or configuration and weights do not match.
    pub(crate) fn open(files: &ModelFiles, config: &ModelConfig, format: GraphFormat, run_by: RunBy) -> Result<Self> {
        refuse_unsupported_architecture(config, format.outputs, &files.name)?;
        refuse_unsupported_format(config, format, &files.name)?;
        let mut options = build_options(config, format, &files.name)?;
        if let Some(method) = config.quantization_method() {
            return Err(Error::Unsupported {
                what: format!("the checkpoint `{}`, whose weights are quantised by `{method}`,", files.name),
                reason: "graphs are built from weights in f32, f16 or bf16".into(),
                hint: Some("use the checkpoint that it was made from, with the dtype `int8` or `int4`".into()),
            });
        }
        let checkpoint = Checkpoint::open(files)?;
        let has_mask = run_by == RunBy::Anyone;
        let (name, config_file) = (&files.name, files.config.name());
        let spec = match &config.encoder {
            Some(encoder) => PlannedSpec::Encoder(specs::encoder(name, config, encoder, &checkpoint, has_mask)),
            None if config.is_causal && config.gemma.is_none() => PlannedSpec::Decoder(specs::decoder(name, config, &checkpoint)),
            None => PlannedSpec::Encoder(specs::without_cache(name, config, &checkpoint, has_mask)),
        };
        let [stored_bytes, n_bytes] = match &spec {
            PlannedSpec::Decoder(spec) => {
                let weights = inventory::expected(config, &spec.prefix, options.outputs);
                inventory::check(&weights, spec, options.outputs, &checkpoint, &config_file)?;
                options.rows = run_by.keeps_rows(format).then(|| weight_type(inventory::matrix_dtype(&weights, &checkpoint)));
                [inventory::stored_bytes(&weights, &checkpoint), inventory::graph_bytes(&weights, spec, &checkpoint, &options)]
            }
            PlannedSpec::Encoder(spec) => encoder_inventory::check(spec, &options, &checkpoint, &config_file)?,
        };
        Ok(Self { checkpoint, adapters: Vec::new(), spec, options, dtype: format.dtype, stored_bytes, n_bytes })
    }

    /// The same with adapters merged into the weights, in f32, before they are quantised.
    pub(crate) fn with_adapters(self, adapters: Vec<ScaledAdapter>) -> Self {
        Self { adapters, ..self }
    }

    /// Width of a head in the KV cache.
    pub(crate) fn cached_head_dim(&self) -> usize {
        match &self.spec {
            PlannedSpec::Decoder(spec) => spec.cached_head_dim(),
            PlannedSpec::Encoder(spec) => spec.head_dim,
        }
    }

    /// An upper bound on the bytes of the graph and its weights.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Builds the graph in memory, weights included, for a small model.
    pub(crate) fn build(&self) -> Result<Vec<u8>> {
        let merged = self.merged()?;
        build_inline(&self.spec, &self.options, &mut |name| self.weight(&merged, name)).map_err(Self::failed)
    }

    /// Creates `directory`, writes the graph into it and returns its path. Memory holds a few of the largest weights.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or [`Error::BadFile`] when it cannot be written; `directory` does not exist then. [`Error::BadField`] for
    /// adapters that do not fit.
    pub(crate) fn write(
        &self,
        directory: &Path,
        metadata: Vec<(String, String)>,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<PathBuf> {
        let merged = self.merged()?;
        let mut meter = Meter::new(progress, self.dtype, self.stored_bytes);
        let mut source = |name: &str| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            // The weights read so far have been written.
            self.checkpoint.release();
            let weight = self.weight(&merged, name)?;
            meter.begin(name, weight.bytes.len() as u64);
            Ok(weight)
        };
        let options = BuildOptions { metadata, ..self.options.clone() };
        let graph = export(&self.spec, &options, &mut source, directory, &|| cancel.is_cancelled()).map_err(Self::failed)?;
        meter.begin("", 0);
        Ok(graph)
    }

    /// The checkpoint with its adapters.
    fn merged(&self) -> Result<Merged<'_>> {
        Merged::new(&self.checkpoint, &self.adapters)
    }

    /// The weight `name`, as the graph builder takes it.
    fn weight<'c>(&'c self, merged: &Merged<'_>, name: &str) -> std::result::Result<Weight<'c>, SourceError> {
        let stored = self.checkpoint.tensor(name)?;
        let shape = stored.shape.to_vec();
        if merged.changes(name) {
            let bytes = merged.tensor(name)?.iter().flat_map(|value| value.to_le_bytes()).collect();
            return Ok(Weight { kind: WeightType::F32, shape, bytes: Cow::Owned(bytes) });
        }
        Ok(Weight { kind: weight_type(stored.dtype), shape, bytes: Cow::Borrowed(stored.bytes) })
    }

    /// The builder's error as the one that users see: the checkpoint's own for a weight that could not be read.
    fn failed(error: tandem_onnx_graph::Error) -> Error {
        match error {
            tandem_onnx_graph::Error::Weight { source, model, name } => match source.downcast::<Error>() {
                Ok(error) => *error,
                Err(source) => bad_graph(tandem_onnx_graph::Error::Weight { model, name, source }),
            },
            tandem_onnx_graph::Error::Interrupted { .. } => Error::Cancelled,
            error => bad_graph(error),
        }
    }
}

impl<'s> From<&'s PlannedSpec> for Spec<'s> {
    fn from(spec: &'s PlannedSpec) -> Self {
        match spec {
            PlannedSpec::Decoder(spec) => Self::Decoder(spec),
            PlannedSpec::Encoder(spec) => Self::Encoder(spec),
        }
    }
}

/// Refuses architectures that graphs with `outputs` cannot be built for; `name` is the model's.
///
/// # Errors
/// [`Error::Unsupported`].
pub(crate) fn refuse_unsupported_architecture(config: &ModelConfig, outputs: GraphOutputs, name: &str) -> Result<()> {
    let is_capped = config.gemma.as_ref().is_some_and(|gemma| gemma.attention_softcap.is_some());
    let encodes = !config.is_causal || outputs == GraphOutputs::HiddenStates;
    let is_encoding_gemma = config.architecture == Architecture::Gemma3 && encodes && !is_capped;
    if config.encoder.is_some() || config.architecture.has_llama_form() || is_encoding_gemma {
        return Ok(());
    }
    let decoders = Architecture::DECODERS.into_iter().filter(|architecture| architecture.has_llama_form());
    let known: Vec<String> = decoders.chain(Architecture::ENCODERS).map(|architecture| format!("`{architecture}`")).collect();
    Err(Error::Unsupported {
        what: format!("building a graph of `{name}`, whose architecture is `{}`,", config.architecture),
        reason: format!("graphs are built for {}", known.join(", ")),
        hint: Some(
            [Remedy::UseBackend(BackendKind::Candle), "use a directory with a graph that was published for this model".into()]
                .into(),
        ),
    })
}

/// Refuses what the model of `config`, called `name`, does not have or does not bear.
fn refuse_unsupported_format(config: &ModelConfig, format: GraphFormat, name: &str) -> Result<()> {
    let refuse = |what: String, reason: &str, hint: Remedy| {
        Err(Error::Unsupported { what, reason: reason.into(), hint: Some(hint.into()) })
    };
    if !config.is_causal && format.outputs != GraphOutputs::HiddenStates {
        let what = format!("a graph of `{name}` with logits");
        return refuse(what, "the model encodes and generates no text", "export its hidden states".into());
    }
    if !config.is_causal && format.adapter_inputs {
        let what = format!("a graph of `{name}` with inputs for adapters");
        return refuse(what, "they are built into graphs of models that generate", "leave them out".into());
    }
    if config.encoder.is_some() && format.dtype == DType::Int4 {
        // all-MiniLM-L6-v2: cosines from 0.866 on, 0.963 on average; every seventh of the ten nearest texts is another.
        let what = format!("dtype `int4` of the encoder `{name}`");
        let reason = "vectors of encoders with 4 bits a weight are too far from those of the model itself";
        return refuse(what, reason, Remedy::UseDType(vec![DType::Int8, DType::F32]));
    }
    if config.gemma.is_some() && format.dtype == DType::F16 {
        let what = format!("dtype `f16` of `{name}`");
        return refuse(what, "activations of Gemma exceed what 16 bits hold", Remedy::UseDType(vec![DType::F32, DType::Int8]));
    }
    Ok(())
}

/// Reports how many bytes of weights are done. A weight is done when the next one is requested.
struct Meter<'p> {
    progress: &'p Progress,
    dtype: DType,
    total: u64,
    done: u64,
    current: (String, u64),
}

impl<'p> Meter<'p> {
    fn new(progress: &'p Progress, dtype: DType, total: u64) -> Self {
        Self { progress, dtype, total, done: 0, current: (String::new(), 0) }
    }

    fn begin(&mut self, name: &str, n_bytes: u64) {
        if self.current.0 == name {
            return;
        }
        self.done += self.current.1;
        self.current = (name.into(), n_bytes);
        self.progress.tell(&ProgressEvent::Exporting { dtype: self.dtype, done: self.done.min(self.total), total: self.total });
    }
}

/// The type of a stored weight.
fn weight_type(dtype: DType) -> WeightType {
    match dtype {
        DType::F16 => WeightType::F16,
        DType::Bf16 => WeightType::Bf16,
        _ => WeightType::F32,
    }
}

/// The format as the graph builder describes it.
fn build_options(config: &ModelConfig, format: GraphFormat, model: &str) -> Result<BuildOptions> {
    let weights = |dtype| weight_format(dtype).ok_or_else(|| unknown_format(dtype, config, model));
    Ok(BuildOptions {
        outputs: match format.outputs {
            GraphOutputs::Logits => Outputs::Logits,
            GraphOutputs::HiddenStates => Outputs::HiddenStates,
            GraphOutputs::Both => Outputs::LogitsAndHiddenStates,
        },
        weights: weights(format.dtype)?,
        head: weights(format.head_dtype)?,
        blocks: Blocks { size: format.block_size, symmetric: !format.zero_points },
        rows: None,
        adapter_inputs: format.adapter_inputs,
        metadata: Vec::new(),
    })
}

/// How weights of `dtype` are stored in a graph; `None` where they are not.
fn weight_format(dtype: DType) -> Option<WeightFormat> {
    match dtype {
        DType::F32 => Some(WeightFormat::F32),
        DType::F16 => Some(WeightFormat::F16),
        DType::Int8 => Some(WeightFormat::Int8),
        DType::Int4 => Some(WeightFormat::Int4),
        _ => None,
    }
}

/// The error for a `dtype` that no graph of the model of `config` is built in. What helps with an encoder is not what helps with a decoder:
/// candle runs encoders in bf16, and 4 bits are too few for them.
fn unknown_format(dtype: DType, config: &ModelConfig, model: &str) -> Error {
    let hint: Remedies = match (&config.encoder, dtype) {
        (Some(_), DType::Bf16) => {
            [Remedy::UseBackend(BackendKind::Candle), Remedy::UseDType(vec![DType::F32, DType::F16, DType::Int8])].into()
        }
        (Some(_), _) => Remedy::UseDType(vec![DType::F32, DType::F16, DType::Int8]).into(),
        (None, _) => Remedy::UseDType(vec![DType::F32, DType::F16, DType::Int8, DType::Int4]).into(),
    };
    Error::Unsupported {
        what: format!("dtype `{dtype}`"),
        reason: format!("graphs of `{model}` are not built in it, because ONNX Runtime has few operators for it"),
        hint: Some(hint),
    }
}
