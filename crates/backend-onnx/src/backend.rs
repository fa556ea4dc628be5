//! The engine: finds its library, lists devices, loads graphs.

use std::num::Saturating;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ort::session::Session;
use tandem_core::backend::{Capabilities, Capability, Kernels, KvDType, LoadOptions, Numerics, PooledOutput};
use tandem_core::config::ModelConfig;
use tandem_core::files::{Listing, ModelFiles};
use tandem_core::footprint::{Count, EstimateFootprint, Footprint, ModelShape, Workload, weight_bytes};
use tandem_core::{Backend, BackendKind, DType, Device, DeviceReport, Error, Model, ModelInfo, OpenedModel, Remedy, Result};

use tandem_kernels::instruction_set;

use crate::device::{provider_name, reports};
use crate::encoder::{Buckets, OnnxEncoder};
use crate::engine::n_threads;
use crate::error::Doing;
use crate::footprint::{Attention, GraphFootprint, encoder_footprint, footprint};
use crate::graph::{DecoderGraph, EncoderGraph, Encoding, LoadedGraph, pooled_output};
use crate::kv::held_dtype;
use crate::loaded::Loaded;
use crate::model::OnnxModel;
use crate::operators::{default_kernels, kernels_for};
use crate::origin::Origin;
use crate::probe::Probing;
use crate::run::Names;
use crate::source::{GraphSource, OpenedSource, Source, can_be_made, needed_inputs, stored_bytes};
use crate::{library, placement};

/// ONNX Runtime.
#[derive(Clone, Debug, Default)]
pub struct OnnxBackend {
    library: Option<PathBuf>,
}

impl OnnxBackend {
    /// Uses `library`, or the one that [`library::find`] finds, unless [`OnnxOptions::library`](tandem_core::OnnxOptions) names one.
    ///
    /// Nothing is loaded before it is needed. A process keeps the first library that it loads.
    pub fn new(library: Option<PathBuf>) -> Self {
        // A caller may start threads before it loads; then an error there says that it is too late.
        let _ = library::require_telemetry_off();
        Self { library }
    }
}

impl Backend for OnnxBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Onnx
    }

    fn devices(&self) -> Vec<DeviceReport> {
        match library::environment(self.library.as_deref()) {
            Ok(environment) => reports(&environment),
            Err(error) => vec![DeviceReport::unusable(Device::Cpu, "ONNX Runtime", error)],
        }
    }

    fn select_files(&self, listing: &Listing<'_>, dtype: Option<DType>) -> Result<Vec<String>> {
        if listing.is_gguf()? {
            return Err(Error::Unsupported {
                what: format!("the backend `onnx` with `{}`", listing.name),
                reason: "the repository has GGUF files, which the candle backend alone reads".into(),
                hint: Some(
                    [
                        Remedy::UseBackend(BackendKind::Candle),
                        "name the repository of the checkpoint that they were made from".into(),
                    ]
                    .into(),
                ),
            });
        }
        let model = listing.model()?;
        let genai_config = model.genai_config.iter().map(|file| file.name().into_owned()).collect();
        let weights = match GraphSource::choose(&model, dtype, None) {
            Ok(GraphSource::Graph(graph)) => listing.with_data(&graph),
            Ok(GraphSource::Export) => listing.checkpoint()?,
            Err(_) if model.graphs.is_empty() => return Err(listing.nothing_usable()),
            Err(none) => return Err(none),
        };
        Ok([listing.small()?, genai_config, weights].concat())
    }

    fn footprint(&self, shape: &ModelShape, dtype: DType, workload: &Workload) -> Footprint {
        if !shape.generates {
            let attention = Attention::Blocks;
            let graph = GraphFootprint::of_encoder(shape, dtype, attention, default_kernels()).with_huge_pages(true);
            return encoder_footprint(shape, &graph, dtype, attention, workload);
        }
        let kv_dtype = KvDType::by_default(dtype, Numerics::default()).dtype();
        // As the program asks for them.
        let graph = GraphFootprint::of_checkpoint(shape, dtype, default_kernels()).with_huge_pages(true);
        footprint(shape, &GraphFootprint { kv_value: held_bytes(kv_dtype), ..graph }, dtype, workload)
    }

    fn dtypes(&self, files: &ModelFiles) -> Vec<DType> {
        // Where the configuration cannot be read, opening the model says so.
        let is_encoder = files.model_config().is_ok_and(|config| config.encoder.is_some());
        let is_made = |dtype| can_be_made(files, Some(dtype)) && !(is_encoder && dtype == DType::Int4);
        let dtypes = [DType::F32, DType::Int8, DType::Int4].into_iter();
        dtypes.filter(|&dtype| files.graph_for(Some(dtype)).is_ok() || is_made(dtype)).collect()
    }

    fn open_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn OpenedModel>> {
        files.refuse_gguf()?;
        kernels_for(options)?;
        let config = files.model_config()?;
        let source = OpenedSource::open(files, options)?;
        let opened = OnnxOpened { library: self.library.clone(), files: files.clone(), options: options.clone(), config, source };
        if !opened.source.encodes(&opened.config, options.purpose) {
            held_dtype(opened.source.graph(), opened.dtype(), options)?;
        }
        Ok(Box::new(opened))
    }
}

/// Bytes of a key's or a value's number.
fn held_bytes(dtype: DType) -> Count {
    weight_bytes(dtype, Saturating(1))
}

/// A model whose configuration and graph were read.
struct OnnxOpened {
    library: Option<PathBuf>,
    files: ModelFiles,
    options: LoadOptions,
    config: ModelConfig,
    source: OpenedSource,
}

impl OpenedModel for OnnxOpened {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn dtype(&self) -> DType {
        match &self.source {
            OpenedSource::Graph(opened) => opened.dtype,
            OpenedSource::Export => self.options.dtype.unwrap_or(DType::F32),
        }
    }

    fn pooled_output(&self) -> Option<PooledOutput> {
        match &self.source {
            OpenedSource::Graph(opened) => pooled_output(&opened.graph, self.config.hidden_size),
            OpenedSource::Export => None,
        }
    }

    fn footprint(&self) -> Result<EstimateFootprint> {
        let (dtype, stored) = (self.dtype(), stored_bytes(&self.files)?);
        let shape = ModelShape::of(&self.files, &self.config, stored)?;
        let encodes = self.source.encodes(&self.config, self.options.purpose);
        let kernels = kernels_for(&self.options)?;
        let attention = Attention::of(&self.config, matches!(self.source, OpenedSource::Export));
        let graph = match &self.source {
            OpenedSource::Graph(opened) => GraphFootprint::of_graph(&opened.graph, kernels),
            OpenedSource::Export if encodes => GraphFootprint::of_encoder(&shape, dtype, attention, kernels),
            OpenedSource::Export => GraphFootprint::of_checkpoint(&shape, dtype, kernels),
        }
        .with_huge_pages(self.options.huge_pages && self.options.device == Device::Cpu);
        let graph = match encodes {
            true => graph,
            false => GraphFootprint { kv_value: held_bytes(held_dtype(self.source.graph(), dtype, &self.options)?), ..graph },
        };
        Ok(Arc::new(move |workload| match encodes {
            true => encoder_footprint(&shape, &graph, dtype, attention, workload),
            false => footprint(&shape, &graph, dtype, workload),
        }))
    }

    fn options(&self) -> &LoadOptions {
        &self.options
    }

    fn load_unchecked(self: Box<Self>) -> Result<Arc<dyn Model>> {
        let Self { library, files, options, config, source: opened } = *self;
        let mut source = opened.source(&files, &config, &options)?;
        if !options.onnx.adapted_modules.is_empty() && !opened.encodes(&config, options.purpose) {
            let needed =
                needed_inputs(&source.graph()?.0, &options.onnx.adapted_modules, kernels_for(&options)? == Kernels::Tandem);
            source.add_adapter_inputs(&needed)?;
        }
        drop(opened);
        let library = options.onnx.library.clone().or(library);
        let origin = Arc::new(Origin::new(files, options, config, library));
        let session = origin.commit(&mut source)?;
        let Origin { files, options, config, .. } = &*origin;
        let info = describe(files, options, config, &source, &session)?;
        Ok(match LoadedGraph::read(&session, &source.name, config, options.purpose)? {
            LoadedGraph::Decoder(graph) => {
                let info = describe_decoder(info, &graph, &source);
                Arc::new(OnnxModel::new(Loaded::new(origin, source, session, graph, info))?)
            }
            LoadedGraph::Encoder(graph) => Arc::new(OnnxEncoder {
                session,
                input_names: Names::new(graph.input_names.clone()),
                output_names: Names::new(graph.output_names.clone()),
                parts_names: graph.present_names.as_ref().map(|names| Names::new([&graph.output_names[..], names].concat())),
                probing: Probing::new(&origin, &source),
                buckets: Buckets::of(options, &graph, config)?,
                info: describe_encoder(info, &graph, config),
                graph,
                one_run_at_a_time: (options.device != Device::Cpu).then(|| Mutex::new(())),
                _cached: source.cached,
            }),
        })
    }
}

/// What any loaded model says of itself.
fn describe(
    files: &ModelFiles,
    options: &LoadOptions,
    config: &ModelConfig,
    source: &Source,
    session: &Session,
) -> Result<ModelInfo> {
    let placement = placement::read(session).doing("to read where the nodes were placed")?;
    let version = library::runtime_version().unwrap_or_else(|| "unknown".into());
    let version = match placement::custom_nodes(&placement) {
        [0, _] => version,
        [own, all] => format!("{version} (tandem {}, {own} of {all} nodes)", instruction_set()),
    };
    let mut info = ModelInfo::new(&files.name, BackendKind::Onnx, version);
    info.device = options.device;
    info.dtype = source.dtype;
    info.memory_dtype = source.memory_dtype;
    info.architecture = config.architecture.to_string();
    info.n_layers = config.n_layers;
    info.hidden_size = config.hidden_size;
    info.vocab_size = config.vocab_size;
    info.max_context = config.max_context;
    info.threads = n_threads(options);
    info.weight_files.clone_from(&source.weight_files);
    info.device_share = placement::share(&placement, provider_name(options.device));
    info.left_to_processor = placement::left_to_processor(&placement, options.device);
    info.placement = placement;
    Ok(info)
}

fn describe_decoder(mut info: ModelInfo, graph: &DecoderGraph, source: &Source) -> ModelInfo {
    let cache_on_host = !matches!(info.device, Device::Cuda(_));
    info.n_layers = graph.caches.len() / 2;
    info.vocab_size = graph.logits.vocab_size;
    (info.kv_dtype, info.kv_bytes_per_token) = (Some(graph.kv_dtype()), graph.kv_bytes_per_token());
    info.capabilities = Capabilities::of(&[Capability::Generation])
        .with_if(graph.has_all_logits(), Capability::AllLogits)
        .with_if(source.in_place || cache_on_host, Capability::Rewind)
        .with_if(cache_on_host, Capability::Fork)
        .with_if(cache_on_host && graph.kv_order().is_some(), Capability::KvTransfer)
        .with_if(source.can_adapt && info.device == Device::Cpu, Capability::Adapters);
    info
}

fn describe_encoder(mut info: ModelInfo, graph: &EncoderGraph, config: &ModelConfig) -> ModelInfo {
    let n_token_types = config.encoder.as_ref().map_or(0, |encoder| encoder.n_token_types);
    // Others than the first cannot be told to a graph without that input.
    info.n_token_types = if graph.token_types.is_some() { n_token_types } else { n_token_types.min(1) };
    match &graph.encoding {
        Encoding::HiddenStates(port) => {
            info.hidden_size = port.width;
            info.capabilities = Capabilities::of(&[Capability::HiddenStates]);
        }
        Encoding::Pooled(port) => {
            info.capabilities = Capabilities::of(&[Capability::PooledOutput]);
            info.pooled_output = Some(PooledOutput { name: port.name.clone(), width: port.width });
        }
    }
    info
}

#[cfg(test)]
mod tests;
