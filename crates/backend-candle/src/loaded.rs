//! What the sessions of a model share.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use tandem_core::{CancelToken, Error, ModelInfo, Result, TokenId};
use tandem_kernels::attention::AttentionMask;
use tandem_kernels::matrix::Kernels;
use tandem_kernels::{Threads, scratch_slice};

use crate::decoder::{Decode, ForwardHooks, QkvHeads, Span};
use crate::error::Doing;
use crate::values::Values;

/// What the sessions of a model share.
pub(crate) struct Loaded {
    pub(crate) decoder: Box<dyn Decode>,
    pub(crate) threads: Arc<Threads>,
    pub(crate) info: ModelInfo,
    /// Tokens see those before them only.
    pub(crate) is_causal: bool,
    /// For the logits of a batch, until they go to its sessions: new memory would have to be cleared by the system at each step.
    logits: Mutex<Vec<f32>>,
}

impl Loaded {
    pub(crate) fn new(decoder: Box<dyn Decode>, threads: Arc<Threads>, info: ModelInfo, is_causal: bool) -> Self {
        Self { decoder, threads, info, is_causal, logits: Mutex::default() }
    }

    /// Calls `with` with memory for `n` logits, whose contents are left over from earlier calls.
    pub(crate) fn with_logits<T>(&self, n: usize, with: impl FnOnce(&mut [f32]) -> T) -> T {
        /// The most values that are kept for the next call: those of some rows, not of a prompt.
        const MOST_KEPT: usize = 8 << 20;
        let kept = || self.logits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut values = std::mem::take(&mut *kept());
        let result = with(scratch_slice(&mut values, n));
        if values.len() <= MOST_KEPT {
            *kept() = values;
        }
        result
    }

    /// The hidden states of `sequences` after the last norm, one after the other.
    ///
    /// Short sequences share a forward pass, so that the projections have many rows; each attends to itself only.
    pub(crate) fn encode(&self, sequences: &[&[TokenId]], cancel: &CancelToken, out: &mut Vec<f32>) -> Result<()> {
        const DOING: &str = "to encode";
        let tokens = sequences.concat();
        let mut spans: Vec<Span> = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let start = spans.last().map_or(0, |span| span.rows.end);
            let n = sequence.len();
            spans.push(Span { rows: start..start + n, first_position: 0, n_outputs: n, chosen_for: n });
        }
        let states = self.decoder.forward(&tokens, &spans, cancel, &mut EncodeHooks { loaded: self });
        let states = states.doing(DOING)?.ok_or(Error::Cancelled)?;
        self.push_normed(&states, out)
    }

    /// Appends `states` after the last norm to `out`.
    pub(crate) fn push_normed(&self, states: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        const DOING: &str = "to encode";
        out.extend_from_slice(&Values::of(&self.decoder.normed(states).doing(DOING)?).doing(DOING)?);
        Ok(())
    }
}

/// Attention without a cache, and products that give a text the same bits in every batch.
struct EncodeHooks<'l> {
    loaded: &'l Loaded,
}

impl ForwardHooks for EncodeHooks<'_> {
    fn attend(&mut self, heads: QkvHeads) -> candle_core::Result<Tensor> {
        let ahead = if self.loaded.is_causal { None } else { Some(heads.keys.dim(1)?) };
        let mask = AttentionMask { n_past: heads.first_query, window: heads.window, ahead };
        self.loaded.decoder.attention(&heads.queries, &heads.keys, &heads.values, mask)
    }

    fn kernels(&self) -> Kernels {
        Kernels::ByShape
    }
}
