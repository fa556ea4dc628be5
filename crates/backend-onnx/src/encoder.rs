//! A graph that encodes, and the runs of a batch.
//!
//! A run takes sequences of exactly one length, so that nothing is padded: a text gets what it gets alone.

mod groups;

use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use ort::AsPointer;
use ort::session::{NoSelectedOutputs, RunOptions, Session as EngineSession};
use ort::value::DynValue;
use tandem_core::backend::{HiddenStates, PooledRows, TokenBatch};
use tandem_core::{CancelToken, Capability, Error, Model, ModelInfo, Result, Session, SessionOptions};

pub(crate) use self::groups::TOKENS_OF_RUN;
use self::groups::{Row, groups};
use crate::cache::empty_past;
use crate::error::Doing;
use crate::graph::{EncoderGraph, Encoding, check_shape};
use crate::graph_cache::CachedGraph;
use crate::run::{Names, RawValue, run, take};

/// An encoder on ONNX Runtime.
pub(crate) struct OnnxEncoder {
    pub(crate) session: EngineSession,
    pub(crate) graph: EncoderGraph,
    pub(crate) input_names: Names,
    pub(crate) output_names: Names,
    /// The position of the first token, where the graph is told positions.
    pub(crate) first_position: usize,
    pub(crate) info: ModelInfo,
    /// Keeps the graph in the cache for as long as the engine reads it.
    pub(crate) _cached: Option<CachedGraph>,
    /// Held during a run where the provider does not promise that several may run at once.
    pub(crate) one_run_at_a_time: Option<Mutex<()>>,
}

impl Model for OnnxEncoder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_session(&self, _: &SessionOptions) -> Result<Box<dyn Session>> {
        Err(self.info.unsupported(Capability::Generation.description()))
    }

    fn encode(&self, batch: &TokenBatch, cancel: &CancelToken) -> Result<HiddenStates> {
        if let Encoding::Pooled(port) = &self.graph.encoding {
            return Err(self.info.unsupported(&format!("showing the hidden states behind `{}`", port.name)));
        }
        let width = self.graph.encoding.port().width;
        let mut values = vec![0.0; batch.ids().len() * width];
        self.run_groups(batch, cancel, |row| row.first_token * width..(row.first_token + row.ids.len()) * width, &mut values)?;
        Ok(HiddenStates { values, hidden_size: width, lengths: batch.lengths().to_vec() })
    }

    fn encode_pooled(&self, batch: &TokenBatch, cancel: &CancelToken) -> Result<PooledRows> {
        let Encoding::Pooled(port) = &self.graph.encoding else {
            return Err(self.info.unsupported(Capability::PooledOutput.description()));
        };
        let mut values = vec![0.0; batch.lengths().len() * port.width];
        self.run_groups(batch, cancel, |row| row.index * port.width..(row.index + 1) * port.width, &mut values)?;
        Ok(PooledRows { values, width: port.width })
    }
}

impl OnnxEncoder {
    /// Runs the graph over each group of sequences of one length, and writes what it gives for each to its `place` among `values`.
    fn run_groups(
        &self,
        batch: &TokenBatch,
        cancel: &CancelToken,
        place: impl Fn(&Row<'_>) -> std::ops::Range<usize>,
        values: &mut [f32],
    ) -> Result<()> {
        let options = Arc::new(RunOptions::new().doing("to prepare a run")?);
        let terminate: Arc<dyn Fn() + Send + Sync> = {
            let options = Arc::clone(&options);
            Arc::new(move || {
                // A run that could not be told to end still ends by itself.
                let _ = options.terminate();
            })
        };
        cancel.listen(&terminate);
        for group in groups(batch) {
            // Set before the engine could be told.
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let output = match self.run(&group, &options) {
                Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
                output => output?,
            };
            scatter(&output, group.iter().map(&place), values)?;
        }
        Ok(())
    }

    /// Runs the graph over sequences of one length: `[rows, tokens, hidden_size]` or `[rows, width]`.
    fn run(&self, rows: &[Row<'_>], options: &RunOptions<NoSelectedOutputs>) -> Result<DynValue> {
        let graph = &self.graph;
        let n_tokens = rows.first().map_or(0, |row| row.ids.len());
        let shape = [rows.len(), n_tokens];
        let ids = graph.ids.matrix(shape, rows.iter().flat_map(|row| row.ids).map(|&id| i64::from(id)))?;
        let mask = graph.mask.map(|port| port.matrix(shape, std::iter::repeat_n(1, rows.len() * n_tokens))).transpose()?;
        let types = |row: &Row<'_>| {
            row.types.map_or_else(|| vec![0; n_tokens], |types| types.iter().map(|&kind| i64::from(kind)).collect())
        };
        let types = graph.token_types.map(|port| port.matrix(shape, rows.iter().flat_map(types))).transpose()?;
        let places = (0..rows.len()).flat_map(|_| (0..n_tokens).map(|token| (self.first_position + token) as i64));
        let positions = graph.positions.map(|port| port.matrix(shape, places)).transpose()?;
        let pasts: Vec<DynValue> = graph.caches.iter().map(|port| empty_past(port, rows.len())).collect::<Result<_>>()?;

        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
        let ports = [Some(graph.ids), graph.mask, graph.token_types, graph.positions];
        for (port, value) in ports.iter().zip([Some(&ids), mask.as_ref(), types.as_ref(), positions.as_ref()]) {
            if let (Some(port), Some(value)) = (port, value) {
                inputs[port.index] = value.ptr().cast_mut();
            }
        }
        for (port, past) in graph.caches.iter().zip(&pasts) {
            inputs[port.input] = past.ptr().cast_mut();
        }
        let mut outputs: [RawValue; 1] = [ptr::null_mut()];
        let alone = self.one_run_at_a_time.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: the inputs live until the end of this function and are not written, and `alone` is held where a provider does not
        // allow runs at the same time.
        #[expect(unsafe_code, reason = "the one call of the engine")]
        let ran = unsafe { run(&self.session, options, (&self.input_names, &inputs), (&self.output_names, &mut outputs)) };
        drop(alone);
        ran.doing("to run the graph")?;
        let port = graph.encoding.port();
        let output = take(&self.session, &mut outputs[0])
            .ok_or_else(|| Error::bad_field(&*graph.file, &port.name, "the output was not computed"))?;
        let expected = match &graph.encoding {
            Encoding::HiddenStates(_) => vec![rows.len(), n_tokens, port.width],
            Encoding::Pooled(_) => vec![rows.len(), port.width],
        };
        check_shape(&graph.file, &port.name, &output, &expected)?;
        Ok(output)
    }
}

/// Writes equal parts of `output`, one after the other, to `places` in `values`, as f32.
fn scatter(output: &DynValue, places: impl Iterator<Item = std::ops::Range<usize>>, values: &mut [f32]) -> Result<()> {
    const DOING: &str = "to read an output";
    let mut start = 0;
    if let Ok((_, from)) = output.try_extract_tensor::<f32>() {
        for place in places {
            let end = start + place.len();
            values[place].copy_from_slice(&from[start..end]);
            start = end;
        }
        return Ok(());
    }
    let (_, from) = output.try_extract_tensor::<f16>().doing(DOING)?;
    for place in places {
        let end = start + place.len();
        values[place].iter_mut().zip(&from[start..end]).for_each(|(to, value)| *to = value.to_f32());
        start = end;
    }
    Ok(())
}
