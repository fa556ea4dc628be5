//! The peer of benchmarks: candle-transformers' models of the families that our decoder runs, which a user of candle would pick instead.
//! They compute the logits of the last token, in f32 on the processor.

use std::sync::Arc;

use tandem_core::backend::LoadOptions;
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::files::ModelFiles;
use tandem_core::{BackendKind, DType, Error, Model, ModelInfo, Result};

use crate::backend::{CANDLE_VERSION, weight_file};
use crate::device;
use crate::transformers::{self, TransformersModel};

/// Loads the checkpoint of `files` into candle-transformers' model, in f32.
///
/// # Errors
/// [`Error::Unsupported`] for a family, device or dtype that this peer is not measured with, and those of reading a checkpoint.
pub fn load_transformers(files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
    let config = ModelConfig::from_file(&files.config)?;
    if options.device != tandem_core::Device::Cpu {
        return Err(refused("runs on the processor only"));
    }
    if options.dtype.is_some_and(|dtype| dtype != DType::F32) {
        return Err(refused("runs in f32 only"));
    }
    if !matches!(config.architecture, Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Llama) {
        return Err(refused(&format!("is not measured with models of the family `{}`", config.architecture)));
    }
    let threads = device::threads(&options.threads)?;
    let checkpoint = Checkpoint::open(files)?;
    let info = ModelInfo {
        name: files.name.clone(),
        backend: BackendKind::Candle,
        engine_version: format!("candle-transformers {CANDLE_VERSION}"),
        device: options.device,
        dtype: DType::F32,
        memory_dtype: DType::F32,
        architecture: config.architecture.to_string(),
        n_layers: config.n_layers,
        hidden_size: config.hidden_size,
        vocab_size: config.vocab_size,
        max_context: config.max_context,
        threads: threads.current_num_threads(),
        kv_bytes_per_token: config.kv_bytes_per_token(size_of::<f32>()),
        capabilities: transformers::CAPABILITIES,
        weight_types: Vec::new(),
        weight_files: files.weights.iter().map(weight_file).collect::<Result<_>>()?,
        placement: Vec::new(),
        device_share: 1.0,
    };
    Ok(Arc::new(TransformersModel::load(&checkpoint, &config, &candle_core::Device::Cpu, threads, info)?))
}

fn refused(reason: &str) -> Error {
    Error::Unsupported { what: "peer `candle-transformers`".into(), reason: reason.into(), hint: None }
}
