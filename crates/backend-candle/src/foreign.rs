//! Decoders of candle-transformers, for families that have no decoder of our own: Gemma 2, Gemma 3 and Phi-3.
//!
//! They compute in f32 the logits of the last token, and can forget only everything. Where they differ from the published model,
//! `form` changes a weight or bounds the context so that they do not, or refuses the configuration.

mod family;
mod form;
mod session;
mod weights;

use std::sync::Arc;

use rayon::ThreadPool;
use tandem_core::backend::{Capabilities, Capability};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::{DType, Error, Model, ModelInfo, Remedy, Result, Session, SessionOptions};

use self::family::Family;
use self::session::ForeignSession;

/// What a model of candle-transformers can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::of(&[Capability::Generation]);

/// A model of candle-transformers.
pub(crate) struct ForeignModel {
    loaded: Arc<ForeignLoaded>,
}

/// What the sessions of a model share.
struct ForeignLoaded {
    /// One that has seen nothing; sessions are copies of it, which share its weights.
    family: Family,
    threads: Arc<ThreadPool>,
    info: ModelInfo,
}

impl ForeignModel {
    /// Reads all weights of a decoder of the form `config`. `info` is as for any model, and its context becomes what this one can hold.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what candle-transformers computes otherwise than the published model, [`Error::BadField`] names a
    /// weight that is missing or of another shape than the configuration says.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        device: &candle_core::Device,
        threads: Arc<ThreadPool>,
        mut info: ModelInfo,
    ) -> Result<Self> {
        refuse_dtype(info.dtype, config)?;
        let family = threads.install(|| Family::load(checkpoint, config, &info.name, device))?;
        info.max_context = family.max_context();
        Ok(Self { loaded: Arc::new(ForeignLoaded { family, threads, info }) })
    }
}

impl Model for ForeignModel {
    fn info(&self) -> &ModelInfo {
        &self.loaded.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(ForeignSession::new(Arc::clone(&self.loaded), options)?))
    }
}

/// Its rotary tables have the dtype of the weights, and in half precision they are off by whole turns at a few hundred tokens.
fn refuse_dtype(dtype: DType, config: &ModelConfig) -> Result<()> {
    match dtype {
        DType::F32 => Ok(()),
        other => Err(Error::Unsupported {
            what: format!("dtype `{other}` for the architecture `{}`", config.architecture),
            reason: "candle-transformers, which runs it, is right in f32 alone".into(),
            hint: Some(Remedy::UseDType(vec![DType::F32]).into()),
        }),
    }
}
