//! What `tandem-onnx-graph` is told to build from a checkpoint, once its configuration and weights agree.

mod inventory;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ExpectedWeight, ModelConfig};
use tandem_core::files::ModelFiles;
use tandem_core::{BackendKind, CancelToken, DType, Error, GraphFormat, GraphOutputs, Progress, ProgressEvent, Remedy, Result};
use tandem_onnx_graph::{
    Blocks, BuildOptions, DecoderSpec, Outputs, RopeTable, SourceError, Weight, WeightFormat, WeightType, build_inline, export,
};

use crate::error::bad_graph;

/// A graph that can be built: the weights are there, with the shapes that the configuration says.
pub(crate) struct GraphPlan {
    checkpoint: Checkpoint,
    weights: Vec<ExpectedWeight>,
    spec: DecoderSpec,
    options: BuildOptions,
    dtype: DType,
}

impl GraphPlan {
    /// Opens the checkpoint of `files`, which `config` describes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a dtype that cannot be built, or weights that are quantised already; [`Error::BadFile`] and
    /// [`Error::BadField`] when a file is damaged, or configuration and weights do not match.
    pub(crate) fn open(files: &ModelFiles, config: &ModelConfig, format: GraphFormat) -> Result<Self> {
        refuse_unsupported_architecture(config, &files.name)?;
        let options = build_options(format, &files.name)?;
        if let Some(method) = config.quantization_method() {
            return Err(Error::Unsupported {
                what: format!("the checkpoint `{}`, whose weights are quantised by `{method}`,", files.name),
                reason: "graphs are built from weights in f32, f16 or bf16".into(),
                hint: Some("use the checkpoint that it was made from, with the dtype `int8` or `int4`".into()),
            });
        }
        let checkpoint = Checkpoint::open(files)?;
        let spec = spec(files, config, &checkpoint);
        let weights = inventory::expected(config, &spec.prefix, options.outputs);
        inventory::check(&weights, &spec, options.outputs, &checkpoint, &files.config.name())?;
        Ok(Self { checkpoint, weights, spec, options, dtype: format.dtype })
    }

    /// Width of a head in the KV cache.
    pub(crate) fn cached_head_dim(&self) -> usize {
        self.spec.cached_head_dim()
    }

    /// An upper bound on the bytes of the graph and its weights.
    pub(crate) fn n_bytes(&self) -> u64 {
        inventory::graph_bytes(&self.weights, &self.spec, &self.checkpoint, &self.options)
    }

    /// Builds the graph in memory, weights included, for a small model.
    pub(crate) fn build(&self) -> Result<Vec<u8>> {
        build_inline(&self.spec, &self.options, &mut |name| weight(&self.checkpoint, name)).map_err(Self::failed)
    }

    /// Creates `directory`, writes the graph into it and returns its path. Memory holds a few of the largest weights.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or [`Error::BadFile`] when it cannot be written; `directory` does not exist then.
    pub(crate) fn write(
        &self,
        directory: &Path,
        metadata: Vec<(String, String)>,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<PathBuf> {
        let mut meter = Meter::new(progress, self.dtype, inventory::stored_bytes(&self.weights, &self.checkpoint));
        let mut source = |name: &str| {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            // The weights read so far have been written.
            self.checkpoint.release();
            let weight = weight(&self.checkpoint, name)?;
            meter.begin(name, weight.bytes.len() as u64);
            Ok(weight)
        };
        let options = BuildOptions { metadata, ..self.options.clone() };
        let graph = export(&self.spec, &options, &mut source, directory, &|| cancel.is_cancelled()).map_err(Self::failed)?;
        meter.begin("", 0);
        Ok(graph)
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

/// Refuses architectures that graphs cannot be built for; `name` is the model's.
///
/// # Errors
/// [`Error::Unsupported`].
pub(crate) fn refuse_unsupported_architecture(config: &ModelConfig, name: &str) -> Result<()> {
    if config.architecture.has_llama_form() {
        return Ok(());
    }
    let known = Architecture::DECODERS.into_iter().filter(|architecture| architecture.has_llama_form());
    let known: Vec<String> = known.map(|architecture| format!("`{architecture}`")).collect();
    Err(Error::Unsupported {
        what: format!("building a graph of `{name}`, whose architecture is `{}`,", config.architecture),
        reason: format!("graphs are built for {}", known.join(", ")),
        hint: Some(
            [Remedy::UseBackend(BackendKind::Candle), "use a directory with a graph that was published for this model".into()]
                .into(),
        ),
    })
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

/// The decoder as the graph builder describes it.
fn spec(files: &ModelFiles, config: &ModelConfig, checkpoint: &Checkpoint) -> DecoderSpec {
    DecoderSpec {
        name: files.name.clone(),
        // Checkpoints of embedding models are published without it.
        prefix: if checkpoint.contains("model.embed_tokens.weight") { "model.".into() } else { String::new() },
        n_layers: config.n_layers,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim(),
        rms_norm_eps: config.norm_eps as f32,
        qkv_bias: config.qkv_bias,
        qk_norm: config.qk_norm,
        attention_output_bias: config.attention_output_bias,
        mlp_bias: config.mlp_bias,
        tie_word_embeddings: config.tie_word_embeddings,
        rope: RopeTable {
            inverse_frequencies: config.rope.inv_freq(config.head_dim()),
            attention_scaling: config.rope.attention_factor(),
            n_positions: config.max_context,
        },
        layer_windows: config.layer_windows.clone(),
    }
}

/// The weight `name`, as the graph builder takes it.
fn weight<'c>(checkpoint: &'c Checkpoint, name: &str) -> std::result::Result<Weight<'c>, SourceError> {
    let stored = checkpoint.tensor(name)?;
    let kind = match stored.dtype {
        DType::F16 => WeightType::F16,
        DType::Bf16 => WeightType::Bf16,
        _ => WeightType::F32,
    };
    Ok(Weight { kind, shape: stored.shape.to_vec(), bytes: Cow::Borrowed(stored.bytes) })
}

/// The format as the graph builder describes it.
fn build_options(format: GraphFormat, model: &str) -> Result<BuildOptions> {
    Ok(BuildOptions {
        outputs: match format.outputs {
            GraphOutputs::Logits => Outputs::Logits,
            GraphOutputs::HiddenStates => Outputs::HiddenStates,
            GraphOutputs::Both => Outputs::LogitsAndHiddenStates,
        },
        weights: weight_format(format.dtype, model)?,
        head: weight_format(format.head_dtype, model)?,
        blocks: Blocks { size: format.block_size, symmetric: !format.zero_points },
        adapter_inputs: format.adapter_inputs,
        metadata: Vec::new(),
    })
}

/// How weights of `dtype` are stored in a graph.
fn weight_format(dtype: DType, model: &str) -> Result<WeightFormat> {
    match dtype {
        DType::F32 => Ok(WeightFormat::F32),
        DType::F16 => Ok(WeightFormat::F16),
        DType::Int8 => Ok(WeightFormat::Int8),
        DType::Int4 => Ok(WeightFormat::Int4),
        other => Err(Error::Unsupported {
            what: format!("dtype `{other}`"),
            reason: format!("graphs of `{model}` are not built in it, because ONNX Runtime has few operators for it"),
            hint: Some(Remedy::UseDType(vec![DType::F32, DType::F16, DType::Int8, DType::Int4]).into()),
        }),
    }
}
