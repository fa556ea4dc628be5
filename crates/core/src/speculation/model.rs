//! A small model that drafts for a large one.

use super::Drafter;
use crate::backend::{LogitsRequest, Model, SessionOptions};
use crate::error::{Error, Result};
use crate::primitives::TokenId;
use crate::sequence::{PREFILL_CHUNK, Sequence};

/// Drafts the tokens that another model finds most probable: a smaller one of the same tokenizer.
pub struct DraftModel {
    sequence: Sequence,
    /// Ids that the model it drafts for has.
    vocab_size: usize,
}

impl DraftModel {
    /// `model` drafts for one of `vocab_size` tokens, whose first ids mean the same.
    ///
    /// # Errors
    /// As [`Model::new_session`].
    pub fn new(model: &dyn Model, vocab_size: usize, options: &SessionOptions) -> Result<Self> {
        Ok(Self { sequence: Sequence::new(model, options)?, vocab_size })
    }

    /// The most probable tokens after `history`.
    fn most_probable(&mut self, history: &[TokenId], n: usize) -> Result<Vec<TokenId>> {
        self.sequence.start(history)?;
        while !self.sequence.advance(history, PREFILL_CHUNK)? {}
        let mut draft = Vec::with_capacity(n);
        while draft.len() < n {
            let logits = self.sequence.logits().last().unwrap_or_default();
            let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
            // Padding at the end of a vocabulary means nothing to the other model.
            let Some((id, _)) = best.filter(|(id, _)| *id < self.vocab_size) else { break };
            draft.push(id as TokenId);
            if draft.len() < n && self.sequence.tokens().len() < self.sequence.context_length() {
                self.sequence.append(&[id as TokenId], LogitsRequest::Last(1))?;
            } else {
                break;
            }
        }
        Ok(draft)
    }
}

impl Drafter for DraftModel {
    fn draft(&mut self, history: &[TokenId], n: usize) -> Result<Vec<TokenId>> {
        match self.most_probable(history, n) {
            // The other model may hold more.
            Err(Error::ContextFull { .. }) => Ok(Vec::new()),
            other => other,
        }
    }
}
