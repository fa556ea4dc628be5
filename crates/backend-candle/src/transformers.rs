//! Models of candle-transformers, for the families without a decoder of our own: Gemma 2, Gemma 3 and Phi-3.
//!
//! They compute the logits of the last token in f32, and can only be rewound to nothing. Where they deviate from the published model,
//! `family_config` compensates with a changed weight or a shorter context, or refuses the configuration.

mod family;
mod family_config;
mod session;
mod weights;

use std::sync::Arc;

use rayon::ThreadPool;
use tandem_core::backend::{Capabilities, HiddenStates, LoraAdapter, TokenBatch};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::{DType, Error, Model, ModelInfo, Result, Session, SessionOptions};

use self::family::Family;
use self::session::TransformersSession;

/// What a model of candle-transformers can do.
pub(crate) const CAPABILITIES: Capabilities =
    Capabilities { all_logits: false, rewind: false, hidden_states: false, adapters: false, probe: false };

/// A model of candle-transformers.
pub(crate) struct TransformersModel {
    loaded: Arc<TransformersShared>,
}

/// What the sessions of a model share.
struct TransformersShared {
    /// With an empty cache; sessions are copies that share its weights.
    family: Family,
    threads: Arc<ThreadPool>,
    info: ModelInfo,
}

impl TransformersModel {
    /// Reads all weights of the model that `config` describes; the context of `info` is reduced to what the model supports.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where candle-transformers deviates from the published model, [`Error::BadField`] naming a weight that is
    /// missing or of another shape than the configuration says.
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
        Ok(Self { loaded: Arc::new(TransformersShared { family, threads, info }) })
    }
}

impl Model for TransformersModel {
    fn info(&self) -> &ModelInfo {
        &self.loaded.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(TransformersSession::new(Arc::clone(&self.loaded), options)?))
    }

    fn encode(&self, _batch: &TokenBatch) -> Result<HiddenStates> {
        Err(self.loaded.info.unsupported("encoding", "candle-transformers does not expose the hidden states of this family"))
    }

    fn with_adapter(&self, _adapter: &LoraAdapter) -> Result<Arc<dyn Model>> {
        Err(self.loaded.info.unsupported("an adapter", "candle-transformers does not apply adapters"))
    }
}

/// candle-transformers computes rotary tables in the dtype of the weights; in 16 bits they are off by whole turns after a few hundred
/// tokens.
fn refuse_dtype(dtype: DType, config: &ModelConfig) -> Result<()> {
    match dtype {
        DType::F32 => Ok(()),
        other => Err(Error::Unsupported {
            what: format!("dtype `{other}` for the architecture `{}`", config.architecture),
            reason: "candle-transformers, which runs this architecture, is accurate in f32 only".into(),
            hint: Some("use `--dtype f32`".into()),
        }),
    }
}
