//! A session together with the tokens that it holds, so that what is already in the cache is not computed again.

use crate::backend::{Capabilities, Capability, KvState, Logits, LogitsRequest, Model, Session, SessionOptions};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::primitives::TokenId;

/// Tokens that are prefilled in one run: large enough to be fast, small enough that a cancel is seen soon and that graphs which return
/// every position's logits do not need much memory for them.
pub const PREFILL_CHUNK: usize = 256;

/// The fewest tokens of a chunk of a prompt that has as many: engines compute few tokens in another order than many, so that their last bits
/// differ. With it a prompt has the same bits in any chunks.
pub const LEAST_CHUNK: usize = 9;

/// The fewest tokens of a chunk that is appended as a [part](crate::backend::Append::is_part): one more than the last has logits.
pub const LEAST_PART: usize = 2;

/// How many of the `rest` tokens of a prompt are computed next, where `wanted` are to be: never so many that fewer than [`LEAST_CHUNK`]
/// remain, unless the chunks of `most` that were asked for are too small for it.
pub fn next_chunk(rest: usize, wanted: usize, most: usize) -> usize {
    let least = if most < 2 * LEAST_CHUNK { 1 } else { LEAST_CHUNK };
    divided(rest, wanted, most, least)
}

/// As [`next_chunk`], of chunks that are appended as [parts](crate::backend::Append::is_part), and so may be of [`LEAST_PART`] tokens.
pub fn next_part(rest: usize, wanted: usize, most: usize) -> usize {
    divided(rest, wanted, most, LEAST_PART)
}

fn divided(rest: usize, wanted: usize, most: usize, least: usize) -> usize {
    let wanted = wanted.min(most).max(least);
    if wanted >= rest || rest < 2 * least { rest } else { wanted.min(rest - least) }
}

/// One sequence of tokens and its KV cache.
pub struct Sequence {
    session: Box<dyn Session>,
    tokens: Vec<TokenId>,
    logits: Logits,
    cancel: CancelToken,
    capabilities: Capabilities,
    vocab_size: usize,
}

impl Sequence {
    /// An empty sequence of `model`.
    ///
    /// # Errors
    /// As [`Model::new_session`].
    pub fn new(model: &dyn Model, options: &SessionOptions) -> Result<Self> {
        Ok(Self {
            session: model.new_session(options)?,
            tokens: Vec::new(),
            logits: Logits::default(),
            cancel: options.cancel.clone(),
            capabilities: model.info().capabilities,
            vocab_size: model.info().vocab_size,
        })
    }

    /// The tokens held.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The most tokens that it can hold.
    pub fn context_length(&self) -> usize {
        self.session.context_length()
    }

    /// What the model can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The token that ends this sequence's work from another thread.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Appends `tokens` in one run and returns the requested logits: see [`Session::append_into`].
    ///
    /// # Errors
    /// As [`Session::append_into`]; the sequence is unchanged.
    pub fn append(&mut self, tokens: &[TokenId], request: LogitsRequest) -> Result<&Logits> {
        self.session.append_into(tokens, request, &mut self.logits)?;
        self.tokens.extend_from_slice(tokens);
        Ok(&self.logits)
    }

    /// The logits of the last successful [`append`](Self::append) or [`advance`](Self::advance).
    pub fn logits(&self) -> &Logits {
        &self.logits
    }

    /// Forgets everything after the first `n_tokens`.
    ///
    /// # Errors
    /// As [`Session::rewind`].
    pub fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.session.rewind(n_tokens)?;
        self.tokens.truncate(n_tokens);
        Ok(())
    }

    /// The keys and values of the tokens held.
    ///
    /// # Errors
    /// As [`Session::export_kv`].
    pub fn export_kv(&self) -> Result<KvState> {
        self.session.export_kv(0..self.tokens.len())
    }

    /// Appends `tokens`, whose keys and values `state` has.
    ///
    /// # Errors
    /// As [`Session::import_kv`]; [`Error::InvalidOption`] for another number of tokens, [`Error::InvalidToken`] for an id outside the vocabulary.
    /// The sequence is unchanged.
    pub fn import_kv(&mut self, tokens: &[TokenId], state: &KvState) -> Result<()> {
        if tokens.len() != state.n_tokens {
            let problem = format!("there are keys and values of {}", state.n_tokens);
            return Err(Error::invalid_option("tokens", tokens.len(), problem));
        }
        if let Some(&id) = tokens.iter().find(|id| **id as usize >= self.vocab_size) {
            return Err(Error::InvalidToken { token: id, vocab_size: self.vocab_size });
        }
        self.session.import_kv(state)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Keeps what is common to the tokens held and `prompt`, and returns how many that is: they need no computing.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], and [`Error::ContextFull`] when `prompt` does not fit; the sequence is unchanged.
    pub fn start(&mut self, prompt: &[TokenId]) -> Result<usize> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > self.context_length() {
            return Err(Error::ContextFull { held: 0, asked: prompt.len(), max: self.context_length() });
        }
        self.rewind(self.reusable(prompt))?;
        Ok(self.tokens.len())
    }

    /// Computes the next tokens of `prompt`, whose beginning is held, up to about `chunk` of them. `true` when that was the last of them, whose
    /// [`logits`](Self::logits) are there now.
    ///
    /// # Errors
    /// [`Error::Cancelled`] before or within the chunk, and as [`Session::append_into`].
    pub fn advance(&mut self, prompt: &[TokenId], chunk: usize) -> Result<bool> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let rest = prompt.get(self.tokens.len()..).filter(|rest| !rest.is_empty()).ok_or(Error::EmptyPrompt)?;
        let n = next_chunk(rest.len(), chunk, chunk);
        let is_last = n == rest.len();
        self.append(&rest[..n], if is_last { LogitsRequest::Last(1) } else { LogitsRequest::None })?;
        Ok(is_last)
    }

    /// How many of the tokens held can stay. At least one token must be computed, for its logits.
    fn reusable(&self, prompt: &[TokenId]) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(held, next)| held == next).count();
        let kept = common.min(prompt.len() - 1);
        if self.capabilities.has(Capability::Rewind) || kept == self.tokens.len() { kept } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_more_tokens_than_logits() {
        for rest in LEAST_CHUNK..300 {
            for wanted in [0, 1, 2, 3, 5, 8, 40, 500] {
                let (mut left, mut parts) = (rest, Vec::new());
                while left > 0 {
                    parts.push(next_part(left, wanted, 256));
                    left -= parts[parts.len() - 1];
                }
                let most = wanted.clamp(LEAST_PART, 256) + LEAST_PART - 1;
                assert!(parts.iter().all(|n| (LEAST_PART..=most).contains(n)), "{rest} in {wanted}: {parts:?}");
            }
        }
    }

    #[test]
    fn chunks_are_whole_and_not_too_small() {
        for rest in 1..700 {
            for (wanted, most) in [(256, 256), (1, 256), (20, 256), (40, 256), (300, 256), (4, 4), (1, 1), (33, 33)] {
                let (mut left, mut chunks) = (rest, Vec::new());
                while left > 0 {
                    chunks.push(next_chunk(left, wanted, most));
                    left -= chunks[chunks.len() - 1];
                }
                let least = if most < 2 * LEAST_CHUNK { 1 } else { LEAST_CHUNK.min(rest) };
                assert!(chunks.iter().all(|n| *n >= least), "{rest} in chunks of {wanted}: {chunks:?}");
                assert!(chunks.iter().all(|n| *n <= wanted.min(most).max(2 * LEAST_CHUNK - 1)), "{rest} in {wanted}: {chunks:?}");
                if most < 2 * LEAST_CHUNK {
                    assert_eq!(chunks.len(), rest.div_ceil(wanted));
                }
            }
        }
    }
}
