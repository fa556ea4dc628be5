//! A session on candle-transformers: its tokens, and a copy of the model whose cache holds them.

use std::sync::Arc;

use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

use super::TransformersShared;
use super::family::Family;
use crate::error::Doing;

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
        let context_length = options.context_length(&model.info)?;
        Ok(Self { model, tokens: Vec::new(), running: None, context_length, cancel: options.cancel.clone() })
    }

    /// Appends `tokens` to the cache and returns the logits of the last. A cache with only a part of them is dropped, since it cannot be
    /// rewound.
    fn run(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>> {
        let mut family = match self.running.take() {
            Some(running) => running,
            None => {
                let mut fresh = self.model.family.clone();
                self.forward_chunked(&mut fresh, &self.tokens, 0)?;
                fresh
            }
        };
        let logits = self.forward_chunked(&mut family, tokens, self.tokens.len())?;
        self.running = Some(family);
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }

    /// The logits of the last of `tokens`, which follow `held` others; empty without tokens.
    fn forward_chunked(&self, family: &mut Family, tokens: &[TokenId], held: usize) -> Result<Vec<f32>> {
        let (mut done, mut logits) = (0, Vec::new());
        while done < tokens.len() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let n = family.max_chunk(held + done).min(tokens.len() - done);
            logits = family.append(&tokens[done..done + n], held + done).doing("to run the model")?;
            done += n;
        }
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

    fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        self.model.info.check_append(self.tokens.len(), self.context_length, tokens, wanted)?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let threads = Arc::clone(&self.model.threads);
        let logits = threads.install(|| self.run(tokens))?;
        Ok(if wanted == LogitsRequest::None { Logits::none() } else { Logits::new(logits, self.model.info.vocab_size) })
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.model.info.check_rewind(self.tokens.len(), n_tokens)?;
        if n_tokens == 0 {
            self.tokens.clear();
            self.running = None;
        }
        Ok(())
    }
}
