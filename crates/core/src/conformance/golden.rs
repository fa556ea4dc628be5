//! What transformers computed, as recorded by `training/goldens`.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::backend::TokenId;

/// The record of one checkpoint, as it applies to one export of it.
pub struct Golden {
    /// Where it lies, with the checkpoint.
    pub directory: PathBuf,
    /// How far logits may be, relative to the largest.
    pub tolerance: f32,
    /// How far they may be when activations are rounded to 8 bits where the graph leaves it open.
    pub tolerance_with_int8_activations: Option<f32>,
    /// Whether greedy tokens are to be equal.
    pub greedy_equal: bool,
    /// The prompts.
    pub prompts: Vec<GoldenPrompt>,
}

/// One prompt and what transformers made of it.
pub struct GoldenPrompt {
    /// What it is for.
    pub name: String,
    /// The text.
    pub text: String,
    /// Its tokens, without special ones.
    pub ids: Vec<TokenId>,
    /// The positions, from and to, whose logits are stored.
    pub stored_positions: (usize, usize),
    /// Their logits, `[positions, vocab_size]`.
    pub logits: Vec<f32>,
    /// The tokens that greedy decoding takes.
    pub greedy_tokens: Vec<TokenId>,
}

impl Golden {
    /// The `export` of a golden for what is made from its checkpoint and is not a published graph.
    pub const MADE: &str = "made";

    /// Reads `golden.json` and `golden.safetensors` of `directory`, with the tolerance of `export`.
    ///
    /// # Panics
    /// When they are not as `training/goldens` writes them.
    pub fn read(directory: &Path, export: &str) -> Self {
        let file = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
        };
        let record: Value = serde_json::from_slice(&file("golden.json")).unwrap();
        let tensors = file("golden.safetensors");
        let tensors = SafeTensors::deserialize(&tensors).unwrap();
        // What transformers computed is the same for every export; f32 made here is held to the bar of f32 exported elsewhere.
        let exports = &record["exports"];
        let export = if export == Self::MADE && exports[Self::MADE].is_null() { &exports["genai_f32"] } else { &exports[export] };
        let prompts = record["prompts"].as_array().unwrap();
        Self {
            directory: directory.into(),
            tolerance: export["tolerance"].as_f64().unwrap() as f32,
            tolerance_with_int8_activations: export["tolerance_accuracy_level_4"].as_f64().map(|value| value as f32),
            greedy_equal: export["greedy_equal"].as_bool().unwrap(),
            prompts: prompts.iter().enumerate().map(|(i, prompt)| GoldenPrompt::read(prompt, i, &tensors)).collect(),
        }
    }
}

impl Golden {
    /// The directories of the adapters that PEFT made for the checkpoint: `adapters/` beside it has those of all.
    pub(super) fn adapters(&self) -> Vec<PathBuf> {
        let (Some(all), Some(base)) = (self.directory.parent(), self.directory.file_name()) else { return Vec::new() };
        let mut directories: Vec<PathBuf> =
            std::fs::read_dir(all.join("adapters")).unwrap().map(|entry| entry.unwrap().path()).collect();
        directories.retain(|directory| {
            let record: Value = serde_json::from_slice(&std::fs::read(directory.join("golden.json")).unwrap()).unwrap();
            record["base"].as_str().is_some_and(|name| base == name)
        });
        directories.sort();
        directories
    }
}

impl GoldenPrompt {
    fn read(prompt: &Value, index: usize, tensors: &SafeTensors<'_>) -> Self {
        let ids = |field: &str| -> Vec<TokenId> { serde_json::from_value(prompt[field].clone()).unwrap() };
        let logits = tensors.tensor(&format!("prompt.{index}")).unwrap();
        Self {
            name: prompt["name"].as_str().unwrap().into(),
            text: prompt["text"].as_str().unwrap().into(),
            ids: ids("ids"),
            stored_positions: serde_json::from_value(prompt["stored_positions"].clone()).unwrap(),
            logits: logits.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            greedy_tokens: ids("greedy_tokens"),
        }
    }
}
