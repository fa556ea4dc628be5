//! Shows the values between the nodes of a graph: the graph is loaded once more, with those values as outputs.
//!
//! Which value holds what is known by its name ([`value_names`](crate::value_names)). The attention operator rotates queries inside, so
//! rotated queries are not shown; rotated keys are read from the cache.

use std::ffi::CString;
use std::ptr;

use half::f16;
use ort::AsPointer;
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, TensorElementType};
use tandem_core::backend::{Probe, ProbePoint};
use tandem_core::{Error, Result, TokenId};
use tandem_onnx_graph::{AdapterInputs, DataType};

use crate::adapters::Constants;
use crate::cache::empty_past;
use crate::engine;
use crate::error::{Doing, bad_graph};
use crate::graph::{DecoderGraph, tensor_type};
use crate::origin::Origin;
use crate::run::{Names, RawValue, run, take};
use crate::value_names::{Layout, known_values};

/// A graph whose inner values are outputs.
pub(crate) struct Probed {
    session: Session,
    graph: DecoderGraph,
    values: Vec<Value>,
}

/// A value of the graph, and what it holds.
struct Value {
    name: CString,
    layout: Layout,
}

impl Probed {
    /// Loads the graph of `origin` again, with inputs for adapters of the `adapted` products.
    ///
    /// # Errors
    /// As loading it the first time.
    pub(crate) fn load(origin: &Origin, adapted: &[AdapterInputs]) -> Result<Self> {
        let config = &origin.config;
        let mut source = origin.source(adapted)?;
        let (mut values, name) = (Vec::new(), source.name.clone());
        source.edit(|graph, edit| {
            // Graphs with 4-bit weights have activations of 16 or 32 bits: activations have the type of the cache.
            let mut pasts = graph.inputs().filter(|input| input.name.starts_with("past"));
            let float = pasts.find_map(|past| past.data_type).unwrap_or(DataType::FLOAT);
            for (value, layout) in known_values(graph, config) {
                edit.add_output(&value, float).map_err(bad_graph)?;
                let name = CString::new(value).map_err(|error| Error::bad_file(&name, "a name contains a zero byte", error))?;
                values.push(Value { name, layout });
            }
            Ok(())
        })?;
        let session = engine::commit(origin.library.as_deref(), &origin.options, &source)?;
        let graph = DecoderGraph::read(&session, &source.name, config)?;
        Ok(Self { session, graph, values })
    }

    /// What one run over `tokens` computes at `points`, in the order of computation; `constants` are those of the model.
    pub(crate) fn probe(&self, tokens: &[TokenId], points: &[ProbePoint], constants: &Constants) -> Result<Vec<Probe>> {
        let requested: Vec<&Value> = self.values.iter().filter(|value| value.layout.shows(points)).collect();
        if requested.is_empty() {
            return Ok(Vec::new());
        }
        let returned = self.run(tokens, &requested, constants)?;
        let mut probes = Vec::new();
        for (value, returned) in requested.iter().zip(&returned) {
            let name = value.name.to_string_lossy();
            let (_, shape) = tensor_type(&self.graph.file, &name, returned.dtype())?;
            if !value.layout.fits(shape, tokens.len()) {
                let problem = format!("a run over {} tokens returned the unexpected shape {shape:?}", tokens.len());
                return Err(Error::bad_field(&self.graph.file, name, problem));
            }
            value.layout.read(tokens, shape, &floats(returned)?, &mut probes);
        }
        probes.retain(|probe| points.contains(&probe.point));
        Ok(probes)
    }

    fn run(&self, tokens: &[TokenId], requested: &[&Value], constants: &Constants) -> Result<Vec<DynValue>> {
        let (graph, n) = (&self.graph, tokens.len());
        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
        let mut owned = Vec::new();
        let mut give = |index: usize, value: DynValue| {
            inputs[index] = value.ptr().cast_mut();
            owned.push(value);
        };
        give(graph.ids.index, graph.ids.integers(n, tokens.iter().map(|&id| i64::from(id)))?);
        if let Some(port) = graph.mask {
            give(port.index, port.integers(n, std::iter::repeat_n(1, n))?);
        }
        if let Some(port) = graph.positions {
            give(port.index, port.integers(n, 0..n as i64)?);
        }
        if let Some(port) = graph.logits_to_keep {
            give(port.index, port.integers(1, std::iter::once(0))?);
        }
        for port in &graph.caches {
            give(port.input, empty_past(port, 1)?);
        }
        inputs.extend(constants.values.iter().map(|value| value.ptr().cast_mut()));
        let output_names = Names::new(requested.iter().map(|value| value.name.clone()).collect());
        let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); requested.len()];
        let options = RunOptions::new().doing("to prepare a run")?;
        // SAFETY: `owned` and `constants` keep the inputs alive until the run is over, every output is null, and the CPU provider allows concurrent
        // runs.
        #[expect(unsafe_code, reason = "`run` is the one way in which this crate runs a graph")]
        unsafe { run(&self.session, &options, (&constants.names, &inputs), (&output_names, &mut outputs)) }
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
