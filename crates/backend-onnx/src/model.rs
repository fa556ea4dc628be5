//! A loaded graph.

use std::sync::{Arc, PoisonError};

use tandem_core::backend::{Probe, ProbePoint, Prober};
use tandem_core::{Model, ModelInfo, Result, Session, SessionOptions, TokenId};

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

    fn prober(&self) -> Option<&dyn Prober> {
        self.loaded.can_probe.then_some(self)
    }
}

impl Prober for OnnxModel {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let mut probed = self.loaded.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let probed = match &mut *probed {
            Some(probed) => probed,
            none => none.insert(Probed::load(self.loaded.library.as_deref(), &self.loaded.origin)?),
        };
        probed.probe(tokens, points)
    }
}
