//! A sequence on candle-transformers: its tokens, and a copy of the model that has seen them.

use std::sync::Arc;

use tandem_core::{CancelToken, Error, Logits, LogitsRequest, Result, Session, SessionOptions, TokenId};

use super::ForeignLoaded;
use super::family::Family;
use crate::error::Doing;

/// A sequence on candle-transformers.
pub(crate) struct ForeignSession {
    model: Arc<ForeignLoaded>,
    tokens: Vec<TokenId>,
    /// The model with the cache of `tokens`; `None` when there are none, or after a failure, when it is made again.
    running: Option<Family>,
    context_length: usize,
    cancel: CancelToken,
}

impl ForeignSession {
    pub(crate) fn new(model: Arc<ForeignLoaded>, options: &SessionOptions) -> Result<Self> {
        let context_length = options.context_length(&model.info)?;
        Ok(Self { model, tokens: Vec::new(), running: None, context_length, cancel: options.cancel.clone() })
    }

    /// Appends `tokens` to the cache and gives the logits of the last. A cache in which only a part of them came is dropped, since nothing
    /// can be taken out of it.
    fn run(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>> {
        let mut family = match self.running.take() {
            Some(running) => running,
            None => {
                let mut fresh = self.model.family.clone();
                self.pass_over(&mut fresh, &self.tokens, 0)?;
                fresh
            }
        };
        let logits = self.pass_over(&mut family, tokens, self.tokens.len())?;
        self.running = Some(family);
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }

    /// The logits of the last of `tokens`, which follow `held` others; none when there are no tokens.
    fn pass_over(&self, family: &mut Family, tokens: &[TokenId], held: usize) -> Result<Vec<f32>> {
        let (mut done, mut logits) = (0, Vec::new());
        while done < tokens.len() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let n = family.pass(held + done).min(tokens.len() - done);
            logits = family.append(&tokens[done..done + n], held + done).doing("to run the model")?;
            done += n;
        }
        Ok(logits)
    }
}

impl Session for ForeignSession {
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
