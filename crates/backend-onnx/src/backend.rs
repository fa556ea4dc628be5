//! The engine: finds its library, lists devices, loads graphs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use tandem_core::backend::{Capabilities, Capability, LoadOptions, Placement};
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::huge_pages::MappingSnapshot;
use tandem_core::{Backend, BackendKind, Device, DeviceReport, Error, Model, ModelInfo, Result};

use crate::device::{provider_name, reports, session_builder};
use crate::error::Doing;
use crate::graph::DecoderGraph;
use crate::inner::{Origin, Probed};
use crate::model::{Loaded, OnnxModel};
use crate::run::Names;
use crate::source::{Place, Source};
use crate::{library, placement};

/// The configuration entry that says where a graph in memory has its weights.
const WEIGHTS_DIRECTORY: &str = "session.model_external_initializers_file_folder_path";

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

    /// Loads the graph of `origin` again, with its inner values as outputs.
    pub(crate) fn load_probed(&self, origin: &Origin) -> Result<Probed> {
        Probed::load(origin, |options, source| self.commit(options, source))
    }

    fn commit(&self, options: &LoadOptions, source: &Source) -> Result<Session> {
        let environment = library::environment(options.onnx.library.as_deref().or(self.library.as_deref()))?;
        let builder = configure(session_builder(&environment, options)?, n_threads(options), options.onnx.spin)?;
        commit(builder, source)
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

    fn load_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
        files.refuse_gguf()?;
        let config = ModelConfig::from_file(&files.config)?;
        let source = Source::choose(files, &config, options)?;
        let before = (options.huge_pages && options.device == Device::Cpu).then(MappingSnapshot::now);
        let session = self.commit(options, &source)?;
        if let Some(before) = before {
            before.collapse();
        }
        let graph = DecoderGraph::read(&session, &source.name, &config)?;
        let placement = placement::read(&session).doing("to read where the nodes were placed")?;
        let info = describe(files, options, &config, &source, &graph, (placement, n_threads(options)));
        Ok(Arc::new(OnnxModel {
            loaded: Arc::new(Loaded {
                session,
                input_names: Names::new(graph.input_names.clone()),
                output_names: Names::new(graph.output_names.clone()),
                graph,
                in_place: source.in_place,
                one_run_at_a_time: (options.device != Device::Cpu).then(|| Mutex::new(())),
                info,
                can_probe: source.can_probe && options.device == Device::Cpu,
                _cached: source.cached,
                origin: Origin { files: files.clone(), options: options.clone() },
                probed: Mutex::new(None),
                backend: self.clone(),
            }),
        }))
    }
}

/// What the loaded model says of itself.
fn describe(
    files: &ModelFiles,
    options: &LoadOptions,
    config: &ModelConfig,
    source: &Source,
    graph: &DecoderGraph,
    (placement, threads): (Vec<Placement>, usize),
) -> ModelInfo {
    let cache_on_host = !matches!(options.device, Device::Cuda(_));
    let mut info = ModelInfo::new(&files.name, BackendKind::Onnx, library::runtime_version().unwrap_or_else(|| "unknown".into()));
    info.device = options.device;
    info.dtype = source.dtype;
    info.memory_dtype = source.dtype;
    info.architecture = config.architecture.to_string();
    info.n_layers = graph.caches.len() / 2;
    info.hidden_size = config.hidden_size;
    info.vocab_size = graph.logits.vocab_size;
    info.max_context = config.max_context;
    info.threads = threads;
    info.kv_bytes_per_token = graph.kv_bytes_per_token();
    info.capabilities = Capabilities::of(&[Capability::Generation])
        .with_if(graph.has_all_logits(), Capability::AllLogits)
        .with_if(source.in_place || cache_on_host, Capability::Rewind);
    info.weight_files.clone_from(&source.weight_files);
    info.device_share = placement::share(&placement, provider_name(options.device));
    info.placement = placement;
    info
}

fn n_threads(options: &LoadOptions) -> usize {
    options.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from)
}

fn configure(builder: SessionBuilder, threads: usize, spin: bool) -> Result<SessionBuilder> {
    const DOING: &str = "to prepare a session";
    Ok(builder
        .with_optimization_level(GraphOptimizationLevel::All)
        .doing(DOING)?
        .with_intra_threads(threads)
        .doing(DOING)?
        .with_intra_op_spinning(spin)
        .doing(DOING)?
        // A decoder's shapes differ from run to run: a pattern is kept for each and none is used again.
        .with_memory_pattern(false)
        .doing(DOING)?
        .with_config_entry(placement::RECORD, "1")
        .doing(DOING)?)
}

fn commit(mut builder: SessionBuilder, source: &Source) -> Result<Session> {
    let made = match &source.place {
        Place::File(path) => builder.commit_from_file(path),
        Place::Memory { bytes, weights: None } => builder.commit_from_memory(bytes),
        Place::Memory { bytes, weights: Some(directory) } => builder
            .with_config_entry(WEIGHTS_DIRECTORY, directory.to_string_lossy())
            .doing("to prepare a session")?
            .commit_from_memory(bytes),
    };
    made.map_err(|error| Error::BadFile {
        file: source.name.clone(),
        problem: "the engine cannot use this graph".into(),
        hint: Some("obtain or export the model again; `tandem devices` shows whether the engine itself works".into()),
        source: Some(Box::new(error)),
    })
}
