//! A loaded graph, and the same with adapters.

use std::sync::{Arc, Mutex, PoisonError};

use tandem_core::adapter::{AdaptedModule, AdapterSum, ScaledAdapter};
use tandem_core::backend::{Append, Capability, Kernels, Probe, ProbePoint, Prober};
use tandem_core::{Model, ModelInfo, Result, Session, SessionOptions, TokenId};
use tandem_onnx_graph::AdapterInputs;

use crate::adapters::Constants;
use crate::graph::DecoderGraph;
use crate::loaded::{Loaded, SharedRun};
use crate::operators::kernels_for;
use crate::session::{OnnxSession, append_batch};
use crate::source::needed_inputs;

/// A model on ONNX Runtime.
pub(crate) struct OnnxModel {
    base: Arc<Base>,
    /// The graph that it runs.
    loaded: Arc<Loaded>,
    /// What its runs pass besides tokens and cache: the factors of its adapters.
    constants: Arc<Constants>,
    info: ModelInfo,
}

/// What a model shares with those that adapters make of it.
struct Base {
    loaded: Arc<Loaded>,
    constants: Arc<Constants>,
    /// The graph with inputs for adapters that it did not have when it was loaded, once one was requested.
    adaptable: Mutex<Option<Arc<Loaded>>>,
}

impl OnnxModel {
    /// The model of a graph.
    pub(crate) fn new(loaded: Loaded) -> Result<Self> {
        let (constants, loaded) = (Arc::new(loaded.plain()?), Arc::new(loaded));
        let base = Base { loaded: Arc::clone(&loaded), constants: Arc::clone(&constants), adaptable: Mutex::new(None) };
        Ok(Self::of(Arc::new(base), loaded, constants))
    }

    fn of(base: Arc<Base>, loaded: Arc<Loaded>, constants: Arc<Constants>) -> Self {
        let mut info = loaded.info.clone();
        // A part is computed in a run that knows of sequences.
        let can_pack = loaded.shared_run == SharedRun::Packed && !constants.has_factors;
        info.capabilities = info.capabilities.with_if(can_pack, Capability::PromptParts);
        Self { base, loaded, constants, info }
    }
}

impl Base {
    /// The graph with inputs for adapters of `modules`, and of those that were requested before: the one that is loaded, or it is loaded once
    /// more.
    fn adaptable(&self, modules: &[AdaptedModule]) -> Result<Arc<Loaded>> {
        if self.loaded.takes(modules) {
            return Ok(Arc::clone(&self.loaded));
        }
        let mut adaptable = self.adaptable.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = adaptable.as_ref().unwrap_or(&self.loaded);
        if latest.takes(modules) {
            return Ok(Arc::clone(latest));
        }
        let origin = &latest.origin;
        let has_custom = kernels_for(&origin.options)? == Kernels::Tandem;
        let needed = needed_inputs(&origin.source(&[])?.graph()?.0, modules, has_custom);
        let added = union(&latest.added, needed);
        if added == latest.added {
            // Of the modules that it does not take the graph has no products, which the factors will tell.
            return Ok(Arc::clone(latest));
        }
        let mut source = origin.source(&added)?;
        let session = origin.commit(&mut source)?;
        let graph = DecoderGraph::read(&session, &source.name, &origin.config)?;
        let loaded = Arc::new(Loaded::new(Arc::clone(origin), source, session, graph, self.loaded.info.clone()));
        Ok(Arc::clone(adaptable.insert(loaded)))
    }
}

/// The inputs of both, each product once.
fn union(known: &[AdapterInputs], more: Vec<AdapterInputs>) -> Vec<AdapterInputs> {
    let mut all = known.to_vec();
    for inputs in more {
        match all.iter_mut().find(|known| known.product == inputs.product) {
            Some(known) => known.has_gain |= inputs.has_gain,
            None => all.push(inputs),
        }
    }
    all
}

impl Model for OnnxModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(OnnxSession::new(Arc::clone(&self.loaded), Arc::clone(&self.constants), options)?))
    }

    fn append_batch(&self, appends: &mut [Append<'_>]) -> Vec<Result<()>> {
        append_batch((&self.loaded, &self.constants), appends)
    }

    fn with_adapters(&self, adapters: &[ScaledAdapter]) -> Result<Arc<dyn Model>> {
        let base = Arc::clone(&self.base);
        let sum = AdapterSum::new(adapters)?;
        if sum.is_empty() {
            let (loaded, constants) = (Arc::clone(&base.loaded), Arc::clone(&base.constants));
            return Ok(Arc::new(Self::of(base, loaded, constants)));
        }
        let loaded = base.adaptable(&sum.modules())?;
        let usable = |port: &_| loaded.is_usable(port);
        let constants = Arc::new(Constants::adapted(&loaded.graph, &loaded.custom_products, &usable, sum, &loaded.origin)?);
        Ok(Arc::new(Self::of(base, loaded, constants)))
    }

    fn prober(&self) -> Option<&dyn Prober> {
        self.loaded.probing.as_ref().map(|_| self as &dyn Prober)
    }
}

impl Prober for OnnxModel {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let Some(probing) = &self.loaded.probing else { return Ok(Vec::new()) };
        probing.probe(tokens, points, (&self.constants.names, &self.constants.values))
    }
}
