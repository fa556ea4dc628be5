//! A loaded graph.

use std::sync::{Arc, PoisonError};

use tandem_core::backend::{HiddenStates, LoraAdapter, Probe, ProbePoint, TokenBatch};
use tandem_core::{LogitsRequest, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

use crate::loaded::Loaded;
use crate::probe::Probed;
use crate::session::OnnxSession;

/// A model on ONNX Runtime.
pub(crate) struct OnnxModel {
    pub(crate) loaded: Arc<Loaded>,
}

impl Model for OnnxModel {
    fn info(&self) -> &ModelInfo {
        &self.loaded.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(OnnxSession::new(Arc::clone(&self.loaded), options)?))
    }

    fn encode(&self, _batch: &TokenBatch) -> Result<HiddenStates> {
        Err(self.loaded.info.unsupported("encoding to hidden states", "a decoder graph returns logits only"))
    }

    fn with_adapter(&self, _adapter: &LoraAdapter) -> Result<Arc<dyn Model>> {
        Err(self.loaded.info.unsupported("an adapter", "the graph has no inputs for one"))
    }

    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let info = &self.loaded.info;
        if !info.capabilities.probe {
            let reason = "its graph names them otherwise than Tandem, onnxruntime-genai's builder and optimum do";
            return Err(info.unsupported("a look at inner values", reason));
        }
        info.check_append(0, info.max_context, tokens, LogitsRequest::None)?;
        let mut probed = self.loaded.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let probed = match &mut *probed {
            Some(probed) => probed,
            none => none.insert(Probed::load(self.loaded.library.as_deref(), &self.loaded.origin)?),
        };
        probed.probe(tokens, points)
    }
}
