//! A language model that is asked whether a document answers: the logit of "yes" less that of "no".

use super::RerankOptions;
use super::config::Answers;
use super::pairs::{TemplateTokens, TokenizedPair, of_each};
use crate::backend::{Capability, LogitsRequest, Model, SessionOptions};
use crate::error::{Error, Result};
use crate::primitives::TokenId;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

pub(super) struct PromptedPairs {
    tokenizer: Tokenizer,
    tokens: TemplateTokens,
    answers: Answers,
}

impl PromptedPairs {
    pub(super) fn new(tokenizer: Tokenizer, template: ChatTemplate, answers: Answers, max_tokens: usize) -> Result<Self> {
        let tokens = TemplateTokens::new(&tokenizer, template, max_tokens)?;
        Ok(Self { tokenizer, tokens, answers })
    }

    pub(super) fn tokenize(&self, query: &str, documents: &[&str], options: &RerankOptions) -> Result<Vec<TokenizedPair>> {
        of_each(documents, |document| self.tokens.of(&self.tokenizer, query, document, options))
    }

    /// What all pairs begin with, the instruction and the query, is computed once.
    pub(super) fn logits(&self, model: &dyn Model, pairs: &[TokenizedPair], options: &RerankOptions) -> Result<Vec<f32>> {
        let vocab_size = model.info().vocab_size;
        let highest = self.answers.yes.max(self.answers.no);
        if highest as usize >= vocab_size {
            return Err(Error::InvalidToken { token: highest, vocab_size });
        }
        let Some(longest) = pairs.iter().map(|pair| pair.ids.len()).max() else { return Ok(Vec::new()) };
        let session = SessionOptions::new().with_context_length(longest).with_cancel(options.cancel.clone());
        let mut session = model.new_session(&session)?;
        // Without it a session goes back to its beginning only.
        let n_shared = if model.info().capabilities.has(Capability::Rewind) { shared(pairs) } else { 0 };
        if n_shared > 0 {
            session.append(&pairs[0].ids[..n_shared], LogitsRequest::None)?;
        }
        let mut logits = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let last = session.append(&pair.ids[n_shared..], LogitsRequest::Last(1))?;
            let of = |token: TokenId| last.values()[token as usize];
            logits.push(of(self.answers.yes) - of(self.answers.no));
            session.rewind(n_shared)?;
        }
        Ok(logits)
    }
}

/// How many tokens all pairs begin with, less than any of them has.
fn shared(pairs: &[TokenizedPair]) -> usize {
    let first = &pairs[0].ids;
    let with = |pair: &TokenizedPair| {
        let n = first.iter().zip(&pair.ids).take_while(|(one, other)| one == other).count();
        n.min(pair.ids.len().saturating_sub(1))
    };
    pairs.iter().map(with).min().unwrap_or(0)
}
