//! What makes a model's vectors what they are: a text has the same vector wherever the [`Space`] is the same, whatever computed it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{EmbedOptions, Embedder, Normalize, Step, Truncate};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::files::{ModelFile, ModelFiles};

/// The first part of an id, which changes when the meaning of its fields does.
const VERSION: &str = "tandem-embedding-1";

/// A description of vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// What has to be equal for a text to have the same vector.
    pub space: Space,
    /// What may differ, within rounding.
    pub arithmetic: Arithmetic,
}

/// What has to be equal for a text to have the same vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// SHA-256 of the weights: of names, shapes and contents of a checkpoint's tensors, however they are divided into files; of the files
    /// where there are only graphs.
    pub weights: String,
    /// SHA-256 of the tokens that some texts have: of what the tokenizer does, not of its file.
    pub tokens: String,
    /// The pooling, such as `mean`.
    pub pooling: String,
    /// SHA-256 of the layers that follow it; empty where there is none.
    pub dense: String,
    /// Vectors have length 1.
    pub normalized: bool,
    /// What is put before a text.
    pub prompt: String,
    /// The prompt is pooled as well.
    pub include_prompt: bool,
    /// The width of a vector.
    pub dimensions: usize,
    /// The most tokens of a text.
    pub max_tokens: usize,
    /// Which end of a longer one is cut.
    pub truncate: Truncate,
    /// Texts are turned to lower case.
    pub lower_case: bool,
}

/// What computed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// The engine.
    pub backend: String,
    /// Its version.
    pub engine_version: String,
    /// The device.
    pub device: String,
    /// The dtype of the weights.
    pub dtype: String,
}

/// Texts on which tokenizers differ: case, blanks, scripts, emoji, code, special tokens spelled out, many tokens.
pub const PROBES: [&str; 14] = [
    "",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "THE QUICK BROWN FOX",
    "  outer blanks  ",
    "two\nlines\n\nand a tab\there",
    "naïve café, Straße, Ελλάδα, Привет",
    "今日は良い天気です。",
    "👩‍👩‍👧 🚀 ½ ﬁ",
    "fn main() { println!(\"{}\", 0x2A); }",
    "1234567890 3.14159 1e-7",
    "<s> </s> [CLS] [SEP] <|endoftext|> <|im_end|>",
    "don't won't it's we'll",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
];

impl Fingerprint {
    /// Of the vectors that `embedder`, of a model of `files`, makes under `options`.
    ///
    /// # Errors
    /// When weights cannot be read; as [`Embedder::tokenize`].
    pub fn of(embedder: &Embedder, files: &ModelFiles, options: &EmbedOptions) -> Result<Self> {
        let (info, config) = (embedder.info(), embedder.config());
        Ok(Self {
            space: Space {
                weights: weights(embedder, files)?,
                tokens: tokens(embedder)?,
                pooling: config.pooling_name(),
                dense: dense(&config.steps),
                normalized: config.makes_unit_vectors(options, info.hidden_size),
                prompt: config.prompts.text(&options.prompt)?.to_owned(),
                include_prompt: config.pooling.include_prompt,
                dimensions: embedder.dimensions(options)?,
                max_tokens: config.max_tokens,
                truncate: options.truncate,
                lower_case: config.lower_case,
            },
            arithmetic: Arithmetic {
                backend: info.backend.to_string(),
                engine_version: info.engine_version.clone(),
                device: info.device.to_string(),
                dtype: info.dtype.to_string(),
            },
        })
    }

    /// A name for the space: equal where all of it is.
    pub fn id(&self) -> String {
        let space = serde_json::to_string(&self.space).unwrap_or_default();
        format!("{VERSION}:{}", &hex(Sha256::new_with_prefix(space))[..32])
    }
}

fn weights(embedder: &Embedder, files: &ModelFiles) -> Result<String> {
    let mut hasher = Sha256::new();
    if files.gguf().is_none() && !files.weights.is_empty() {
        let checkpoint = Checkpoint::open(files)?;
        let mut names: Vec<&str> = checkpoint.names().collect();
        names.sort_unstable();
        for name in names {
            // What is not a weight, such as a table of positions, is not part of it.
            let Ok(tensor) = checkpoint.tensor(name) else { continue };
            hasher.update(format!("{name}\0{}\0{:?}\0", tensor.dtype, tensor.shape));
            hasher.update(tensor.bytes);
            checkpoint.release();
        }
        return Ok(hex(hasher));
    }
    for file in &embedder.info().weight_files {
        if let Some(path) = &file.path {
            hasher.update(ModelFile::Path(path.clone()).sha256(&mut |_| ())?);
        }
    }
    Ok(hex(hasher))
}

fn tokens(embedder: &Embedder) -> Result<String> {
    let options = EmbedOptions::new().with_prompt(super::Prompt::Text(String::new()));
    let mut hasher = Sha256::new();
    for probe in PROBES {
        // A text without tokens is a text without tokens.
        let ids = embedder.tokenize(probe, &options).map(|text| text.ids).unwrap_or_default();
        hasher.update(format!("{ids:?}"));
    }
    Ok(hex(hasher))
}

fn dense(steps: &[Step]) -> String {
    let mut hasher = Sha256::new();
    let mut any = false;
    for step in steps {
        if let Step::Dense(dense) = step {
            any = true;
            hasher.update(format!("{}\0{}\0{:?}\0", dense.inputs, dense.outputs, dense.activation));
            for values in [Some(&dense.weights), dense.bias.as_ref(), dense.residual.as_ref()].into_iter().flatten() {
                values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
            }
        }
    }
    if any { hex(hasher) } else { String::new() }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl super::EmbeddingConfig {
    /// Whether vectors under `options`, of a model of `hidden_size`, have length 1.
    pub fn makes_unit_vectors(&self, options: &EmbedOptions, hidden_size: usize) -> bool {
        let is_whole = options.dimensions.or(self.dimensions).is_none_or(|n| n >= self.width(hidden_size));
        match options.normalize {
            Normalize::Yes => true,
            Normalize::No => false,
            Normalize::Auto => self.is_normalized() && is_whole,
        }
    }
}
