//! A loaded graph.

use std::sync::{Arc, Mutex, PoisonError};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session as Engine;
use tandem_core::backend::{HiddenStates, LoraAdapter, Probe, ProbePoint, TokenBatch};
use tandem_core::{Device, LogitsRequest, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

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
            none => none.insert(self.loaded.backend.load_probed(&self.loaded.origin)?),
        };
        probed.probe(tokens, points)
    }
}
