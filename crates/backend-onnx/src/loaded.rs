//! What the sessions of a model share: the engine's session and what is known of its graph.

use std::sync::{Arc, Mutex};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use tandem_core::adapter::AdaptedModule;
use tandem_core::{Device, ModelInfo, Result};
use tandem_onnx_graph::{AdapterInputs, CustomProduct};

use crate::adapters::Constants;
use crate::engine::Engine;
use crate::error::Doing;
use crate::graph::{AdapterPort, DecoderGraph};
use crate::graph_cache::CachedGraph;
use crate::origin::Origin;
use crate::probe::Probing;
use crate::run::Names;
use crate::source::Source;

/// A graph that the engine has loaded.
pub(crate) struct Loaded {
    pub(crate) session: Engine,
    pub(crate) graph: DecoderGraph,
    pub(crate) output_names: Names,
    /// The engine appends to one buffer for each cache.
    pub(crate) in_place: bool,
    /// How a run is given tokens of several sequences.
    pub(crate) shared_run: SharedRun,
    /// Tandem's operators do, and read the blocks of a cache.
    pub(crate) cache_in_blocks: bool,
    pub(crate) info: ModelInfo,
    /// Keeps the graph in the cache for as long as the engine reads it.
    pub(crate) _cached: Option<CachedGraph>,
    /// Held during a run where the provider does not promise that several may run at once.
    pub(crate) one_run_at_a_time: Option<Mutex<()>>,
    /// What it was loaded from.
    pub(crate) origin: Arc<Origin>,
    /// The inputs for adapters that the load added.
    pub(crate) added: Vec<AdapterInputs>,
    /// The products whose inputs for adapters the graph had.
    own: Vec<String>,
    /// Those that Tandem's operators compute, adapters included.
    pub(crate) custom_products: Vec<CustomProduct>,
    /// Shows its inner values, where they have known names.
    pub(crate) probing: Option<Probing>,
}

/// How a run is given tokens of several sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedRun {
    /// It takes those of one.
    Never,
    /// Any tokens of each, one after the other as one row: all attention is Tandem's own.
    Packed,
    /// A token of each, in a row of its own: all kernels are the engine's.
    Stacked,
}

impl SharedRun {
    /// How the graph of `source` is run, which declares `graph`.
    fn of(source: &Source, graph: &DecoderGraph, device: Device) -> Self {
        if source.cache_in_blocks {
            return if source.can_pack { Self::Packed } else { Self::Never };
        }
        // On CUDA the host cannot gather the caches of several sequences in consecutive memory.
        let is_host = !matches!(device, Device::Cuda(_));
        if source.can_stack && is_host && graph.takes_rows() { Self::Stacked } else { Self::Never }
    }
}

impl Loaded {
    /// The graph of `source` in `session`, whose declaration is `graph`.
    pub(crate) fn new(origin: Arc<Origin>, source: Source, session: Engine, graph: DecoderGraph, info: ModelInfo) -> Self {
        Self {
            session,
            output_names: Names::new(graph.output_names.clone()),
            shared_run: SharedRun::of(&source, &graph, info.device),
            graph,
            in_place: source.in_place,
            cache_in_blocks: source.cache_in_blocks,
            info,
            probing: Probing::new(&origin, &source),
            _cached: source.cached,
            one_run_at_a_time: (origin.options.device != Device::Cpu).then(|| Mutex::new(())),
            origin,
            added: source.added,
            own: source.own,
            custom_products: source.custom_products,
        }
    }

    /// What runs pass without an adapter.
    pub(crate) fn plain(&self) -> Result<Constants> {
        Constants::plain(&self.graph)
    }

    /// Whether adapters may be given to `port`.
    pub(crate) fn is_usable(&self, port: &AdapterPort) -> bool {
        // A product that was given inputs did not have those that are needed.
        match self.added.iter().any(|inputs| inputs.product == port.product) {
            true => port.names[0].to_bytes() == format!("{}.lora_A.weight", port.product).as_bytes(),
            false => self.own.contains(&port.product),
        }
    }

    /// Whether adapters of `modules` can be given.
    pub(crate) fn takes(&self, modules: &[AdaptedModule]) -> bool {
        modules.iter().all(|module| {
            let is_here = |product: &CustomProduct| product.modules.iter().any(|(name, _)| *name == module.module);
            if self.custom_products.iter().any(is_here) {
                return true;
            }
            let mut ports = self.graph.adapters.iter().filter(|port| self.is_usable(port));
            ports.any(|port| {
                port.modules.iter().any(|(name, _)| *name == module.module) && (!module.has_magnitude || port.gain.is_some())
            })
        })
    }

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
