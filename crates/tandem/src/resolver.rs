//! From a model reference to files, and whether they fit the memory: with a catalog, a hub, a machine, and what was measured on it.

mod adapters;
mod admission;
mod estimates;

use std::path::PathBuf;

use tandem_core::files::{ModelFiles, did_you_mean, near_names};
use tandem_core::{DType, Error, Remedy, Result, paths};
use tandem_hub::{FileSelector, Hub, HubReference, HubSettings, PullOptions};

pub use self::admission::Admission;
use crate::catalog::{Catalog, CatalogEntry};
use crate::demo;
use crate::machine::Memory;
use crate::plan::{Choice, Measurements};
use crate::reference::{AUTO, DEMO, ModelRef};
use crate::settings::Settings;

/// Turns references into files.
///
/// ```no_run
/// use tandem::{ModelRef, Resolver, Settings};
///
/// # fn main() -> tandem::Result<()> {
/// let (resolver, settings) = (Resolver::from_env()?, Settings::default());
/// let resolved = resolver.resolve(&ModelRef::from("auto"), &settings)?;
/// println!("{} fits", resolved.model);
/// let files = resolver.find(&resolved, &settings)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Resolver {
    catalog: Catalog,
    hub: Option<HubSettings>,
    memory: Option<Memory>,
    measured: Option<PathBuf>,
    bandwidth: Option<f64>,
}

/// What a reference came to.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The built-in model, a path, or a repository on the hub.
    pub model: ModelRef,
    /// The entry of the catalog that the reference named, itself or by `auto`.
    pub entry: Option<CatalogEntry>,
    /// What `auto` chose from.
    pub choice: Option<Choice>,
}

impl Resolver {
    /// With the models of `catalog`, the hub of the environment ([`HubSettings::from_env`]), this machine's memory, and what runs took
    /// on it before.
    pub fn new(catalog: Catalog) -> Self {
        Self {
            catalog,
            hub: None,
            memory: None,
            measured: paths::state_dir().map(|dir| dir.join("memory.json")),
            bandwidth: None,
        }
    }

    /// With the models of the program and those of the user's own `tandem.toml`.
    ///
    /// # Errors
    /// As [`Catalog::of_user`].
    pub fn from_env() -> Result<Self> {
        Ok(Self::new(Catalog::of_user()?))
    }

    /// With another hub or cache.
    pub fn with_hub(self, settings: HubSettings) -> Self {
        Self { hub: Some(settings), ..self }
    }

    /// With the memory of another machine.
    pub fn with_memory(self, memory: Memory) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// With memory that gives `bytes_per_second`.
    pub fn with_bandwidth(self, bytes_per_second: f64) -> Self {
        Self { bandwidth: Some(bytes_per_second), ..self }
    }

    /// With measurements that are kept in another file, or not at all.
    pub fn with_measurements(self, file: Option<PathBuf>) -> Self {
        Self { measured: file, ..self }
    }

    /// The models that are known by name.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The memory that there is.
    pub fn memory(&self) -> Memory {
        self.memory.clone().unwrap_or_else(Memory::read)
    }

    /// What runs took before.
    pub fn measurements(&self) -> Measurements {
        self.measured.as_deref().map(Measurements::read).unwrap_or_default()
    }

    /// The hub and its cache.
    ///
    /// # Errors
    /// As [`Hub::from_env`].
    pub fn hub(&self) -> Result<Hub> {
        self.hub.clone().map_or_else(Hub::from_env, |settings| Ok(Hub::new(settings)))
    }

    /// What `reference` names, for the backend and dtype of `settings`. No file is read and no hub asked.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] with names that are near, and where nothing fits; [`Error::BackendNotCompiled`] for `auto`.
    pub fn resolve(&self, reference: &ModelRef, settings: &Settings) -> Result<Resolved> {
        let (entry, choice) = match reference {
            ModelRef::Auto => {
                let choice = self.choose(settings)?;
                let chosen = choice.chosen().ok_or_else(|| nothing_fits(&choice))?;
                (chosen.entry.clone(), Some(choice))
            }
            ModelRef::Catalog(name) => (self.catalog.find(name).ok_or_else(|| self.unknown(name))?.clone(), None),
            other => return Ok(Resolved { model: other.clone(), entry: None, choice: None }),
        };
        let model = ModelRef::Hub(entry.repository(settings.backend_kind()).parse()?);
        Ok(Resolved { model, entry: Some(entry), choice })
    }

    /// The files that the backend and dtype of `settings` need. Those of a model on the hub are downloaded, unless they are in the cache;
    /// the progress and the cancel token are those of `settings.load`.
    ///
    /// # Errors
    /// Those of [`ModelFiles::discover`] and [`Hub::find`].
    pub fn find(&self, resolved: &Resolved, settings: &Settings) -> Result<ModelFiles> {
        self.find_with(self.file_selector(settings), resolved, settings)
    }

    /// The files that `select` chooses of a model on the hub, and all files of any other: [`FileSelector::checkpoint`] is for work on the
    /// weights as published, whatever the backend.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_with(&self, select: FileSelector, resolved: &Resolved, settings: &Settings) -> Result<ModelFiles> {
        let name = resolved.model.to_string();
        let reference = match &resolved.model {
            ModelRef::BuiltIn => return demo::files(),
            ModelRef::Local(path) => return ModelFiles::discover(path, &name),
            _ => resolved.repository()?,
        };
        let (progress, cancel) = (settings.load.progress.clone(), settings.load.cancel.clone());
        let snapshot = self.hub()?.find(&reference, &PullOptions { progress, cancel, ..PullOptions::new(select) })?;
        // A GGUF file is a model by itself, and others of the repository may lie beside it.
        let gguf = snapshot.files.iter().find(|name| name.to_ascii_lowercase().ends_with(".gguf"));
        ModelFiles::discover(&gguf.map_or(snapshot.directory.clone(), |name| snapshot.directory.join(name)), &name)
    }

    /// The error for a `name` that is nothing: no path, no repository, and no entry of the catalog. It offers what is near.
    fn unknown(&self, name: &str) -> Error {
        if Catalog::is_name(name) {
            return self.catalog.unknown(name);
        }
        let directories =
            std::fs::read_dir(".").into_iter().flatten().flatten().filter(|entry| entry.path().join("config.json").is_file());
        let directories = directories.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let near = near_names(name, directories.chain([DEMO.to_owned()]).chain(self.catalog.names()));
        Error::ModelNotFound {
            reference: name.into(),
            reason: "it is neither the built-in model, a name of the catalog, an existing path, nor of the form \
                     `owner/name[@revision]`"
                .into(),
            hint: did_you_mean(
                &near,
                "name `demo`, a directory with the model's files, `owner/name` for a model on the Hugging Face hub, or one of the \
                 catalog such as `qwen2.5:0.5b`",
            )
            .into(),
        }
    }
}

/// The files that `reference` names, as the default backend needs them to run the model as published: see [`ModelRef`] for what it may be.
///
/// # Errors
/// As [`Resolver::resolve`] and [`Resolver::find`].
pub fn find(reference: impl Into<ModelRef>) -> Result<ModelFiles> {
    let (resolver, settings) = (Resolver::from_env()?, Settings { as_published: true, ..Settings::default() });
    resolver.find(&resolver.resolve(&reference.into(), &settings)?, &settings)
}

impl Resolved {
    /// The same model as its checkpoint was published: for work in which several backends are to have the same weights.
    ///
    /// # Errors
    /// When the catalog's entry names no repository.
    pub fn into_checkpoint(self) -> Result<Self> {
        match &self.entry {
            Some(entry) => Ok(Self { model: ModelRef::Hub(entry.checkpoint.parse()?), ..self }),
            None => Ok(self),
        }
    }

    /// The repository on the hub.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] for a model that is on this machine.
    pub fn repository(&self) -> Result<HubReference> {
        let reason = match &self.model {
            ModelRef::Hub(reference) => return Ok(reference.clone()),
            ModelRef::BuiltIn => "it is part of the program and not on the hub",
            _ => "it is a path on this machine and not on the hub",
        };
        Err(Error::ModelNotFound {
            reference: self.model.to_string(),
            reason: reason.into(),
            hint: "name a model as the Hugging Face hub does, such as `Qwen/Qwen2.5-0.5B-Instruct`".into(),
        })
    }

    /// Every repository that its files may have come from.
    ///
    /// # Errors
    /// As [`repository`](Self::repository).
    pub fn repositories(&self) -> Result<Vec<HubReference>> {
        match &self.entry {
            Some(entry) => std::iter::once(&entry.checkpoint).chain(&entry.graphs).map(|repository| repository.parse()).collect(),
            None => Ok(vec![self.repository()?]),
        }
    }
}

/// Says so, with the smallest that there is.
fn nothing_fits(choice: &Choice) -> Error {
    let usable = tandem_core::size::Size(choice.usable);
    let smallest = choice.smallest();
    let smallest = smallest.map(|candidate| {
        Remedy::Note(format!("`{}` takes {}", candidate.entry.name, tandem_core::size::Size(candidate.estimate.plan.peak())))
    });
    let smaller = [Remedy::UseDType(vec![DType::Int4]), "use the built-in model `demo`".into()];
    Error::ModelNotFound {
        reference: AUTO.into(),
        reason: format!("no model of the catalog fits {usable}"),
        hint: smallest.into_iter().chain(smaller).collect(),
    }
}
