//! The values between the nodes of a graph: the graph is loaded once more, with those values as outputs.
//!
//! Which value holds what is known by its name (`names.rs`). Queries are turned by their positions within the attention operator, which
//! does not show them; keys come turned out of the cache.

mod names;

use std::ffi::CString;
use std::ptr;

use half::f16;
use ort::AsPointer;
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, TensorElementType};
use tandem_core::backend::{LoadOptions, Probe, ProbePoint, Stage};
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{Error, Result, TokenId};
use tandem_onnx_graph::{DataType, Graph};

pub(crate) use self::names::can_probe;
use self::names::known_values;

use crate::cache::empty_past;
use crate::error::{Doing, failed};
use crate::graph::DecoderGraph;
use crate::run::{Names, RawValue, run, take};
use crate::session::integers;
use crate::source::{Place, Source, bad_graph};

/// What a graph was loaded from, so that it can be loaded again.
pub(crate) struct Origin {
    pub(crate) files: ModelFiles,
    pub(crate) options: LoadOptions,
}

/// A graph whose inner values are outputs.
pub(crate) struct Probed {
    session: Session,
    graph: DecoderGraph,
    input_names: Names,
    values: Vec<Value>,
}

/// A value of the graph, and what it holds.
struct Value {
    name: CString,
    holds: Holds,
}

/// What a value holds, `[1, n, width]` but for keys.
#[derive(Clone, Copy)]
enum Holds {
    One(ProbePoint),
    /// Queries, keys and values of a layer in one, and the widths of the first two.
    Projected {
        layer: usize,
        queries: usize,
        keys: usize,
    },
    /// Keys as the cache holds them, `[1, kv_heads, n, head_dim]`.
    Cached {
        point: ProbePoint,
        head_dim: usize,
    },
}

impl Probed {
    /// Loads the graph of `origin` again; `commit` makes the engine's session of it.
    ///
    /// # Errors
    /// As loading it the first time.
    pub(crate) fn load(origin: &Origin, commit: impl FnOnce(&LoadOptions, &Source) -> Result<Session>) -> Result<Self> {
        let config = ModelConfig::from_file(&origin.files.config)?;
        let mut source = Source::choose(&origin.files, &config, &origin.options)?;
        let (graph, directory) = match &source.place {
            Place::File(path) => (Graph::open(path).map_err(bad_graph)?, path.parent()),
            Place::Memory { bytes, .. } => (Graph::parse(bytes.to_vec(), &source.name).map_err(bad_graph)?, None),
        };
        let mut edit = graph.edit();
        // Weights of 4 bits come with activations of 16 or of 32: what flows through the layers is what the cache holds.
        let mut pasts = graph.inputs().filter(|input| input.name.starts_with("past"));
        let float = pasts.find_map(|past| past.data_type).unwrap_or(DataType::FLOAT);
        let mut values = Vec::new();
        for (name, holds) in known_values(&graph, &config) {
            edit.add_output(&name, float).map_err(bad_graph)?;
            let name = CString::new(name).map_err(|error| Error::bad_file(&source.name, "a name holds a zero byte", error))?;
            values.push(Value { name, holds });
        }
        let relocated = directory.filter(|_| !graph.external_files().is_empty()).map(|directory| edit.relocate(directory));
        let relocated = relocated.transpose().map_err(bad_graph)?;
        let bytes = edit.to_bytes().map_err(bad_graph)?;
        let weights = match &source.place {
            Place::Memory { weights, .. } => weights.clone(),
            Place::File(_) => relocated,
        };
        drop(edit);
        source.place = Place::Memory { bytes: bytes.into(), weights };
        let session = commit(&origin.options, &source)?;
        let graph = DecoderGraph::read(&session, &source.name, &config)?;
        Ok(Self { session, input_names: Names::new(graph.input_names.clone()), graph, values })
    }

    /// What one run over `tokens` computes at `points`, in the order of computation.
    pub(crate) fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let wanted: Vec<&Value> = self.values.iter().filter(|value| value.holds.any(points)).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let returned = self.run(tokens, &wanted)?;
        let mut probes = Vec::new();
        for (value, returned) in wanted.iter().zip(&returned) {
            value.holds.read(tokens, &floats(returned)?, &mut probes);
        }
        probes.retain(|probe| points.contains(&probe.point));
        Ok(probes)
    }

    fn run(&self, tokens: &[TokenId], wanted: &[&Value]) -> Result<Vec<DynValue>> {
        let (graph, n) = (&self.graph, tokens.len());
        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
        let mut owned = Vec::new();
        let mut give = |index: usize, value: DynValue| {
            inputs[index] = value.ptr().cast_mut();
            owned.push(value);
        };
        give(graph.ids.index, integers(&graph.ids, n, tokens.iter().map(|&id| i64::from(id)))?);
        if let Some(port) = graph.mask {
            give(port.index, integers(&port, n, std::iter::repeat_n(1, n))?);
        }
        if let Some(port) = graph.positions {
            give(port.index, integers(&port, n, 0..n as i64)?);
        }
        if let Some(port) = graph.logits_to_keep {
            give(port.index, integers(&port, 1, std::iter::once(0))?);
        }
        for port in &graph.caches {
            give(port.input, empty_past(port)?);
        }
        let output_names = Names::new(wanted.iter().map(|value| value.name.clone()).collect());
        let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); wanted.len()];
        let options = RunOptions::new().doing("to prepare a run")?;
        // SAFETY: the inputs are owned by this call and outlive it, every output is null, and the processor's provider allows runs at
        // the same time.
        #[expect(unsafe_code, reason = "the one way in which this crate runs a graph")]
        unsafe { run(&self.session, &options, (&self.input_names, &inputs), (&output_names, &mut outputs)) }
            .map_err(|error| failed("to run the graph", error))?;
        drop(owned);
        Ok(outputs.iter_mut().filter_map(|output| take(&self.session, output)).collect())
    }
}

impl Holds {
    fn any(self, points: &[ProbePoint]) -> bool {
        match self {
            Self::One(point) | Self::Cached { point, .. } => points.contains(&point),
            Self::Projected { layer, .. } => [Stage::Query, Stage::Key, Stage::Value]
                .into_iter()
                .any(|stage| points.contains(&ProbePoint { layer: Some(layer), stage })),
        }
    }

    fn read(self, tokens: &[TokenId], values: &[f32], probes: &mut Vec<Probe>) {
        let n = tokens.len();
        let width = values.len() / n;
        match self {
            Self::One(point) => probes.push(Probe::new(point, values.to_vec(), tokens)),
            Self::Projected { layer, queries, keys } => {
                for (stage, from, to) in
                    [(Stage::Query, 0, queries), (Stage::Key, queries, queries + keys), (Stage::Value, queries + keys, width)]
                {
                    let part = values.chunks_exact(width).flat_map(|row| &row[from..to]).copied().collect();
                    probes.push(Probe::new(ProbePoint { layer: Some(layer), stage }, part, tokens));
                }
            }
            Self::Cached { point, head_dim } => {
                let heads = values.len() / (n * head_dim);
                let row = |token: usize| (0..heads).flat_map(move |head| &values[(head * n + token) * head_dim..][..head_dim]);
                probes.push(Probe::new(point, (0..n).flat_map(row).copied().collect(), tokens));
            }
        }
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
