//! A loaded checkpoint.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::ThreadPool;
use tandem_core::backend::{HiddenStates, LoraAdapter, Probe, ProbePoint, TokenBatch};
use tandem_core::{CancelToken, Error, LogitsRequest, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

use crate::attention::CausalMask;
use crate::decoder::{Decode, QkvHeads, Span};
use crate::error::Doing;
use crate::session::{CandleSession, MAX_CHUNK_TOKENS};
use crate::values::Values;

/// A model on candle.
pub(crate) struct CandleModel {
    pub(crate) loaded: Arc<Loaded>,
}

/// What the sessions of a model share.
pub(crate) struct Loaded {
    pub(crate) decoder: Box<dyn Decode>,
    pub(crate) threads: Arc<ThreadPool>,
    pub(crate) info: ModelInfo,
}

impl Loaded {
    /// The hidden states of `sequences` after the last norm, one after the other.
    ///
    /// Short ones share a pass, so that the projections see many rows; each attends to its own.
    fn encode(&self, sequences: &[&[TokenId]], out: &mut Vec<f32>) -> Result<()> {
        const DOING: &str = "to encode";
        let tokens = sequences.concat();
        let mut spans: Vec<Span> = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let start = spans.last().map_or(0, |span| span.rows.end);
            spans.push(Span { rows: start..start + sequence.len(), first_position: 0, n_outputs: sequence.len() });
        }
        let states = self.decoder.forward(&tokens, &spans, &CancelToken::new(), &mut |heads: QkvHeads| {
            let mask = CausalMask { n_past: heads.first_query, window: heads.window };
            self.decoder.attention(&heads.queries, &heads.keys, &heads.values, mask)
        });
        let states = states.doing(DOING)?.ok_or(Error::Cancelled)?;
        self.push_normed(&states, out)
    }

    /// Appends `states` after the last norm to `out`.
    fn push_normed(&self, states: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        const DOING: &str = "to encode";
        out.extend_from_slice(&Values::of(&self.decoder.normed(states).doing(DOING)?).doing(DOING)?);
        Ok(())
    }

    /// The hidden states of a sequence that is longer than one pass.
    fn encode_long(self: &Arc<Self>, sequence: &[TokenId], out: &mut Vec<f32>) -> Result<()> {
        let options = SessionOptions { context_length: Some(sequence.len()), ..SessionOptions::default() };
        let mut session = CandleSession::new(Arc::clone(self), &options)?;
        session.forward_chunked(sequence, true, &mut |states, _| self.push_normed(states, out))
    }
}

impl Model for CandleModel {
    fn info(&self) -> &ModelInfo {
        &self.loaded.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(CandleSession::new(Arc::clone(&self.loaded), options)?))
    }

    fn encode(&self, batch: &TokenBatch) -> Result<HiddenStates> {
        let info = &self.loaded.info;
        for sequence in batch.sequences() {
            info.check_append(0, info.max_context, sequence, LogitsRequest::None)?;
        }
        let mut values = Vec::with_capacity(batch.ids().len() * info.hidden_size);
        self.loaded.threads.install(|| {
            let mut together: Vec<&[TokenId]> = Vec::new();
            for sequence in batch.sequences() {
                let n: usize = together.iter().map(|sequence| sequence.len()).sum();
                if n > 0 && n + sequence.len() > MAX_CHUNK_TOKENS {
                    self.loaded.encode(&std::mem::take(&mut together), &mut values)?;
                }
                if sequence.len() > MAX_CHUNK_TOKENS {
                    self.loaded.encode_long(sequence, &mut values)?;
                } else {
                    together.push(sequence);
                }
            }
            if together.is_empty() { Ok(()) } else { self.loaded.encode(&together, &mut values) }
        })?;
        Ok(HiddenStates { values, hidden_size: info.hidden_size, lengths: batch.lengths().to_vec() })
    }

    fn with_adapter(&self, _adapter: &LoraAdapter) -> Result<Arc<dyn Model>> {
        Err(self.loaded.info.unsupported("an adapter", "this backend applies none yet"))
    }

    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let Loaded { decoder, threads, info } = &*self.loaded;
        info.check_append(0, info.max_context, tokens, LogitsRequest::None)?;
        let probes = threads.install(|| decoder.probe(tokens, points)).doing("to run the model")?;
        probes.ok_or_else(|| info.unsupported("a look at inner values", "they are shown on the processor only"))
    }
}
