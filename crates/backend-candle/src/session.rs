//! The KV cache of one sequence, and the passes that append to it.

use std::sync::Arc;

use candle_core::Tensor;
use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

use crate::attention::CausalMask;
use crate::cache::KvCache;
use crate::decoder::{QkvHeads, Span};
use crate::error::Doing;
use crate::model::Loaded;
use crate::values::Values;

/// The most tokens of one pass: it bounds the memory of what lies between layers, and is enough for products of matrices to be fast.
pub(crate) const MAX_CHUNK_TOKENS: usize = 512;

const DOING: &str = "to run the model";

/// A sequence on candle.
pub(crate) struct CandleSession {
    model: Arc<Loaded>,
    cache: KvCache,
    n_tokens: usize,
    context_length: usize,
    cancel: CancelToken,
}

impl CandleSession {
    pub(crate) fn new(model: Arc<Loaded>, options: &SessionOptions) -> Result<Self> {
        let context_length = options.context_length(&model.info)?;
        let cache = KvCache::new(model.info.n_layers, model.decoder.kv_layout(), context_length);
        let cache = cache.doing("to allocate the KV cache")?;
        Ok(Self { model, cache, n_tokens: 0, context_length, cancel: options.cancel.clone() })
    }

    /// Writes `tokens` to the cache and gives `take` the hidden states of each pass before the last norm, `[n, hidden_size]`, of its last
    /// token or of `all`, and whether it is the last pass. They are held when all passes are done, and none of them after an error.
    pub(crate) fn forward_chunked(
        &mut self,
        tokens: &[TokenId],
        all: bool,
        take: &mut dyn FnMut(&Tensor, bool) -> Result<()>,
    ) -> Result<()> {
        let total = self.n_tokens + tokens.len();
        self.cache.reserve(self.n_tokens, total).doing("to grow the KV cache")?;
        let mut held = self.n_tokens;
        for part in tokens.chunks(MAX_CHUNK_TOKENS) {
            let states = self.forward(part, held, all)?;
            held += part.len();
            take(&states, held == total)?;
        }
        self.n_tokens = total;
        Ok(())
    }

    /// The hidden states of the last of `tokens`, or of `all`, after `held` others.
    fn forward(&self, tokens: &[TokenId], held: usize, all: bool) -> Result<Tensor> {
        let span = Span { rows: 0..tokens.len(), first_position: held, n_outputs: if all { tokens.len() } else { 1 } };
        let states = self.model.decoder.forward(tokens, &[span], &self.cancel, &mut |heads: QkvHeads| {
            let layer = self.cache.write(heads.layer, held, &heads.keys, &heads.values)?;
            let mask = CausalMask { n_past: heads.first_query, window: heads.window };
            self.model.decoder.attention(&heads.queries, &layer.keys, &layer.values, mask)
        });
        states.doing(DOING)?.ok_or(Error::Cancelled)
    }

    fn run(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        let model = Arc::clone(&self.model);
        let mut values = Vec::new();
        self.forward_chunked(tokens, wanted == LogitsRequest::All, &mut |states, is_last| {
            if wanted == LogitsRequest::All || wanted == LogitsRequest::Last && is_last {
                let logits = model.decoder.logits(states).doing(DOING)?;
                values.extend_from_slice(&Values::of(&logits).doing(DOING)?);
            }
            Ok(())
        })?;
        Ok(if wanted == LogitsRequest::None { Logits::none() } else { Logits::new(values, model.info.vocab_size) })
    }
}

impl Session for CandleSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        self.model.info.check_append(self.n_tokens, self.context_length, tokens, wanted)?;
        let threads = Arc::clone(&self.model.threads);
        threads.install(|| self.run(tokens, wanted))
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.model.info.check_rewind(self.n_tokens, n_tokens)?;
        self.n_tokens = n_tokens;
        Ok(())
    }
}
