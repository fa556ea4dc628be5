//! Adapters: which there are, whether one fits a model, several models of one base, and training.

mod train;

use std::collections::BTreeMap;

use tandem_core::Result;
use tandem_core::adapter::Merged;
use tandem_core::checkpoint::Checkpoint;
use tandem_core::files::ModelFiles;

pub use self::train::{HELD_OUT_SHARE, TrainData, TrainEvent, TrainPlan, TrainedAdapter, train};
use crate::backends;
use crate::model::TextModel;
pub use crate::opened::read_adapters;
pub use crate::reference::AdapterRef;

pub use tandem_core::adapter::{
    Adapter, AdapterFiles, AdapterFormat, AdapterOrigin, LowRankFactors, MergeOptions, ScaledAdapter, write_merged, write_mlx,
    write_onnx_adapter, write_peft,
};
pub use tandem_core::backend::AppliedAdapter;
pub use tandem_core::training::{ALL_LINEAR, Conversation, TrainOptions, UpdateReport, read_conversations};

/// Checks that `adapters` fit the checkpoint of `files`: every module is there and has its shape.
///
/// # Errors
/// [`Error::BadField`](crate::Error::BadField) with the module and the sizes.
pub fn check(files: &ModelFiles, adapters: &[ScaledAdapter]) -> Result<()> {
    Merged::new(&Checkpoint::open(files)?, adapters).map(drop)
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
        let adapters = adapters.iter().map(|adapter| adapter.read(Some(&config))).collect::<Result<Vec<_>>>()?;
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
    fn another_base_is_told_by_its_last_part() {
        let applied = |base: &str| AppliedAdapter { base_model: Some(base.into()), ..AppliedAdapter::default() };
        assert_eq!(other_base(&applied("Qwen/Qwen3-0.6B"), "./models/qwen3-0.6b"), None);
        assert_eq!(other_base(&applied("Qwen/Qwen3-0.6B"), "Qwen/Qwen3-0.6B@main"), None);
        assert_eq!(other_base(&applied("Qwen/Qwen3-0.6B"), "Qwen/Qwen3-4B"), Some("Qwen/Qwen3-0.6B"));
        assert_eq!(other_base(&AppliedAdapter::default(), "demo"), None);
    }
}
