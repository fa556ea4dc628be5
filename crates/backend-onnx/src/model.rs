//! A loaded graph.

use std::sync::Arc;

use tandem_core::backend::Prober;
use tandem_core::{Model, ModelInfo, Result, Session, SessionOptions};

use crate::loaded::Loaded;
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
        self.loaded.probing.as_ref().map(|probing| probing as &dyn Prober)
    }
}
