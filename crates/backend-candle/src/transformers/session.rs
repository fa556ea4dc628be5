//! A session on candle-transformers: its tokens, and a copy of the model whose cache holds them.

use std::sync::Arc;

use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

use super::TransformersShared;
use super::family::Family;
use crate::error::Doing;

const DOING: &str = "to run the model";

/// A session on candle-transformers.
pub(crate) struct TransformersSession {
    model: Arc<TransformersShared>,
    tokens: Vec<TokenId>,
    /// The model whose cache holds `tokens`; `None` without tokens, and after a failure until it is recomputed.
    running: Option<Family>,
    context_length: usize,
    cancel: CancelToken,
}

impl TransformersSession {
    pub(crate) fn new(model: Arc<TransformersShared>, options: &SessionOptions) -> Result<Self> {
        let context_length = options.context_length.unwrap_or(model.info.max_context);
        Ok(Self { model, tokens: Vec::new(), running: None, context_length, cancel: options.cancel.clone() })
    }

    /// Appends `tokens` to the cache, all at once as users of candle-transformers do, and returns the logits of the last. After a failure
    /// the cache is dropped, since it cannot be rewound.
    fn run(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>> {
        let mut family = match self.running.take() {
            Some(running) => running,
            None => {
                let mut fresh = self.model.family.clone();
                if !self.tokens.is_empty() {
                    fresh.append(&self.tokens, 0).doing(DOING)?;
                }
                fresh
            }
        };
        let logits = family.append(tokens, self.tokens.len()).doing(DOING)?;
        self.running = Some(family);
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }
}

impl Session for TransformersSession {
    fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let threads = Arc::clone(&self.model.threads);
        let last = threads.install(|| self.run(tokens))?;
        if request != LogitsRequest::None {
            logits.resize(1, self.model.info.vocab_size).copy_from_slice(&last);
        }
        Ok(())
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        if n_tokens == 0 {
            self.tokens.clear();
            self.running = None;
        }
        Ok(())
    }
}
