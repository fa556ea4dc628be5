//! What computed a sequence: whether keys and values are another model's.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backend::{DType, ModelInfo};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::{FileBytes, ModelFile, ModelFiles};

/// Bytes of a stretch of a file or tensor that is hashed.
const STRETCH: usize = 4 << 10;

/// Stretches of a tensor.
const OF_TENSOR: usize = 3;

/// Stretches of a file whose tensors are not known.
const OF_FILE: usize = 1024;

/// The model that computed keys and values.
///
/// Of the weights parts are hashed, since all of them take longer to read than a conversation to compute: of each tensor its name, type and shape, and
/// three stretches of 4 KiB; of a graph's file or a GGUF file its size and 1,024 stretches. Weights that were trained further differ there. The
/// configuration, the tokenizer and adapters are hashed whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequenceOrigin {
    weights: String,
    config: String,
    tokenizer: String,
    /// SHA-256 and scale of each.
    adapters: Vec<(String, f32)>,
    /// Engine, device, dtypes and kernels.
    engine: String,
    dtype: DType,
    kv_dtype: DType,
}

impl SequenceOrigin {
    /// Of the model of `files` that `info` describes.
    ///
    /// # Errors
    /// [`Error::BadFile`] when a file cannot be read, [`Error::Unsupported`] for an adapter that was made in memory.
    pub fn of(files: &ModelFiles, info: &ModelInfo) -> Result<Self> {
        let adapters = info.adapters.iter().map(|adapter| {
            let unnamed = || Error::Unsupported {
                what: format!("a saved sequence with the adapter `{}`", adapter.name),
                reason: "it was made in memory, and nothing tells it from another".into(),
                hint: Some("write it to a file and load it from there".into()),
            };
            Ok((adapter.sha256.clone().ok_or_else(unnamed)?, adapter.scale))
        });
        let mut engine =
            format!("{} {} on {}, {} in {}", info.backend, info.engine_version, info.device, info.dtype, info.memory_dtype);
        if let Some(kv_dtype) = info.kv_dtype {
            engine += &format!(", keys and values in {kv_dtype}");
        }
        for (operator, n) in info.placement.iter().flat_map(|placement| &placement.operators) {
            if operator.contains('.') {
                engine += &format!(", {n} {operator}");
            }
        }
        Ok(Self {
            weights: weights(files, info)?,
            config: files.config.sha256(&mut |_| ())?,
            tokenizer: files.tokenizer.as_ref().map_or(Ok(String::new()), |file| file.sha256(&mut |_| ()))?,
            adapters: adapters.collect::<Result<_>>()?,
            engine,
            dtype: info.dtype,
            kv_dtype: info.kv_dtype.unwrap_or(DType::F32),
        })
    }

    /// By how much keys and values of two engines may differ, in parts of the largest value of their layer.
    ///
    /// The most that was measured between the engines and their kernels, on the demo and the goldens: 3e-6 for floats, 2.4e-2 for weights of the same
    /// quantised dtype, whose products round their inputs. An f16 has 11 bits.
    pub(super) fn limit(&self, own: &Self) -> f64 {
        let both = [self, own];
        if both.iter().any(|origin| matches!(origin.dtype, DType::Int8 | DType::Int4)) {
            5e-2
        } else if both.iter().any(|origin| [origin.dtype, origin.kv_dtype] != [DType::F32; 2]) {
            5e-3
        } else {
            1e-4
        }
    }

    /// The engine, with its device, dtypes and kernels.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// Whether `own` is the same engine too; `file` is the one that has `self`.
    ///
    /// # Errors
    /// [`Error::BadField`] for another model, and for other adapters.
    pub(super) fn compare(&self, own: &Self, file: &str) -> Result<bool> {
        let parts = [
            ("weights", self.weights == own.weights, "the weights"),
            ("config", self.config == own.config, "the configuration"),
            ("tokenizer", self.tokenizer == own.tokenizer, "the tokenizer"),
            ("adapters", self.adapters == own.adapters, "the adapters"),
        ];
        match parts.iter().find(|(_, is_same, _)| !is_same) {
            None => Ok(self.engine == own.engine),
            Some((field, _, what)) => {
                let problem = format!("was computed with others: {what} of this model differ");
                Err(Error::bad_field(file, *field, problem).with_hint("load the model and the adapters that it was saved with"))
            }
        }
    }
}

fn weights(files: &ModelFiles, info: &ModelInfo) -> Result<String> {
    let mut hasher = Sha256::new();
    if files.weights.is_empty() {
        for file in &info.weight_files {
            if let Some(path) = &file.path {
                sample(&ModelFile::Path(path.clone()).map()?, OF_FILE, &mut hasher);
            }
        }
    } else if files.gguf().is_some() {
        for path in files.weights.iter().filter_map(ModelFile::path) {
            sample(&FileBytes::map(path)?, OF_FILE, &mut hasher);
        }
    } else {
        let checkpoint = Checkpoint::open(files)?;
        let mut names: Vec<&str> = checkpoint.names().collect();
        names.sort_unstable();
        for name in names {
            // What is not a weight, such as a table of positions, is not part of it.
            let Ok(tensor) = checkpoint.tensor(name) else { continue };
            hasher.update(format!("{name}\0{}\0{:?}\0", tensor.dtype, tensor.shape));
            sample(tensor.bytes, OF_TENSOR, &mut hasher);
        }
    }
    Ok(format!("{:x}", hasher.finalize()))
}

/// Hashes the length of `bytes` and up to `n` stretches of them, the first and the last among these.
fn sample(bytes: &[u8], n: usize, hasher: &mut Sha256) {
    hasher.update(bytes.len().to_le_bytes());
    if bytes.len() <= n * STRETCH {
        return hasher.update(bytes);
    }
    let last = bytes.len() - STRETCH;
    for i in 0..n {
        let start = last / (n - 1) * i;
        hasher.update(&bytes[start..start + STRETCH]);
    }
    hasher.update(&bytes[last..]);
}
