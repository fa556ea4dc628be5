//! candle-transformers' own models of the families that we have written ourselves: what a user of candle would pick instead, to measure
//! against. f32 on the processor, the logits of the last token.

use std::sync::Arc;

use tandem_core::backend::{LoadOptions, checked};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Error, Model, Result};

use crate::backend::{CANDLE_VERSION, info};
use crate::device;
use crate::foreign::{self, ForeignModel};

/// Loads the checkpoint of `files` into candle-transformers' model, in f32.
///
/// # Errors
/// [`Error::Unsupported`] for a family, device or dtype that this peer is not measured with, and as a checkpoint's.
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
    let threads = device::threads(options.threads)?;
    let checkpoint = Checkpoint::open(files)?;
    let mut info = info(files, &config, options, DType::F32, threads.current_num_threads())?;
    info.engine_version = format!("candle-transformers {CANDLE_VERSION}");
    info.capabilities = foreign::CAPABILITIES;
    Ok(checked(Arc::new(ForeignModel::load(&checkpoint, &config, &candle_core::Device::Cpu, threads, info)?)))
}

fn refused(reason: &str) -> Error {
    Error::Unsupported { what: "peer `candle-transformers`".into(), reason: reason.into(), hint: None }
}
