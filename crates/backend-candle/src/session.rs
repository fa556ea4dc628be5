//! A session: the KV cache of one sequence, and the forward passes that append to it.

mod batch;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use tandem_core::backend::KvState;
use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

pub(crate) use self::batch::append_batch;
use crate::cache::KvCache;
use crate::decoder::{ForwardHooks, QkvHeads, Span};
use crate::error::Doing;
use crate::kv_layout::KvLayout;
use crate::loaded::Loaded;

const DOING: &str = "to run the model";

/// The most tokens of a forward pass: it bounds the memory of what lies between layers. Quantised weights are unpacked once for a pass, so
/// that one of 512 tokens takes less time than two of 256: 0.95 of it in int4, 0.98 in f32.
pub(crate) const MAX_PASS: usize = 512;

/// A session on candle.
pub(crate) struct CandleSession {
    model: Arc<Loaded>,
    cache: KvCache,
    n_tokens: usize,
    context_length: usize,
    cancel: CancelToken,
}

impl CandleSession {
    pub(crate) fn new(model: Arc<Loaded>, options: &SessionOptions) -> Result<Self> {
        let layout = model.decoder.kv_layout();
        Self::with_layout(model, layout, options)
    }

    /// With keys and values as they are computed, whatever sessions that generate hold: to encode a long sequence.
    pub(crate) fn unrounded(model: Arc<Loaded>, options: &SessionOptions) -> Result<Self> {
        let layout = model.decoder.kv_layout();
        let dtype = if layout.for_kernels { DType::F32 } else { layout.dtype };
        Self::with_layout(model, KvLayout { dtype, ..layout }, options)
    }

    fn with_layout(model: Arc<Loaded>, layout: KvLayout, options: &SessionOptions) -> Result<Self> {
        let context_length = options.context_length.unwrap_or(model.info.max_context);
        let cache = KvCache::new(model.info.n_layers, layout, context_length);
        let cache = cache.doing("to allocate the KV cache")?;
        Ok(Self { model, cache, n_tokens: 0, context_length, cancel: options.cancel.clone() })
    }

    /// Appends `tokens` to the cache in chunks, and calls `take` with the hidden states before the last norm of those tokens of each chunk that
    /// are among the last `n_last` of all: `[n, hidden_size]`. After an error none of the tokens is held.
    pub(crate) fn forward_chunked(
        &mut self,
        tokens: &[TokenId],
        n_last: usize,
        take: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let total = self.n_tokens + tokens.len();
        self.cache.reserve(self.n_tokens, total).doing("to grow the KV cache")?;
        let mut held = self.n_tokens;
        for part in tokens.chunks(MAX_PASS) {
            held += part.len();
            let n_taken = (n_last + held).saturating_sub(total).min(part.len());
            let states = self.forward(part, held - part.len(), n_taken.max(1))?;
            if n_taken > 0 {
                take(&states)?;
            }
        }
        self.n_tokens = total;
        Ok(())
    }

    /// The hidden states of the last `n_outputs` of `tokens`, which follow `held` others.
    fn forward(&self, tokens: &[TokenId], held: usize, n_outputs: usize) -> Result<Tensor> {
        forward(&self.model, &[Part { cache: &self.cache, tokens, held, n_outputs, chosen_for: tokens.len() }], &self.cancel)
    }

    fn run(&mut self, tokens: &[TokenId], n_rows: usize, logits: &mut Logits) -> Result<()> {
        let model = Arc::clone(&self.model);
        let vocab_size = model.info.vocab_size;
        let rows = logits.resize(n_rows, vocab_size);
        let mut n_written = 0;
        self.forward_chunked(tokens, n_rows, &mut |states| {
            let n = states.dims()[0];
            let own = &mut rows[n_written..n_written + n * vocab_size];
            n_written += own.len();
            Ok(model.decoder.write_logits(states, &[n], own).doing(DOING)?)
        })
    }
}

/// What a forward pass appends to one session.
struct Part<'p> {
    cache: &'p KvCache,
    tokens: &'p [TokenId],
    /// The tokens before.
    held: usize,
    /// How many of the last have outputs, at least one.
    n_outputs: usize,
    /// The tokens that kernels are chosen for.
    chosen_for: usize,
}

/// One pass over `parts`, of a session each: the hidden states before the last norm of the outputs of all, `[outputs, hidden_size]`. Those
/// of a part have the bits that they have alone.
fn forward(model: &Loaded, parts: &[Part<'_>], cancel: &CancelToken) -> Result<Tensor> {
    let tokens: Vec<TokenId> = parts.iter().flat_map(|part| part.tokens).copied().collect();
    let mut spans: Vec<Span> = Vec::with_capacity(parts.len());
    for &Part { tokens, held, n_outputs, chosen_for, .. } in parts {
        let start = spans.last().map_or(0, |span| span.rows.end);
        spans.push(Span { rows: start..start + tokens.len(), first_position: held, n_outputs, chosen_for });
    }
    let states = model.decoder.forward(&tokens, &spans, cancel, &mut CacheHooks { model, parts });
    states.doing(DOING)?.ok_or(Error::Cancelled)
}

/// Attention of each part over the cache of its session.
struct CacheHooks<'p> {
    model: &'p Loaded,
    parts: &'p [Part<'p>],
}

impl CacheHooks<'_> {
    fn attention(&self, heads: &QkvHeads) -> candle_core::Result<Tensor> {
        let Part { cache, held, .. } = &self.parts[heads.span];
        cache.attention(&*self.model.decoder, heads, *held)
    }
}

impl ForwardHooks for CacheHooks<'_> {
    fn attend(&mut self, heads: QkvHeads) -> candle_core::Result<Tensor> {
        self.attention(&heads)
    }

    fn attend_all(&mut self, all: Vec<QkvHeads>) -> candle_core::Result<Vec<Tensor>> {
        all.par_iter().map(|heads| self.attention(heads)).collect()
    }
}

impl Session for CandleSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn reserved_tokens(&self) -> usize {
        self.cache.capacity()
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        let threads = Arc::clone(&self.model.threads);
        threads.run(|| self.run(tokens, request.n_rows(tokens.len()), logits))
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.n_tokens = n_tokens;
        Ok(())
    }

    fn export_kv(&self, positions: Range<usize>) -> Result<KvState> {
        Ok(self.cache.export(positions).doing("to read the KV cache")?)
    }

    fn import_kv(&mut self, state: &KvState) -> Result<()> {
        state.require_shape(self.cache.shape())?;
        self.cache.import(self.n_tokens, state).doing("to write the KV cache")?;
        self.n_tokens += state.n_tokens;
        Ok(())
    }

    fn fork(&self, n_tokens: usize, options: &SessionOptions) -> Result<Box<dyn Session>> {
        let context_length = options.context_length.unwrap_or(self.model.info.max_context);
        let cache = self.cache.copy(n_tokens, context_length).doing("to copy the KV cache")?;
        Ok(Box::new(Self { model: Arc::clone(&self.model), cache, n_tokens, context_length, cancel: options.cancel.clone() }))
    }
}
