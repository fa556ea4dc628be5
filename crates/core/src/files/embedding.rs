//! The small files that say how an embedding is made of hidden states, as sentence-transformers saves them.

use std::path::Path;

use serde_json::Value;

use super::{MAX_JSON_BYTES, ModelFiles};
use crate::error::Result;

/// It names the folders of what follows the model, such as `1_Pooling` and `2_Dense`.
const MODULES: &str = "modules.json";

/// Beside it.
const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";

/// The names of the file with the longest text, the first one since 2021.
pub(crate) const SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// What such a folder may have: how it is made, and the weights of a dense layer.
const OF_MODULE: [&str; 2] = ["config.json", "model.safetensors"];

impl ModelFiles {
    /// Where the files lie that say how an embedding is made, relative to the model's directory: those that there are.
    ///
    /// # Errors
    /// When `modules.json` cannot be read.
    pub fn embedding_places(&self) -> Result<Vec<String>> {
        places(
            |place| self.beside(place).is_some(),
            |name| match self.beside(name) {
                Some(file) => Ok(file.read(MAX_JSON_BYTES)?.into_owned()),
                None => Ok(Vec::new()),
            },
        )
    }
}

/// Those of the files for which `has` is true; `read` reads one that names others. Whether that file is right says who reads it for use.
pub(super) fn places(has: impl Fn(&str) -> bool, read: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Vec<String>> {
    let mut places: Vec<String> = [MODULES, SENTENCE_TRANSFORMERS]
        .iter()
        .chain(&SETTINGS)
        .filter(|name| has(name))
        .map(|name| (*name).to_owned())
        .collect();
    if !has(MODULES) {
        return Ok(places);
    }
    let modules: Vec<Value> = serde_json::from_slice(&read(MODULES)?).unwrap_or_default();
    let is_below = |path: &&str| Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let folders =
        modules.iter().filter_map(|module| module.get("path")?.as_str()).filter(|path| !path.is_empty()).filter(is_below);
    let files = folders.flat_map(|folder| OF_MODULE.map(|file| format!("{}/{file}", folder.trim_end_matches('/'))));
    places.extend(files.filter(|place| has(place)));
    Ok(places)
}
