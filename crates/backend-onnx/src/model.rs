//! A loaded graph.

use std::sync::{Arc, Mutex, PoisonError};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session as Engine;
use tandem_core::backend::{Probe, ProbePoint, Prober};
use tandem_core::{Device, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

use crate::backend::OnnxBackend;
use crate::error::Doing;
use crate::export::CachedGraph;
use crate::graph::DecoderGraph;
use crate::inner::{Origin, Probed};
use crate::run::Names;
use crate::session::OnnxSession;

/// A model on ONNX Runtime.
pub(crate) struct OnnxModel {
    pub(crate) loaded: Arc<Loaded>,
}

/// What the sessions of a model share.
pub(crate) struct Loaded {
    pub(crate) session: Engine,
    pub(crate) graph: DecoderGraph,
    pub(crate) input_names: Names,
    pub(crate) output_names: Names,
    /// The engine appends to one buffer for each cache.
    pub(crate) in_place: bool,
    pub(crate) info: ModelInfo,
    /// Its inner values can be made outputs.
    pub(crate) can_probe: bool,
    /// Keeps the graph in the cache for as long as the engine reads it.
    pub(crate) _cached: Option<CachedGraph>,
    /// Held during a run where the provider does not promise that several may run at once.
    pub(crate) one_run_at_a_time: Option<Mutex<()>>,
    /// What it was loaded from.
    pub(crate) origin: Origin,
    /// The same graph with inner values as outputs, once it was asked for them.
    pub(crate) probed: Mutex<Option<Probed>>,
    /// Makes the engine's session of a graph as this one was made.
    pub(crate) backend: OnnxBackend,
}

impl Loaded {
    /// Whether the host can read and write the KV cache.
    pub(crate) fn cache_on_host(&self) -> bool {
        !matches!(self.info.device, Device::Cuda(_))
    }

    /// Where the KV cache is allocated.
    pub(crate) fn cache_allocator(&self) -> Result<Allocator> {
        const DOING: &str = "to reach the device's memory";
        match self.info.device {
            Device::Cuda(index) => {
                let index = i32::try_from(index).unwrap_or(i32::MAX);
                let memory =
                    MemoryInfo::new(AllocationDevice::CUDA, index, AllocatorType::Device, MemoryType::Default).doing(DOING)?;
                Ok(Allocator::new(&self.session, memory).doing(DOING)?)
            }
            _ => Ok(Allocator::default()),
        }
    }
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
            none => none.insert(self.loaded.backend.load_probed(&self.loaded.origin)?),
        };
        probed.probe(tokens, points)
    }
}
