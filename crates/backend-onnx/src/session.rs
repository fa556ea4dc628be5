//! The KV cache of one sequence, and the run that appends to it.

mod batch;
mod stacked;

use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::{iter, ptr};

use half::f16;
use ort::AsPointer;
use ort::memory::Allocator;
use ort::session::{NoSelectedOutputs, RunOptions};
use ort::value::{DynTensor, DynValue};
use tandem_core::backend::{Capability, KvState};
use tandem_core::sequence::{PREFILL_CHUNK, next_chunk};
use tandem_core::{CancelToken, Device, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

pub(crate) use self::batch::append_batch;
use crate::adapters::Constants;
use crate::cache::KvCache;
use crate::error::Doing;
use crate::graph::{DecoderGraph, KvOrder, Port, check_shape};
use crate::loaded::Loaded;
use crate::run::{RawValue, run, take};

/// Place of the logits among the outputs of a run.
const LOGITS: usize = 0;

/// The most tokens of a run on the processor: it bounds the memory of what lies between layers. Of a longer append each part is a run.
const MAX_RUN: usize = 2 * PREFILL_CHUNK;

/// A sequence on ONNX Runtime.
pub(crate) struct OnnxSession {
    model: Arc<Loaded>,
    constants: Arc<Constants>,
    cache: KvCache,
    n_tokens: usize,
    context_length: usize,
    /// A row of logits, `[1, 1, vocab_size]`, that every run with one row writes.
    row: DynValue,
    run_options: Arc<RunOptions<NoSelectedOutputs>>,
    cancel: CancelToken,
    /// Kept alive so that the token can tell the engine.
    _terminate: Arc<dyn Fn() + Send + Sync>,
}

impl OnnxSession {
    pub(crate) fn new(model: Arc<Loaded>, constants: Arc<Constants>, options: &SessionOptions) -> Result<Self> {
        let context_length = options.context_length.unwrap_or(model.info.max_context);
        let cache = if model.cache_in_blocks {
            KvCache::in_blocks(&model.graph.caches, context_length)?
        } else if !model.in_place {
            KvCache::carried(&model.graph.caches)?
        } else if model.cache_on_host() {
            KvCache::in_place(&model.graph.caches, context_length)?
        } else {
            KvCache::on_device(&model.graph.caches, &model.cache_allocator()?, context_length)?
        };
        let logits = &model.graph.logits;
        let row = DynTensor::new(&Allocator::default(), logits.dtype, [1, 1, logits.vocab_size])
            .doing("to allocate the logits")?
            .into_dyn();
        let run_options = Arc::new(RunOptions::new().doing("to prepare a run")?);
        let terminate: Arc<dyn Fn() + Send + Sync> = {
            let run_options = Arc::clone(&run_options);
            Arc::new(move || {
                // A run that could not be told to end still ends by itself.
                let _ = run_options.terminate();
            })
        };
        options.cancel.listen(&terminate);
        Ok(Self {
            model,
            constants,
            cache,
            n_tokens: 0,
            context_length,
            row,
            run_options,
            cancel: options.cancel.clone(),
            _terminate: terminate,
        })
    }

    /// The rows of logits that the graph returns where the last `n_requested` of `n_given` tokens' are requested, and what to ask it for.
    fn rows(&self, n_given: usize, n_requested: usize) -> (usize, i64) {
        let graph = &self.model.graph;
        match graph.logits_to_keep {
            Some(_) if n_requested <= 1 => (1, 1),
            // 0 asks for all.
            Some(_) if n_requested == n_given => (n_given, 0),
            Some(_) => (n_requested, n_requested as i64),
            None if graph.logits.last_only => (1, 0),
            None => (n_given, 0),
        }
    }

    /// Whether so many tokens are appended in several runs: where the cache is appended to in place, which costs nothing. An accelerator is
    /// faster with all at once.
    fn divides(&self, n_tokens: usize) -> bool {
        n_tokens > MAX_RUN && self.model.info.device == Device::Cpu && !matches!(self.cache, KvCache::Carried(_))
    }

    /// Appends `tokens` in parts, of which each has enough tokens for the bits that it would have with the others.
    fn append_parts(&mut self, tokens: &[TokenId], n_requested: usize, logits: &mut Logits) -> Result<()> {
        self.cache.reserve(self.n_tokens, self.n_tokens + tokens.len())?;
        let mut out = logits.resize(n_requested, self.model.info.vocab_size);
        let mut rest = tokens;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(next_chunk(rest.len(), MAX_RUN, MAX_RUN));
            let n_rows = n_requested.saturating_sub(after.len()).min(part.len());
            let (own, others) = out.split_at_mut(n_rows * self.model.info.vocab_size);
            self.append_run(part, n_rows, own)?;
            (rest, out) = (after, others);
        }
        Ok(())
    }

    /// Appends `tokens` in one run, and writes the logits of the last `n_requested` to `out`.
    fn append_run(&mut self, tokens: &[TokenId], n_requested: usize, out: &mut [f32]) -> Result<()> {
        let (n_rows, keep) = self.rows(tokens.len(), n_requested);
        let returned = self.run(tokens, n_rows, keep)?;
        if n_requested > 0 {
            let first = (n_rows - n_requested) * self.model.info.vocab_size;
            copy_floats(returned.as_ref().unwrap_or(&self.row), first, out)?;
        }
        Ok(())
    }

    /// Runs the graph over `tokens` and leaves the logits in `self.row` or returns them.
    fn run(&mut self, tokens: &[TokenId], n_rows: usize, keep: i64) -> Result<Option<DynValue>> {
        let model = Arc::clone(&self.model);
        let graph = &model.graph;
        let (past, total) = (self.n_tokens, self.n_tokens + tokens.len());
        self.cache.reserve(past, total)?;

        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
        let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); graph.output_names.len()];
        let given = Given::new(graph, (tokens.iter().copied(), past as i64..total as i64), total, keep)?;
        given.bind(&mut inputs);
        self.cache.bind(&mut inputs, &mut outputs);
        inputs.extend(self.constants.values.iter().map(|value| value.ptr().cast_mut()));
        if n_rows == 1 {
            outputs[LOGITS] = self.row.ptr_mut();
        }

        self.start()?;
        let alone = model.one_run_at_a_time.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: the values are owned by this session or by this call, `&mut self` keeps others from running with them (the constants, which
        // sessions share, are only read), and `alone` is held where a provider does not allow runs at the same time.
        #[expect(unsafe_code, reason = "one value as past and as present")]
        let ran = unsafe {
            run(&model.session, &self.run_options, None, (&self.constants.names, &inputs), (&model.output_names, &mut outputs))
        };
        drop(alone);
        if ran.is_err() && self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        ran.doing("to run the graph")?;
        let presents = self.cache.take_presents(&model.session, &mut outputs);
        let logits = if n_rows == 1 { None } else { take(&model.session, &mut outputs[LOGITS]) };
        if let Some(logits) = &logits {
            check_shape(&graph.file, "logits", logits, &[1, n_rows, model.info.vocab_size])?;
        }
        self.cache.commit(graph, presents, total)?;
        self.n_tokens = total;
        Ok(logits)
    }

    /// Lets the next run start, unless it was cancelled. The flag is read after the engine's is cleared, so that a cancel between the
    /// two is not lost.
    fn start(&self) -> Result<()> {
        self.run_options.unterminate().doing("to prepare a run")?;
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// What a run is given besides caches and constants.
struct Given(Vec<(Port, DynValue)>);

impl Given {
    /// Tokens with their positions, ones for `n_masked` in the mask, and how many of the last have logits, 0 for all.
    fn new(
        graph: &DecoderGraph,
        (tokens, positions): (impl ExactSizeIterator<Item = TokenId>, impl Iterator<Item = i64>),
        n_masked: usize,
        keep: i64,
    ) -> Result<Self> {
        let n = tokens.len();
        let mut values = vec![(graph.ids, graph.ids.integers(n, tokens.map(i64::from))?)];
        if let Some(port) = graph.mask {
            values.push((port, port.integers(n_masked, iter::repeat_n(1, n_masked))?));
        }
        if let Some(port) = graph.positions {
            values.push((port, port.integers(n, positions)?));
        }
        if let Some(port) = graph.logits_to_keep {
            values.push((port, port.integers(1, iter::once(keep))?));
        }
        Ok(Self(values))
    }

    /// One token of each of several sequences, with the tokens that each holds, in a row of its own. The mask has as many ones in each row as the
    /// sequence has tokens then.
    fn rows(graph: &DecoderGraph, rows: &[(TokenId, usize)]) -> Result<Self> {
        let n = rows.len();
        let longest = rows.iter().map(|(_, held)| held + 1).max().unwrap_or(0);
        let mut values = vec![(graph.ids, graph.ids.matrix([n, 1], rows.iter().map(|(token, _)| i64::from(*token)))?)];
        if let Some(port) = graph.mask {
            let ones = rows.iter().flat_map(|(_, held)| (0..longest).map(move |position| i64::from(position <= *held)));
            values.push((port, port.matrix([n, longest], ones)?));
        }
        if let Some(port) = graph.positions {
            values.push((port, port.matrix([n, 1], rows.iter().map(|(_, held)| *held as i64))?));
        }
        if let Some(port) = graph.logits_to_keep {
            values.push((port, port.integers(1, iter::once(1))?));
        }
        Ok(Self(values))
    }

    fn bind(&self, inputs: &mut [RawValue]) {
        self.0.iter().for_each(|(port, value)| inputs[port.index] = value.ptr().cast_mut());
    }
}

impl OnnxSession {
    fn kv_order(&self) -> Result<KvOrder> {
        self.model.graph.kv_order().ok_or_else(|| Error::Unsupported {
            what: Capability::KvTransfer.description().into(),
            reason: format!("the caches of `{}` are not keys and values by layer", self.model.graph.file),
            hint: None,
        })
    }
}

impl Session for OnnxSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn reserved_tokens(&self) -> usize {
        self.cache.capacity(self.n_tokens)
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        let n_requested = request.n_rows(tokens.len());
        if !self.divides(tokens.len()) {
            let rows = logits.resize(n_requested, self.model.info.vocab_size);
            return self.append_run(tokens, n_requested, rows);
        }
        let held = self.n_tokens;
        let appended = self.append_parts(tokens, n_requested, logits);
        if appended.is_err() {
            // What earlier parts wrote lies behind the tokens held.
            self.n_tokens = held;
        }
        appended
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.cache.rewind(self.n_tokens, n_tokens)?;
        self.n_tokens = n_tokens;
        Ok(())
    }

    fn fork(&self, n_tokens: usize, options: &SessionOptions) -> Result<Box<dyn Session>> {
        let mut fork = Self::new(Arc::clone(&self.model), Arc::clone(&self.constants), options)?;
        fork.cache.copy_from(&self.cache, n_tokens)?;
        fork.n_tokens = n_tokens;
        Ok(Box::new(fork))
    }

    fn export_kv(&self, positions: Range<usize>) -> Result<KvState> {
        self.cache.export(&self.kv_order()?, self.model.graph.kv_dtype(), positions)
    }

    fn import_kv(&mut self, state: &KvState) -> Result<()> {
        let order = self.kv_order()?;
        state.require_shape(order.shape)?;
        self.cache.import(&order, self.n_tokens, state)?;
        self.n_tokens += state.n_tokens;
        Ok(())
    }
}

/// Copies as many values of a logits tensor from `first` on, as f32.
fn copy_floats(value: &DynValue, first: usize, to: &mut [f32]) -> Result<()> {
    const DOING: &str = "to read the logits";
    let own = first..first + to.len();
    if let Ok((_, values)) = value.try_extract_tensor::<f32>() {
        to.copy_from_slice(&values[own]);
    } else {
        let values = &value.try_extract_tensor::<f16>().doing(DOING)?.1[own];
        to.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_f32());
    }
    Ok(())
}
