//! Shows the values between the nodes of a graph: the graph is loaded once more, with those values as outputs.
//!
//! Which value holds what is known by its name ([`value_names`](crate::value_names)). The attention operator rotates queries inside, so
//! rotated queries are not shown; rotated keys are read from the cache.

use std::ffi::CString;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use half::f16;
use ort::AsPointer;
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, TensorElementType};
use tandem_core::backend::{LoadOptions, Probe, ProbePoint, Prober};
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Error, Result, TokenId};
use tandem_onnx_graph::{DataType, Graph};

use crate::cache::empty_past;
use crate::engine;
use crate::error::{Doing, bad_graph};
use crate::graph::{DecoderGraph, EncoderGraph, LoadedGraph, tensor_type};
use crate::run::{Names, RawValue, run, take};
use crate::source::{GraphLocation, Source};
use crate::value_names::{Layout, known_values};

/// What a graph was loaded from, and the same graph with inner values as outputs, once they have been requested.
pub(crate) struct Probing {
    files: ModelFiles,
    options: LoadOptions,
    /// ONNX Runtime's library, where one was named.
    library: Option<PathBuf>,
    probed: Mutex<Option<Probed>>,
}

/// A graph whose inner values are outputs.
struct Probed {
    session: Session,
    graph: LoadedGraph,
    input_names: Names,
    values: Vec<Value>,
}

/// A value of the graph, and what it holds.
struct Value {
    name: CString,
    layout: Layout,
}

impl Probing {
    pub(crate) fn new(files: ModelFiles, options: LoadOptions, library: Option<PathBuf>) -> Self {
        Self { files, options, library, probed: Mutex::new(None) }
    }

    fn load(&self) -> Result<Probed> {
        let config = self.files.model_config()?;
        let mut source = Source::choose(&self.files, &config, &self.options)?;
        let (graph, directory) = match &source.location {
            GraphLocation::File(path) => (Graph::open(path).map_err(bad_graph)?, path.parent()),
            GraphLocation::Memory { bytes, .. } => (Graph::parse(bytes.to_vec(), &source.name).map_err(bad_graph)?, None),
        };
        let mut edit = graph.edit();
        // Graphs with 4-bit weights have activations of 16 or 32 bits: activations have the type of the cache, where there is one.
        let mut pasts = graph.inputs().filter(|input| input.name.starts_with("past"));
        let of_weights = if source.dtype == DType::F16 { DataType::FLOAT16 } else { DataType::FLOAT };
        let float = pasts.find_map(|past| past.data_type).unwrap_or(of_weights);
        let mut values = Vec::new();
        for (name, layout) in known_values(&graph, &config) {
            edit.add_output(&name, float).map_err(bad_graph)?;
            let name = CString::new(name).map_err(|error| Error::bad_file(&source.name, "a name contains a zero byte", error))?;
            values.push(Value { name, layout });
        }
        let relocated = directory.filter(|_| !graph.external_files().is_empty()).map(|directory| edit.relocate(directory));
        let relocated = relocated.transpose().map_err(bad_graph)?;
        let bytes = edit.to_bytes().map_err(bad_graph)?;
        let weights = match &source.location {
            GraphLocation::Memory { weights, .. } => weights.clone(),
            GraphLocation::File(_) => relocated,
        };
        drop(edit);
        source.location = GraphLocation::Memory { bytes: bytes.into(), weights };
        let session = engine::commit(self.library.as_deref(), &self.options, &source)?;
        let graph = LoadedGraph::read(&session, &source.name, &config, self.options.purpose)?;
        let input_names = Names::new(graph.input_names().to_vec());
        Ok(Probed { session, input_names, graph, values })
    }
}

impl Prober for Probing {
    /// The first call loads the graph again.
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let mut probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let probed = match &mut *probed {
            Some(probed) => probed,
            none => none.insert(self.load()?),
        };
        probed.probe(tokens, points)
    }
}

impl Probed {
    /// What one run over `tokens` computes at `points`, in the order of computation.
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let requested: Vec<&Value> = self.values.iter().filter(|value| value.layout.shows(points)).collect();
        if requested.is_empty() {
            return Ok(Vec::new());
        }
        let returned = self.run(tokens, &requested)?;
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

    fn run(&self, tokens: &[TokenId], requested: &[&Value]) -> Result<Vec<DynValue>> {
        let n = tokens.len();
        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); self.input_names.len()];
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
        let output_names = Names::new(requested.iter().map(|value| value.name.clone()).collect());
        let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); requested.len()];
        let options = RunOptions::new().doing("to prepare a run")?;
        // SAFETY: `owned` keeps the inputs alive until the run is over, every output is null, and the CPU provider allows concurrent
        // runs.
        #[expect(unsafe_code, reason = "`run` is the one way in which this crate runs a graph")]
        unsafe { run(&self.session, &options, (&self.input_names, &inputs), (&output_names, &mut outputs)) }
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
