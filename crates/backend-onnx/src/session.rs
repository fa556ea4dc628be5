//! The KV cache of one sequence, and the run that appends to it.

use std::ptr;
use std::sync::{Arc, PoisonError};

use half::f16;
use ort::AsPointer;
use ort::memory::Allocator;
use ort::session::{NoSelectedOutputs, RunOptions};
use ort::value::{DynTensor, DynValue};
use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

use crate::cache::KvCache;
use crate::error::Doing;
use crate::loaded::Loaded;
use crate::run::{RawValue, run, take};

/// Place of the logits among the outputs of a run.
const LOGITS: usize = 0;

/// A sequence on ONNX Runtime.
pub(crate) struct OnnxSession {
    model: Arc<Loaded>,
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
    pub(crate) fn new(model: Arc<Loaded>, options: &SessionOptions) -> Result<Self> {
        let context_length = options.context_length(&model.info)?;
        let cache = if model.in_place {
            KvCache::in_place(&model.graph.caches, model.cache_allocator()?, context_length, model.cache_on_host())?
        } else {
            KvCache::carried(&model.graph.caches)?
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
            cache,
            n_tokens: 0,
            context_length,
            row,
            run_options,
            cancel: options.cancel.clone(),
            _terminate: terminate,
        })
    }

    /// The rows of logits that the graph will return, and what to ask it for.
    fn rows(&self, n_given: usize, wanted: LogitsRequest) -> (usize, i64) {
        let graph = &self.model.graph;
        match (graph.logits_to_keep, wanted) {
            (Some(_), LogitsRequest::All) => (n_given, 0),
            (Some(_), _) => (1, 1),
            (None, _) if graph.logits.last_only => (1, 0),
            (None, _) => (n_given, 0),
        }
    }

    /// Runs the graph over `tokens` and leaves the logits in `self.row` or returns them.
    fn run(&mut self, tokens: &[TokenId], n_rows: usize, keep: i64) -> Result<Option<DynValue>> {
        let model = Arc::clone(&self.model);
        let graph = &model.graph;
        let (past, total) = (self.n_tokens, self.n_tokens + tokens.len());
        self.cache.reserve(past, total)?;

        let mut inputs: Vec<RawValue> = vec![ptr::null_mut(); graph.input_names.len()];
        let mut outputs: Vec<RawValue> = vec![ptr::null_mut(); graph.output_names.len()];
        let ids = graph.ids.integers(tokens.len(), tokens.iter().map(|&id| i64::from(id)))?;
        let mask = graph.mask.map(|port| port.integers(total, std::iter::repeat_n(1, total))).transpose()?;
        let positions = graph.positions.map(|port| port.integers(tokens.len(), past as i64..total as i64)).transpose()?;
        let kept = graph.logits_to_keep.map(|port| port.integers(1, std::iter::once(keep))).transpose()?;
        let ports = [Some(graph.ids), graph.mask, graph.positions, graph.logits_to_keep];
        for (port, value) in ports.iter().zip([Some(&ids), mask.as_ref(), positions.as_ref(), kept.as_ref()]) {
            if let (Some(port), Some(value)) = (port, value) {
                inputs[port.index] = value.ptr().cast_mut();
            }
        }
        self.cache.bind(&mut inputs, &mut outputs);
        if n_rows == 1 {
            outputs[LOGITS] = self.row.ptr_mut();
        }

        self.start()?;
        let alone = model.one_run_at_a_time.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: the values are owned by this session or by this call, `&mut self` keeps others from running with them, and `alone`
        // is held where a provider does not allow runs at the same time.
        #[expect(unsafe_code, reason = "one value as past and as present")]
        let ran =
            unsafe { run(&model.session, &self.run_options, (&model.input_names, &inputs), (&model.output_names, &mut outputs)) };
        drop(alone);
        if ran.is_err() && self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        ran.doing("to run the graph")?;
        self.cache.commit(&model.session, &mut outputs);
        self.n_tokens = total;
        Ok(if n_rows == 1 { None } else { take(&model.session, &mut outputs[LOGITS]) })
    }

    /// Lets the next run start, unless it was cancelled. The flag is read after the engine's is cleared, so that a cancel between the
    /// two is not lost.
    fn start(&self) -> Result<()> {
        self.run_options.unterminate().doing("to prepare a run")?;
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

impl Session for OnnxSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        self.model.info.check_append(self.n_tokens, self.context_length, tokens, wanted)?;
        let vocab_size = self.model.info.vocab_size;
        let (n_rows, keep) = self.rows(tokens.len(), wanted);
        let returned = self.run(tokens, n_rows, keep)?;
        if wanted == LogitsRequest::None {
            return Ok(Logits::none());
        }
        let first = if wanted == LogitsRequest::All { 0 } else { n_rows - 1 };
        let values = floats(returned.as_ref().unwrap_or(&self.row), first * vocab_size)?;
        Ok(Logits::new(values, vocab_size))
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.model.info.check_rewind(self.n_tokens, n_tokens)?;
        self.cache.rewind(self.n_tokens, n_tokens)?;
        self.n_tokens = n_tokens;
        Ok(())
    }
}

/// The values of a logits tensor from `first` on, as f32.
fn floats(value: &DynValue, first: usize) -> Result<Vec<f32>> {
    const DOING: &str = "to read the logits";
    Ok(if let Ok((_, values)) = value.try_extract_tensor::<f32>() {
        values[first..].to_vec()
    } else {
        value.try_extract_tensor::<f16>().doing(DOING)?.1[first..].iter().map(|v| v.to_f32()).collect()
    })
}
