//! A graph that encodes, and the runs of a batch.
//!
//! A run takes sequences of exactly one length, so that nothing is padded: a text gets what it gets alone.

mod buckets;
mod groups;

use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use ort::AsPointer;
use ort::session::{NoSelectedOutputs, RunOptions};
use ort::value::DynValue;
use tandem_core::backend::{HiddenStates, PooledRows, Probe, ProbePoint, Prober, TokenBatch};
use tandem_core::{CancelToken, Capability, Error, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

pub(crate) use self::buckets::Buckets;
pub(crate) use self::groups::TOKENS_OF_RUN;
use self::groups::{Row, groups};
use crate::cache::empty_past;
use crate::engine::Engine;
use crate::error::Doing;
use crate::graph::{EncoderGraph, Encoding, check_shape};
use crate::graph_cache::CachedGraph;
use crate::probe::Probing;
use crate::run::{Names, RawValue, run, take};

/// Tokens of a part of a long sequence, where a graph can run parts: attention takes memory for each pair of tokens of a run and before it.
pub(crate) const TOKENS_OF_PART: usize = 512;

/// An encoder on ONNX Runtime.
pub(crate) struct OnnxEncoder {
    pub(crate) session: Engine,
    pub(crate) graph: EncoderGraph,
    pub(crate) input_names: Names,
    pub(crate) output_names: Names,
    /// The output, and the KV cache after it, of a graph that runs a sequence in parts: what it gives for a token depends on those before
    /// it only.
    pub(crate) parts_names: Option<Names>,
    /// The lengths to which texts are padded, where they are.
    pub(crate) buckets: Option<Buckets>,
    pub(crate) info: ModelInfo,
    /// Shows its inner values, where they have known names.
    pub(crate) probing: Option<Probing>,
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

    fn prober(&self) -> Option<&dyn Prober> {
        self.probing.as_ref().map(|_| self as &dyn Prober)
    }
}

impl Prober for OnnxEncoder {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let Some(probing) = &self.probing else { return Ok(Vec::new()) };
        probing.probe(tokens, points, (&self.input_names, &[]))
    }
}

impl OnnxEncoder {
    /// Runs the graph over each group of sequences of one length, and writes what it gives for each to its `place` among `values`.
    fn run_groups(
        &self,
        batch: &TokenBatch,
        cancel: &CancelToken,
        place: impl Fn(&Row<'_>) -> Range<usize>,
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
        let groups = match self.buckets {
            // A shape is that of one text.
            Some(_) => groups(batch).into_iter().flatten().map(|row| vec![row]).collect(),
            None => groups(batch),
        };
        for group in groups {
            let n_tokens = group.first().map_or(0, |row| row.ids.len());
            let part = if self.parts_names.is_some() && self.buckets.is_none() { TOKENS_OF_PART } else { n_tokens.max(1) };
            let mut pasts = self.empty_pasts(group.len())?;
            for start in (0..n_tokens).step_by(part) {
                // Set before the engine could be told.
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let tokens = start..n_tokens.min(start + part);
                let (output, presents) = match self.run(&group, &tokens, &pasts, &options) {
                    Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
                    ran => ran?,
                };
                let width = self.graph.encoding.port().width;
                let places = group.iter().map(|row| match tokens.len() == n_tokens {
                    true => place(row),
                    false => place(row).start + tokens.start * width..place(row).start + tokens.end * width,
                });
                scatter(&output, places, values)?;
                pasts = presents;
            }
        }
        Ok(())
    }

    /// The KV cache before so many sequences.
    fn empty_pasts(&self, n_rows: usize) -> Result<Vec<DynValue>> {
        self.graph.caches.iter().map(|port| empty_past(port, n_rows)).collect()
    }

    /// Runs the graph over `tokens` of sequences of one length, those before which are in `pasts`. Returns `[rows, tokens, hidden_size]` or
    /// `[rows, width]`, and the KV cache after them where more follow.
    fn run(
        &self,
        rows: &[Row<'_>],
        tokens: &Range<usize>,
        pasts: &[DynValue],
        options: &RunOptions<NoSelectedOutputs>,
    ) -> Result<(DynValue, Vec<DynValue>)> {
        let graph = &self.graph;
        let n_rows = rows.len();
        let n_padded = self.buckets.as_ref().map_or(tokens.len(), |buckets| buckets.length(tokens.len()));
        let given = self.integers(rows, tokens, n_padded - tokens.len())?;
        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
        for (index, value) in &given {
            inputs[*index] = value.ptr().cast_mut();
        }
        for (port, past) in graph.caches.iter().zip(pasts) {
            inputs[port.input] = past.ptr().cast_mut();
        }
        let more_follow = rows.first().is_some_and(|row| tokens.end < row.ids.len());
        let names = self.parts_names.as_ref().filter(|_| more_follow).unwrap_or(&self.output_names);
        let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); names.len()];
        let alone = self.one_run_at_a_time.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: the inputs live until the end of this function and are not written, and `alone` is held where a provider does not
        // allow runs at the same time.
        #[expect(unsafe_code, reason = "the one call of the engine")]
        let ran = unsafe { run(&self.session, options, None, (&self.input_names, &inputs), (names, &mut outputs)) };
        drop(alone);
        ran.doing("to run the graph")?;
        let port = graph.encoding.port();
        let mut taken = outputs.iter_mut().map(|output| {
            take(&self.session, output).ok_or_else(|| Error::bad_field(&*graph.file, &port.name, "an output was not computed"))
        });
        let output = taken.next().unwrap_or_else(|| Err(Error::bad_field(&*graph.file, &port.name, "was not requested")))?;
        let expected = match &graph.encoding {
            Encoding::HiddenStates(_) => vec![n_rows, n_padded, port.width],
            Encoding::Pooled(_) => vec![n_rows, port.width],
        };
        check_shape(&graph.file, &port.name, &output, &expected)?;
        let presents: Vec<DynValue> = taken.collect::<Result<_>>()?;
        for (port, present) in graph.caches.iter().zip(&presents) {
            let shape = [n_rows, port.kv_heads, tokens.end, port.head_dim];
            check_shape(&graph.file, "graph.output", present, &shape)?;
        }
        Ok((output, presents))
    }

    /// The inputs of integers for `tokens` of sequences of one length and `n_padding` behind each, each with its index.
    fn integers(&self, rows: &[Row<'_>], tokens: &Range<usize>, n_padding: usize) -> Result<Vec<(usize, DynValue)>> {
        let graph = &self.graph;
        let shape = [rows.len(), tokens.len() + n_padding];
        let padding = |value: i64| std::iter::repeat_n(value, n_padding);
        let ids = rows.iter().flat_map(|row| row.ids[tokens.clone()].iter().map(|&id| i64::from(id)).chain(padding(0)));
        let mut given = vec![(graph.ids.index, graph.ids.matrix(shape, ids)?)];
        if let Some(port) = graph.mask {
            let of_padding = self.buckets.as_ref().map_or(0, |buckets| buckets.mask_of_padding);
            let mask = rows.iter().flat_map(|_| std::iter::repeat_n(1, tokens.end).chain(padding(of_padding)));
            given.push((port.index, port.matrix([rows.len(), tokens.end + n_padding], mask)?));
        }
        if let Some(port) = graph.token_types {
            let of_token = |row: &Row<'_>, token: usize| row.types.map_or(0, |types| i64::from(types[token]));
            let types = rows.iter().flat_map(|row| tokens.clone().map(move |token| of_token(row, token)).chain(padding(0)));
            given.push((port.index, port.matrix(shape, types)?));
        }
        if let Some(port) = graph.positions {
            let places = tokens.start..tokens.end + n_padding;
            let places = rows.iter().flat_map(|_| places.clone().map(|token| (graph.first_position + token) as i64));
            given.push((port.index, port.matrix(shape, places)?));
        }
        Ok(given)
    }
}

/// Writes equal parts of `output`, one after the other, to `places` in `values`, as f32.
fn scatter(output: &DynValue, places: impl Iterator<Item = Range<usize>>, values: &mut [f32]) -> Result<()> {
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
