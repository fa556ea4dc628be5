//! A model whose headers were read: what it is and what it takes is known, and no weight was read.

use std::fmt;
use std::num::Saturating;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_core::adapter::{AdapterSum, ScaledAdapter};
use tandem_core::backend::PooledOutput;
use tandem_core::config::ModelConfig;
use tandem_core::embedding::is_embedder;
use tandem_core::files::ModelFiles;
use tandem_core::footprint::{EstimateFootprint, Part};
use tandem_core::rerank::RerankConfig;
use tandem_core::{DType, Model, OpenedModel as Opened, Result};

use crate::plan::{DTypeChoice, Planner};
use crate::settings::Settings;

/// A model whose configuration, and graph or list of weights, were read once.
///
/// ```no_run
/// use tandem::{ModelRef, Resolver, Settings};
///
/// # fn main() -> tandem::Result<()> {
/// let (resolver, settings) = (Resolver::from_env()?, Settings::default());
/// let resolved = resolver.resolve(&ModelRef::from("demo"), &settings)?;
/// let opened = resolver.open(resolver.find(&resolved, &settings)?, &settings)?;
/// println!("{} layers, {}", opened.config().n_layers, resolver.plan(opened.planner(), 512)?);
/// let model = opened.load()?;
/// # Ok(())
/// # }
/// ```
pub struct OpenedModel {
    pub(crate) files: ModelFiles,
    pub(crate) opened: Box<dyn Opened>,
    pub(crate) open_time: Duration,
    pub(crate) planner: Planner,
    pub(crate) dtype_choice: Option<DTypeChoice>,
    pub(crate) settings: Settings,
    pub(crate) adapters: Vec<ScaledAdapter>,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It generates text.
    Text,
    /// It makes vectors of texts.
    Embedding,
    /// It scores pairs of texts.
    Reranking,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Embedding => "embedding",
            Self::Reranking => "reranking",
        })
    }
}

impl Work {
    /// By what `files` say beside the model's own `config`.
    pub fn of(files: &ModelFiles, config: &ModelConfig) -> Self {
        let class = config.raw().get("architectures").and_then(|classes| classes.get(0)).and_then(|class| class.as_str());
        if class.is_some_and(|class| class.ends_with("ForSequenceClassification")) || RerankConfig::is_language_model(files) {
            return Self::Reranking;
        }
        if is_embedder(files, config) { Self::Embedding } else { Self::Text }
    }
}

impl OpenedModel {
    /// Opens the model of `files`.
    ///
    /// # Errors
    /// As [`load`](crate::load), for files whose headers cannot be read.
    pub fn open(files: ModelFiles, settings: &Settings) -> Result<Self> {
        let started = Instant::now();
        let adapters = read_adapters(&files, settings)?;
        let mut load = settings.load.clone();
        if !adapters.is_empty() {
            load.onnx.adapted_modules = AdapterSum::new(&adapters)?.modules();
        }
        let opened = settings.open_backend()?.open(&files, &load)?;
        let max_context = opened.config().max_context;
        let planner = Planner {
            engine: settings.engine(opened.dtype()),
            device: settings.load.device,
            context_length: settings.context_length.map_or(max_context, |length| length.min(max_context)),
            footprint: with_adapters(opened.footprint()?, &adapters),
        };
        let open_time = started.elapsed();
        Ok(Self { files, opened, open_time, settings: settings.clone(), planner, dtype_choice: None, adapters })
    }

    /// What it is for, by its files.
    pub fn work(&self) -> Work {
        Work::of(&self.files, self.config())
    }

    /// Loads its weights alone, for work on tokens; and how long that took.
    ///
    /// # Errors
    /// As [`load`](crate::load).
    pub fn load_model(self) -> Result<(Arc<dyn Model>, Duration)> {
        let started = Instant::now();
        let model = adapted(self.opened.load()?, &self.adapters)?;
        Ok((model, self.open_time + started.elapsed()))
    }

    /// Its files.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        self.opened.config()
    }

    /// The vector of each text that it gives in the place of hidden states, as far as its headers say.
    pub fn pooled_output(&self) -> Option<PooledOutput> {
        self.opened.pooled_output()
    }

    /// The dtype that its weights will have.
    pub fn dtype(&self) -> DType {
        self.opened.dtype()
    }

    /// The dtypes that it was chosen from, where [`Resolver::open`](crate::Resolver::open) had a choice.
    pub fn dtype_choice(&self) -> Option<&DTypeChoice> {
        self.dtype_choice.as_ref()
    }

    /// The adapters that it is loaded with.
    pub fn adapters(&self) -> &[ScaledAdapter] {
        &self.adapters
    }

    /// What it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Plans the memory that it takes.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }
}

/// Reads the adapters of `settings`, which are on this machine, for the model of `files`.
///
/// # Errors
/// As [`AdapterRef::read`](crate::adapters::AdapterRef::read).
pub fn read_adapters(files: &ModelFiles, settings: &Settings) -> Result<Vec<ScaledAdapter>> {
    if settings.adapters.is_empty() {
        return Ok(Vec::new());
    }
    let config = files.model_config()?;
    settings.adapters.iter().map(|adapter| adapter.read(Some(&config))).collect()
}

/// `model` with `adapters`, if there are any.
pub(crate) fn adapted(model: Arc<dyn Model>, adapters: &[ScaledAdapter]) -> Result<Arc<dyn Model>> {
    if adapters.is_empty() { Ok(model) } else { model.with_adapters(adapters) }
}

/// What `footprint` says, and the factors of `adapters`.
fn with_adapters(footprint: EstimateFootprint, adapters: &[ScaledAdapter]) -> EstimateFootprint {
    if adapters.is_empty() {
        return footprint;
    }
    let bytes: u64 = adapters.iter().map(|adapter| adapter.adapter.bytes() as u64).sum();
    Arc::new(move |workload| {
        let mut planned = footprint(workload);
        // As they were read, and as the engine keeps them.
        planned.kept.push(Part::own("adapters", Saturating(2 * bytes)));
        planned
    })
}
