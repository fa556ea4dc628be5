//! Models of candle-transformers, which a user of candle would pick instead of our decoder: the peer that benchmarks measure.
//!
//! They compute the logits of the last token, in f32 on the processor, and can only be rewound to nothing.

mod family;
mod session;
mod weights;

use std::sync::Arc;

use tandem_core::backend::{Capabilities, Capability, LoadOptions, checked};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::Architecture;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Error, Model, ModelInfo, Result, Session, SessionOptions};
use tandem_kernels::Threads;

use self::family::Family;
use self::session::TransformersSession;
use crate::backend::{self, CANDLE_VERSION};
use crate::device;

/// Loads the checkpoint of `files` into candle-transformers' model, in f32.
///
/// # Errors
/// [`Error::Unsupported`] for a family, device or dtype that this peer is not measured with, [`Error::BadField`] naming a weight that is
/// missing or of another shape than the configuration says.
pub fn load_transformers(files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
    let config = files.model_config()?;
    if options.device != tandem_core::Device::Cpu {
        return Err(refused("runs on the processor only"));
    }
    if options.dtype.is_some_and(|dtype| dtype != DType::F32) {
        return Err(refused("runs in f32 only"));
    }
    if !matches!(config.architecture, Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Llama) {
        return Err(refused(&format!("is not measured with models of the family `{}`", config.architecture)));
    }
    device::open(options.device)?;
    let threads = device::threads(options.threads)?;
    let checkpoint = Checkpoint::open(files)?;
    let mut info = backend::info(files, &config, options, DType::F32, threads.n())?;
    info.engine_version = format!("candle-transformers {CANDLE_VERSION}");
    info.capabilities = Capabilities::of(&[Capability::Generation]);
    let family = threads.install(|| Family::load(&checkpoint, &config, &info.name))?;
    Ok(checked(Arc::new(TransformersModel { shared: Arc::new(TransformersShared { family, threads, info }) })))
}

fn refused(reason: &str) -> Error {
    Error::Unsupported { what: "peer `candle-transformers`".into(), reason: reason.into(), hint: None }
}

/// A model of candle-transformers.
struct TransformersModel {
    shared: Arc<TransformersShared>,
}

/// What the sessions of a model share.
struct TransformersShared {
    /// With an empty cache; sessions are copies that share its weights.
    family: Family,
    threads: Arc<Threads>,
    info: ModelInfo,
}

impl Model for TransformersModel {
    fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(TransformersSession::new(Arc::clone(&self.shared), options)?))
    }
}
