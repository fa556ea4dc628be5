//! The KV cache of one sequence, and the passes that append to it.

use std::sync::Arc;

use candle_core::Tensor;
use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

use crate::attention::Sight;
use crate::cache::KvCache;
use crate::decoder::{Attended, Span};
use crate::error::Doing;
use crate::model::Loaded;
use crate::values::Values;

/// The most tokens of one pass: it bounds the memory of what lies between layers, and is enough for products of matrices to be fast.
pub(crate) const PASS: usize = 512;

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
        let context_length = options.context_length.unwrap_or(model.info.max_context);
        let cache = KvCache::new(model.info.n_layers, model.decoder.kept(), context_length);
        let cache = cache.doing("to allocate the KV cache")?;
        Ok(Self { model, cache, n_tokens: 0, context_length, cancel: options.cancel.clone() })
    }

    /// Writes `tokens` to the cache and gives `take` the hidden states before the last norm of those of each pass that are among the last
    /// `n_last` of all: `[n, hidden_size]`. The tokens are held when all passes are done, and none of them after an error.
    pub(crate) fn pass_over(
        &mut self,
        tokens: &[TokenId],
        n_last: usize,
        take: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let total = self.n_tokens + tokens.len();
        self.cache.reserve(self.n_tokens, total).doing("to grow the KV cache")?;
        let mut held = self.n_tokens;
        for part in tokens.chunks(PASS) {
            held += part.len();
            let n_taken = (n_last + held).saturating_sub(total).min(part.len());
            let states = self.pass(part, held - part.len(), n_taken.max(1))?;
            if n_taken > 0 {
                take(&states)?;
            }
        }
        self.n_tokens = total;
        Ok(())
    }

    /// The hidden states of the last `n_wanted` of `tokens`, which follow `held` others.
    fn pass(&self, tokens: &[TokenId], held: usize, n_wanted: usize) -> Result<Tensor> {
        let span = Span { rows: 0..tokens.len(), first_position: held, n_wanted };
        let states = self.model.decoder.forward(tokens, &[span], &self.cancel, &mut |attended: Attended| {
            let layer = self.cache.write(attended.layer, held, &attended.keys, &attended.values)?;
            let sight = Sight { n_past: attended.first_query, window: attended.window };
            self.model.decoder.attention(&attended.queries, &layer.keys, &layer.values, sight)
        });
        states.doing(DOING)?.ok_or(Error::Cancelled)
    }

    fn run(&mut self, tokens: &[TokenId], n_rows: usize, logits: &mut Logits) -> Result<()> {
        let model = Arc::clone(&self.model);
        let vocab_size = model.info.vocab_size;
        let rows = logits.resize(n_rows, vocab_size);
        let mut n_written = 0;
        self.pass_over(tokens, n_rows, &mut |states| {
            let computed = model.decoder.logits(states).doing(DOING)?;
            let computed = Values::of(&computed).doing(DOING)?;
            rows[n_written..n_written + computed.len()].copy_from_slice(&computed);
            n_written += computed.len();
            Ok(())
        })
    }
}

impl Session for CandleSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        let threads = Arc::clone(&self.model.threads);
        threads.install(|| self.run(tokens, request.n_rows(tokens.len()), logits))
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.n_tokens = n_tokens;
        Ok(())
    }
}
