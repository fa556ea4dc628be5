//! Shows the values between the nodes of a graph: the graph is loaded once more, with those values as outputs.
//!
//! Which value holds what is known by its name ([`value_names`](crate::value_names)). The attention operator rotates queries inside, so
//! rotated queries are not shown; rotated keys are read from the cache.

use std::ffi::CString;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use ort::AsPointer;
use ort::session::RunOptions;
use ort::value::{DynValue, TensorElementType};
use tandem_core::backend::{Probe, ProbePoint};
use tandem_core::{DType, Device, Error, Result, TokenId};
use tandem_onnx_graph::{AdapterInputs, DataType};

use crate::cache::empty_past;
use crate::engine::Engine;
use crate::error::{Doing, bad_graph};
use crate::graph::{DecoderGraph, EncoderGraph, LoadedGraph, tensor_type};
use crate::origin::Origin;
use crate::run::{Names, RawValue, run, take};
use crate::source::Source;
use crate::value_names::{Layout, known_values};

/// What shows the inner values of a graph: the graph with them as outputs, once they have been requested.
pub(crate) struct Probing {
    origin: Arc<Origin>,
    /// The inputs for adapters that the load added.
    added: Vec<AdapterInputs>,
    probed: Mutex<Option<Probed>>,
}

/// Names of the inputs of a run, and the values of those behind the graph's own: the factors of adapters.
type Given<'a> = (&'a Names, &'a [DynValue]);

/// A graph whose inner values are outputs.
struct Probed {
    session: Engine,
    graph: LoadedGraph,
    values: Vec<Value>,
}

/// A value of the graph, and what it holds.
struct Value {
    name: CString,
    layout: Layout,
}

impl Probing {
    /// That of the graph which was loaded from `source`, if its values have known names and are the processor's.
    pub(crate) fn new(origin: &Arc<Origin>, source: &Source) -> Option<Self> {
        let can_probe = source.can_probe && origin.options.device == Device::Cpu;
        can_probe.then(|| Self { origin: Arc::clone(origin), added: source.added.clone(), probed: Mutex::new(None) })
    }

    /// What one run over `tokens` with the `given` inputs computes at `points`, in the order of computation. The first call loads the graph
    /// again.
    ///
    /// # Errors
    /// As loading it the first time; [`Error::BadField`] for a value of another shape than its name promises.
    pub(crate) fn probe(&self, tokens: &[TokenId], points: &[ProbePoint], given: Given<'_>) -> Result<Vec<Probe>> {
        let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let probed = match &mut *probed {
            Some(probed) => probed,
            none => none.insert(Probed::load(&self.origin, &self.added)?),
        };
        probed.probe(tokens, points, given)
    }
}

impl Probed {
    /// Loads the graph of `origin` again, with inputs for adapters of the `added` products.
    fn load(origin: &Origin, added: &[AdapterInputs]) -> Result<Self> {
        let config = &origin.config;
        let mut source = origin.source(added)?;
        let of_weights = if source.dtype == DType::F16 { DataType::FLOAT16 } else { DataType::FLOAT };
        let (mut values, name) = (Vec::new(), source.name.clone());
        source.edit(|graph, edit| {
            // Graphs with 4-bit weights have activations of 16 or 32 bits: activations have the type of the cache, where there is one.
            let mut pasts = graph.inputs().filter(|input| input.name.starts_with("past"));
            let float = pasts.find_map(|past| past.data_type).unwrap_or(of_weights);
            for (value, layout) in known_values(graph, config) {
                edit.add_output(&value, float).map_err(bad_graph)?;
                let name = CString::new(value).map_err(|error| Error::bad_file(&name, "a name contains a zero byte", error))?;
                values.push(Value { name, layout });
            }
            Ok(true)
        })?;
        let session = origin.commit(&mut source)?;
        let graph = LoadedGraph::read(&session, &source.name, config, origin.options.purpose)?;
        Ok(Self { session, graph, values })
    }

    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint], given: Given<'_>) -> Result<Vec<Probe>> {
        let requested: Vec<&Value> = self.values.iter().filter(|value| value.layout.shows(points)).collect();
        if requested.is_empty() {
            return Ok(Vec::new());
        }
        let returned = self.run(tokens, &requested, given)?;
        let mut probes = Vec::new();
        for (value, returned) in requested.iter().zip(&returned) {
            let name = value.name.to_string_lossy();
            let (_, shape) = tensor_type(self.graph.file(), &name, returned.dtype())?;
            if !value.layout.fits(shape, tokens.len()) {
                let problem = format!("a run over {} tokens returned the unexpected shape {shape:?}", tokens.len());
                return Err(Error::bad_field(self.graph.file(), name, problem));
            }
            value.layout.read(tokens, shape, &floats(returned)?, &mut probes);
        }
        probes.retain(|probe| points.contains(&probe.point));
        Ok(probes)
    }

    fn run(&self, tokens: &[TokenId], requested: &[&Value], (names, constants): Given<'_>) -> Result<Vec<DynValue>> {
        let n = tokens.len();
        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); self.graph.input_names().len()];
        let mut owned = Vec::new();
        let mut give = |index: usize, value: DynValue| {
            inputs[index] = value.ptr().cast_mut();
            owned.push(value);
        };
        let (ids, mask, positions, first, caches) = match &self.graph {
            LoadedGraph::Decoder(graph) => (graph.ids, graph.mask, graph.positions, 0, &graph.caches),
            LoadedGraph::Encoder(graph) => (graph.ids, graph.mask, graph.positions, graph.first_position, &graph.caches),
        };
        give(ids.index, ids.integers(n, tokens.iter().map(|&id| i64::from(id)))?);
        if let Some(port) = mask {
            give(port.index, port.integers(n, std::iter::repeat_n(1, n))?);
        }
        if let Some(port) = positions {
            give(port.index, port.integers(n, (first..first + n).map(|position| position as i64))?);
        }
        match &self.graph {
            LoadedGraph::Decoder(DecoderGraph { logits_to_keep: Some(port), .. }) => {
                give(port.index, port.integers(1, std::iter::once(0))?);
            }
            LoadedGraph::Encoder(EncoderGraph { token_types: Some(port), .. }) => {
                give(port.index, port.integers(n, std::iter::repeat_n(0, n))?);
            }
            _ => {}
        }
        for port in caches {
            give(port.input, empty_past(port, 1)?);
        }
        inputs.extend(constants.iter().map(|value| value.ptr().cast_mut()));
        let output_names = Names::new(requested.iter().map(|value| value.name.clone()).collect());
        let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); requested.len()];
        let options = RunOptions::new().doing("to prepare a run")?;
        // SAFETY: `owned` and `constants` keep the inputs alive until the run is over, every output is null, and the CPU provider allows concurrent
        // runs.
        #[expect(unsafe_code, reason = "`run` is the one way in which this crate runs a graph")]
        unsafe { run(&self.session, &options, None, (names, &inputs), (&output_names, &mut outputs)) }
            .doing("to run the graph")?;
        drop(owned);
        Ok(outputs.iter_mut().filter_map(|output| take(&self.session, output)).collect())
    }
}

fn floats(value: &DynValue) -> Result<Vec<f32>> {
    const DOING: &str = "to read a value";
    Ok(match value.dtype().tensor_type() {
        Some(TensorElementType::Float16) => {
            value.try_extract_tensor::<f16>().doing(DOING)?.1.iter().map(|value| value.to_f32()).collect()
        }
        _ => value.try_extract_tensor::<f32>().doing(DOING)?.1.to_vec(),
    })
}
