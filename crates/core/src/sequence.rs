//! A session together with the tokens that it holds, so that what is already in the cache is not computed again.

use crate::backend::{Capabilities, Logits, LogitsRequest, Model, Session, SessionOptions, TokenId};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};

/// Tokens that are prefilled in one run: large enough to be fast, small enough that a cancel is seen soon and that graphs which return
/// every position's logits do not need much memory for them.
pub const PREFILL_CHUNK: usize = 256;

/// One sequence of tokens and its KV cache.
pub struct Sequence {
    session: Box<dyn Session>,
    tokens: Vec<TokenId>,
    cancel: CancelToken,
    capabilities: Capabilities,
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
            cancel: options.cancel.clone(),
            capabilities: model.info().capabilities,
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

    /// Appends `tokens` in one run: see [`Session::append`].
    ///
    /// # Errors
    /// As [`Session::append`]; the sequence is unchanged.
    pub fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        let logits = self.session.append(tokens, wanted)?;
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
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

    /// Keeps what is common to the tokens held and `wanted`, and returns how many that is: they need no computing.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], and [`Error::ContextFull`] when `wanted` does not fit; the sequence is unchanged.
    pub fn start(&mut self, wanted: &[TokenId]) -> Result<usize> {
        if wanted.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if wanted.len() > self.context_length() {
            return Err(Error::ContextFull { held: 0, asked: wanted.len(), max: self.context_length() });
        }
        self.rewind(self.reusable(wanted))?;
        Ok(self.tokens.len())
    }

    /// Computes the next `chunk` tokens of `wanted`, whose beginning is held; with its last token come the logits.
    ///
    /// # Errors
    /// [`Error::Cancelled`] before or within the chunk, and as [`Session::append`].
    pub fn advance(&mut self, wanted: &[TokenId], chunk: usize) -> Result<Option<Logits>> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let rest = wanted.get(self.tokens.len()..).filter(|rest| !rest.is_empty()).ok_or(Error::EmptyPrompt)?;
        let n = rest.len().min(chunk.max(1));
        if n < rest.len() {
            self.append(&rest[..n], LogitsRequest::None)?;
            return Ok(None);
        }
        self.append(rest, LogitsRequest::Last).map(Some)
    }

    /// How many of the tokens held can stay. At least one token must be computed, for its logits.
    fn reusable(&self, wanted: &[TokenId]) -> usize {
        let common = self.tokens.iter().zip(wanted).take_while(|(held, wanted)| held == wanted).count();
        let kept = common.min(wanted.len() - 1);
        if self.capabilities.rewind || kept == self.tokens.len() { kept } else { 0 }
    }
}
