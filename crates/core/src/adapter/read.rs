//! Reads an adapter from its files, whatever their format.

use sha2::{Digest, Sha256};

use super::files::{AdapterFiles, AdapterFormat, CONFIG};
use super::found::MAX_MODULES;
use super::{Adapter, AdapterOrigin, LowRankFactors, ReplacedTensor, gguf, mlx, onnx, peft};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;
use crate::files::MAX_JSON_BYTES;

/// The most that a file with factors may weigh, in bytes. It is read whole, and not mapped: adapters are replaced while they are in use.
const MAX_WEIGHT_BYTES: u64 = 8 << 30;

/// The most tensors of a file: two factors and magnitudes for each module.
const MAX_TENSORS: usize = 3 * MAX_MODULES;

/// What a reader finds.
#[derive(Default)]
pub(super) struct Content {
    pub(super) factors: Vec<LowRankFactors>,
    pub(super) replaced: Vec<ReplacedTensor>,
    pub(super) base_model: Option<String>,
}

impl AdapterFiles {
    /// Reads the adapter. `base` is the model that it is for: formats that store rows or modules in another order or packed need its
    /// shape, the others do not.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] with the file and the field or tensor that cannot be, [`Error::Unsupported`] for what
    /// an adapter has beyond factors, magnitudes and whole tensors.
    pub fn read(&self, base: Option<&ModelConfig>) -> Result<Adapter> {
        let config = match &self.config {
            Some(config) => config.read(MAX_JSON_BYTES)?,
            None => Default::default(),
        };
        let weights = self.weights.read(MAX_WEIGHT_BYTES)?.into_owned();
        self.parse(weights.into(), &config, base)
    }

    /// As [`read`](Self::read), with the content of its files: `config` is empty where there is none.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(&self, weights: FileBytes, config: &[u8], base: Option<&ModelConfig>) -> Result<Adapter> {
        let (file, config_file) = (self.weights.name(), self.config.as_ref().map_or(CONFIG.into(), |file| file.name()));
        let sha256 = format!("{:x}", Sha256::digest(&weights));
        let content = match self.format {
            AdapterFormat::Peft => peft::read(&safetensors(weights, &file)?, &file, config, &config_file),
            AdapterFormat::Mlx => mlx::read(&safetensors(weights, &file)?, &file, config, &config_file),
            AdapterFormat::OnnxAdapter => onnx::read(&weights, &file, base),
            AdapterFormat::Gguf => gguf::read(weights, &file, base),
        }?;
        if content.factors.is_empty() && content.replaced.is_empty() {
            return Err(Error::BadFile { file: file.into_owned(), problem: "has no factors".into(), hint: None, source: None });
        }
        let origin = AdapterOrigin { format: Some(self.format.name()), base_model: content.base_model, sha256: Some(sha256) };
        Ok(Adapter::new(self.name.clone(), content.factors)?.with_replaced(content.replaced)?.with_origin(origin))
    }
}

/// The tensors of a file with factors.
fn safetensors(weights: FileBytes, file: &str) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::parse(weights, file)?;
    match checkpoint.names().count() {
        n if n > MAX_TENSORS => Err(Error::BadFile {
            file: file.into(),
            problem: format!("has {n} tensors, more than the {MAX_TENSORS} that an adapter may have"),
            hint: None,
            source: None,
        }),
        _ => Ok(checkpoint),
    }
}
