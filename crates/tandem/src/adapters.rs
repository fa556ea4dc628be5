//! Adapters by their references: found beside a model, read for it, applied to it and switched.

mod train;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{Error, Result};
use tandem_hub::{FileSelector, HubReference, PullOptions};

pub use self::train::{HELD_OUT_SHARE, TrainData, TrainEvent, TrainPlan, TrainedAdapter, train};
use crate::backends;
use crate::model::TextModel;
use crate::resolver::Resolver;
use crate::settings::Settings;

pub use tandem_core::adapter::{
    Adapter, AdapterFiles, AdapterFormat, AdapterOrigin, LowRankFactors, MergeOptions, ScaledAdapter, write_merged, write_mlx,
    write_onnx_adapter, write_peft,
};
pub use tandem_core::backend::AppliedAdapter;
pub use tandem_core::training::{ALL_LINEAR, Conversation, TrainOptions, UpdateReport, read_conversations};

/// An adapter by its reference, and how much of it is applied.
///
/// A reference is a directory or a file (of PEFT, mlx-lm, ONNX Runtime or llama.cpp), or `owner/name[@revision]` on the Hugging Face hub.
/// As a text it may end in `=SCALE`.
///
/// ```
/// use tandem::adapters::AdapterRef;
///
/// let adapter: AdapterRef = "./my-adapter=0.5".parse()?;
/// assert_eq!((adapter.reference.as_str(), adapter.scale), ("./my-adapter", 0.5));
/// # Ok::<(), tandem::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdapterRef {
    /// What was written.
    pub reference: String,
    /// 1 applies it as it was trained.
    pub scale: f32,
    /// Where it is on this machine, once it is known.
    path: Option<PathBuf>,
}

impl AdapterRef {
    /// The adapter `reference`, `scale` of it.
    pub fn new(reference: impl Into<String>, scale: f32) -> Self {
        Self { reference: reference.into(), scale, path: None }
    }

    /// Whether it is on the hub and not on this machine.
    fn hub(&self) -> Option<HubReference> {
        let is_path = self.path.is_some() || Path::new(&self.reference).exists() || self.reference.starts_with(['.', '/', '~']);
        if is_path { None } else { self.reference.parse().ok() }
    }

    /// Its files, which are on this machine.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] when nothing has this name, and those of [`AdapterFiles::discover`].
    pub fn files(&self) -> Result<AdapterFiles> {
        let path = self.path.as_deref().unwrap_or(Path::new(&self.reference));
        if !path.exists() {
            return Err(Error::ModelNotFound {
                reference: self.reference.clone(),
                reason: "no adapter is at this path".into(),
                hint: "name a directory with `adapter_config.json`, an `.onnx_adapter` or `.gguf` file, or `owner/name` on the \
                       Hugging Face hub"
                    .into(),
            });
        }
        AdapterFiles::discover(path, &self.reference)
    }

    /// Reads it for the model of `base`.
    ///
    /// # Errors
    /// As [`files`](Self::files) and [`AdapterFiles::read`].
    pub fn read(&self, base: &ModelConfig) -> Result<ScaledAdapter> {
        if !self.scale.is_finite() {
            return Err(Error::invalid_option("adapter scale", self.scale, "is not finite"));
        }
        Ok(ScaledAdapter { adapter: Arc::new(self.files()?.read(Some(base))?), scale: self.scale })
    }
}

impl FromStr for AdapterRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid_option("adapter", text, "names nothing"));
        }
        match text.rsplit_once('=') {
            Some((reference, scale)) if !Path::new(text).exists() => match scale.parse::<f32>() {
                Ok(scale) if scale.is_finite() && !reference.is_empty() => Ok(Self::new(reference, scale)),
                _ => Err(Error::invalid_option(
                    "adapter",
                    text,
                    format!("`{scale}` after `=` is not a scale: a number such as 0.5"),
                )),
            },
            _ => Ok(Self::new(text, 1.0)),
        }
    }
}

impl fmt::Display for AdapterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference)?;
        if self.scale == 1.0 { Ok(()) } else { write!(f, "={}", self.scale) }
    }
}

impl Resolver {
    /// `adapter` with its files on this machine: one of the hub is downloaded, unless it is in the cache. The progress and the cancel
    /// token are those of `settings.load`.
    ///
    /// # Errors
    /// As [`Hub::find`](tandem_hub::Hub::find).
    pub fn find_adapter(&self, adapter: &AdapterRef, settings: &Settings) -> Result<AdapterRef> {
        let Some(reference) = adapter.hub() else { return Ok(adapter.clone()) };
        let select = FileSelector::new(|listing| AdapterFiles::needed(listing.name, listing.files));
        let (progress, cancel) = (settings.load.progress.clone(), settings.load.cancel.clone());
        let snapshot = self.hub()?.find(&reference, &PullOptions { progress, cancel, ..PullOptions::new(select) })?;
        Ok(AdapterRef { path: Some(snapshot.directory), ..adapter.clone() })
    }

    /// `settings` with all of their adapters on this machine.
    ///
    /// # Errors
    /// As [`find_adapter`](Self::find_adapter).
    pub fn find_adapters(&self, settings: &Settings) -> Result<Settings> {
        let adapters = settings.adapters.iter().map(|adapter| self.find_adapter(adapter, settings)).collect::<Result<_>>()?;
        Ok(Settings { adapters, ..settings.clone() })
    }
}

/// Reads the adapters of `settings` for the model of `files`.
pub(crate) fn read_all(files: &ModelFiles, settings: &Settings) -> Result<Vec<ScaledAdapter>> {
    if settings.adapters.is_empty() {
        return Ok(Vec::new());
    }
    let config = files.model_config()?;
    settings.adapters.iter().map(|adapter| adapter.read(&config)).collect()
}

/// The name of another model than `model` that `adapter` says it was trained on: it may not do here what it was trained to do.
pub fn other_base<'a>(adapter: &'a AppliedAdapter, model: &str) -> Option<&'a str> {
    let last = |name: &str| {
        let name = name.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or_default().to_ascii_lowercase();
        name.split('@').next().unwrap_or_default().to_owned()
    };
    adapter.base_model.as_deref().filter(|base| !last(base).is_empty() && last(base) != last(model))
}

/// A model and what adapters make of it, by name. They share its weights.
///
/// ```no_run
/// use tandem::Settings;
/// use tandem::adapters::{AdapterRef, AdapterSet};
///
/// # fn main() -> tandem::Result<()> {
/// let mut set = AdapterSet::new(tandem::load("./qwen3-0.6b", &Settings::default())?);
/// set.add("pirate", &[AdapterRef::new("./pirate", 1.0)])?;
/// let model = set.get("pirate").expect("it was added");
/// let reply = model.chat()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AdapterSet {
    base: TextModel,
    adapted: BTreeMap<String, TextModel>,
}

impl AdapterSet {
    /// `base` and nothing else.
    pub fn new(base: TextModel) -> Self {
        Self { base, adapted: BTreeMap::new() }
    }

    /// Reads `adapters`, and calls the model with their sum `name`, in the place of what was called so.
    ///
    /// # Errors
    /// As [`AdapterRef::read`] and [`TextModel::with_adapters`]; the set is unchanged then.
    pub fn add(&mut self, name: &str, adapters: &[AdapterRef]) -> Result<()> {
        let config = self.base.files().model_config()?;
        let adapters = adapters.iter().map(|adapter| adapter.read(&config)).collect::<Result<Vec<_>>>()?;
        self.adapted.insert(name.to_owned(), self.base.with_adapters(&adapters)?);
        Ok(())
    }

    /// The model without adapters.
    pub fn base(&self) -> &TextModel {
        &self.base
    }

    /// The model that `name` was given to.
    pub fn get(&self, name: &str) -> Option<&TextModel> {
        self.adapted.get(name)
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapted.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_may_have_a_scale() {
        let check = |text: &str, reference: &str, scale: f32| {
            let adapter: AdapterRef = text.parse().unwrap();
            assert_eq!((adapter.reference.as_str(), adapter.scale), (reference, scale), "{text}");
        };
        check("./mine", "./mine", 1.0);
        check("owner/name@v2=-0.25", "owner/name@v2", -0.25);
        check("a=b=2", "a=b", 2.0);
        let problem = |text: &str| text.parse::<AdapterRef>().unwrap_err().to_string();
        assert!(problem("./mine=half").contains("`half`"));
        assert!(problem("").contains("names nothing"));
        assert!(problem("=1").contains("not a scale"));
        assert_eq!(AdapterRef::new("a", 0.5).to_string(), "a=0.5");
    }

    #[test]
    fn hub_is_asked_for_names_that_are_no_paths() {
        assert!(AdapterRef::new("owner/name", 1.0).hub().is_some());
        for path in ["./owner/name", "/owner/name", "src"] {
            assert!(AdapterRef::new(path, 1.0).hub().is_none(), "{path}");
        }
    }

    #[test]
    fn another_base_is_told_by_its_last_part() {
        let applied = |base: &str| AppliedAdapter { base_model: Some(base.into()), ..AppliedAdapter::default() };
        assert_eq!(other_base(&applied("Qwen/Qwen3-0.6B"), "./models/qwen3-0.6b"), None);
        assert_eq!(other_base(&applied("Qwen/Qwen3-0.6B"), "Qwen/Qwen3-0.6B@main"), None);
        assert_eq!(other_base(&applied("Qwen/Qwen3-0.6B"), "Qwen/Qwen3-4B"), Some("Qwen/Qwen3-0.6B"));
        assert_eq!(other_base(&AppliedAdapter::default(), "demo"), None);
    }
}
