//! What the sessions of a model share: the engine's session and what is known of its graph.

use std::sync::Mutex;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use tandem_core::{Device, ModelInfo, Result};

use crate::error::Doing;
use crate::graph::DecoderGraph;
use crate::graph_cache::CachedGraph;
use crate::probe::Probing;
use crate::run::Names;

/// A graph that the engine has loaded.
pub(crate) struct Loaded {
    pub(crate) session: Session,
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
    /// Shows its inner values, where they have known names.
    pub(crate) probing: Option<Probing>,
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
                Allocator::new(&self.session, memory).doing(DOING)
            }
            _ => Ok(Allocator::default()),
        }
    }
}
