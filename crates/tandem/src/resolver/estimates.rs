//! What suits this machine: the dtype of a model, and the model that `auto` stands for.

use tandem_core::bandwidth::{MORE_THAN_CACHES, read_bandwidth};
use tandem_core::config::ModelConfig;
use tandem_core::files::{Listing, ModelFile, ModelFiles};
use tandem_core::footprint::{ModelShape, Workload};
use tandem_core::{Backend, DType, Result};
use tandem_hub::FileSelector;

use super::Resolver;
use crate::backends::file_selector;
use crate::catalog::{CatalogEntry, Kind};
use crate::opened::OpenedModel;
use crate::plan::{COMFORTABLE_SPEED, Candidate, Choice, DTypeChoice, Estimate, Resources};
use crate::settings::Settings;

/// The dtypes that a checkpoint of the catalog is run in, the most exact first.
const DTYPES: [DType; 3] = [DType::F32, DType::Int8, DType::Int4];

/// Bytes per second that any memory reads. A model that is fast enough at this speed is so everywhere, and nothing is measured for it.
const MIN_BANDWIDTH: f64 = 2e9;

impl Resolver {
    /// Opens the model of `files`, in the dtype that suits this machine where `settings` leave it open.
    ///
    /// # Errors
    /// As [`OpenedModel::open`] and [`choose_dtype`](Self::choose_dtype).
    pub fn open(&self, files: ModelFiles, settings: &Settings) -> Result<OpenedModel> {
        let choice = self.choose_dtype(&files, settings)?;
        let mut settings = settings.clone();
        if let Some(choice) = &choice {
            settings.load.dtype = Some(choice.chosen().dtype());
        }
        Ok(OpenedModel { dtype_choice: choice, ..OpenedModel::open(files, &settings)? })
    }

    /// The dtype that suits this machine for the model of `files`. `None` where there is nothing to choose: `settings` have a dtype or ask
    /// for the published one, the device is not the processor, the files have one dtype only, or any machine is fast enough.
    ///
    /// # Errors
    /// Those of reading the configuration.
    pub fn choose_dtype(&self, files: &ModelFiles, settings: &Settings) -> Result<Option<DTypeChoice>> {
        self.choose_among(files, settings, || files.model_config())
    }

    /// The files of a repository that the backend of `settings` needs, at the dtype of `settings` or the one that suits this machine.
    pub fn file_selector(&self, settings: &Settings) -> FileSelector {
        let (resolver, settings) = (self.clone(), settings.clone());
        match settings.open_backend() {
            Ok(backend) if settings.leaves_dtype_open() => FileSelector::new(move |listing| {
                let choice = if listing.is_gguf()? { None } else { resolver.choose_listed(listing, &settings)? };
                backend.select_files(listing, choice.map(|choice| choice.chosen().dtype()))
            }),
            _ => file_selector(settings.backend_kind(), settings.load.dtype),
        }
    }

    fn choose_listed(&self, listing: &Listing<'_>, settings: &Settings) -> Result<Option<DTypeChoice>> {
        let mut files = listing.model()?;
        // Its size is not known before it is downloaded.
        files.tokenizer = None;
        let name = files.config.file_name();
        let content = (listing.read)(name)?;
        // A model that cannot run here can be downloaded all the same.
        let Ok(config) = ModelConfig::from_json(name, &content) else { return Ok(None) };
        self.choose_among(&files, settings, || Ok(config))
    }

    fn choose_among(
        &self,
        files: &ModelFiles,
        settings: &Settings,
        config: impl FnOnce() -> Result<ModelConfig>,
    ) -> Result<Option<DTypeChoice>> {
        if !settings.leaves_dtype_open() {
            return Ok(None);
        }
        let backend = settings.open_backend()?;
        let dtypes = backend.dtypes(files);
        if dtypes.len() < 2 {
            return Ok(None);
        }
        let config = config()?;
        let stored: Result<u64> = files.weights.iter().map(ModelFile::len).sum();
        // Of files that are not here, or are graphs, the sizes are those of the checkpoint in 16 bits.
        let stored = stored.ok().filter(|&bytes| bytes > 0).unwrap_or_else(|| config.n_parameters().saturating_mul(2));
        let shape = ModelShape::of(files, &config, stored)?;
        let context_length = settings.context_length.map_or(config.max_context, |length| length.min(config.max_context));
        let workload = Workload { n_tokens: settings.planned_tokens().min(context_length), context_length };
        let decoding = backend.footprint(&shape, dtypes[0], &workload).decoding;
        if decoding.tokens_per_second(MIN_BANDWIDTH) >= COMFORTABLE_SPEED {
            return Ok(None);
        }
        Ok(self.resources(settings).choose(&*backend, &dtypes, &shape, workload, settings))
    }

    /// What `auto` comes to.
    ///
    /// # Errors
    /// [`Error::BackendNotCompiled`](tandem_core::Error::BackendNotCompiled).
    pub fn choose(&self, settings: &Settings) -> Result<Choice> {
        let (backend, resources) = (settings.open_backend()?, self.resources(settings));
        let open = self.catalog().entries().iter().filter(|entry| entry.kind == Kind::Text && entry.is_open());
        let candidates = open.filter_map(|entry| {
            let choice = resources.choose_entry(&*backend, entry, settings, settings.planned_tokens())?;
            Some(Candidate { entry: entry.clone(), estimate: choice.chosen().clone() })
        });
        Ok(Choice::among(candidates.collect(), resources.memory.usable()))
    }

    /// What `entry` takes with `n_tokens` and how fast it is, by what the catalog says of it; in the dtype of `settings`, or the one that
    /// suits this machine.
    ///
    /// # Errors
    /// [`Error::BackendNotCompiled`](tandem_core::Error::BackendNotCompiled).
    pub fn estimate(&self, entry: &CatalogEntry, settings: &Settings, n_tokens: usize) -> Result<Estimate> {
        let backend = settings.open_backend()?;
        let choice = self.resources(settings).choose_entry(&*backend, entry, settings, n_tokens);
        Ok(choice.expect("a dtype is among the estimates").chosen().clone())
    }

    /// The bandwidth of this machine's memory with the threads of `settings`, in bytes per second: as it was kept for a week, else
    /// measured, which takes half a second.
    pub fn bandwidth(&self, settings: &Settings) -> f64 {
        self.bandwidth
            .or_else(|| self.measurements().bandwidth(settings.threads()))
            .unwrap_or_else(|| self.measure_bandwidth(settings))
    }

    /// Measures the bandwidth of this machine's memory with a part of what is free, and keeps it.
    fn measure_bandwidth(&self, settings: &Settings) -> f64 {
        let spare = usize::try_from(self.memory().usable() / 4).unwrap_or(usize::MAX);
        let speed = read_bandwidth(settings.threads(), MORE_THAN_CACHES.min(spare));
        if let Some(file) = &self.measured {
            let mut measured = self.measurements();
            measured.set_bandwidth(settings.threads(), speed);
            // It is measured again where it cannot be kept.
            let _ = measured.write(file);
        }
        speed
    }

    fn resources(&self, settings: &Settings) -> Resources {
        Resources { memory: self.memory(), measured: self.measurements(), bandwidth: self.bandwidth(settings) }
    }
}

impl Resources {
    fn choose(
        &self,
        backend: &dyn Backend,
        dtypes: &[DType],
        shape: &ModelShape,
        workload: Workload,
        settings: &Settings,
    ) -> Option<DTypeChoice> {
        let estimate = |&dtype: &DType| self.estimate(backend, settings.engine(dtype), shape, workload);
        DTypeChoice::among(dtypes.iter().map(estimate).collect())
    }

    fn choose_entry(
        &self,
        backend: &dyn Backend,
        entry: &CatalogEntry,
        settings: &Settings,
        n_tokens: usize,
    ) -> Option<DTypeChoice> {
        let n_tokens = n_tokens.min(entry.context);
        let dtypes = match settings.load.dtype {
            Some(dtype) => vec![dtype],
            None if settings.leaves_dtype_open() => DTYPES.to_vec(),
            None => vec![DType::F32],
        };
        self.choose(backend, &dtypes, &entry.shape(), Workload { n_tokens, context_length: n_tokens }, settings)
    }
}

#[cfg(test)]
mod tests {
    use tandem_core::BackendKind;

    use super::*;
    use crate::catalog::Catalog;
    use crate::machine::Memory;

    #[test]
    fn only_the_graph_of_the_chosen_dtype_is_downloaded() {
        let config = br#"{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
            "vocab_size": 151936, "tie_word_embeddings": true}"#;
        let read = |name: &str| match name {
            "config.json" => Ok(config.to_vec()),
            other => panic!("{other} is read"),
        };
        let files = ["config.json", "onnx/model.onnx", "onnx/model_int8.onnx", "onnx/model_q4.onnx"];
        let listing = Listing { name: "owner/name", files: &files, variant: None, read: &read };
        let settings = Settings { backend: Some(BackendKind::Onnx), ..Settings::default() };
        let Ok(backend) = settings.open_backend() else { return eprintln!("skipped: this build has no backend `onnx`") };
        for (bandwidth, graph) in [(1e12, "onnx/model.onnx"), (18e9, "onnx/model_int8.onnx"), (1e9, "onnx/model_q4.onnx")] {
            let resolver = Resolver::new(Catalog::builtin()).with_measurements(None).with_bandwidth(bandwidth);
            let resolver = resolver.with_memory(Memory::of_machine_with(16 << 30));
            let choice = resolver.choose_listed(&listing, &settings).unwrap().unwrap();
            let selected = backend.select_files(&listing, Some(choice.chosen().dtype())).unwrap();
            assert_eq!(selected, ["config.json", graph]);
        }
        let unknown = |_: &str| Ok(br#"{"model_type": "bert"}"#.to_vec());
        let resolver = Resolver::new(Catalog::builtin()).with_measurements(None).with_bandwidth(1e9);
        let choice = resolver.choose_listed(&Listing { read: &unknown, ..listing }, &settings);
        assert_eq!(choice.unwrap(), None, "what cannot run is downloaded as it was published");
    }
}
