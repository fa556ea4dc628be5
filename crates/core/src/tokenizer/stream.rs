//! Tokens to text, one at a time.

use std::fmt;

use super::Tokenizer;
use super::steps::{Step, steps};
use crate::error::Result;
use crate::primitives::TokenId;

/// Text that grows token by token.
///
/// A piece never ends inside a character, and all pieces with that of [`finish`](Self::finish) are exactly the text of
/// [`Tokenizer::decode`], for any ids. Each push costs the same, however long the text is.
pub struct TokenStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    steps: Vec<Box<dyn Step>>,
}

impl TokenStream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let steps = steps(tokenizer.shared.decoders.as_deref());
        Self { tokenizer, skip_special, steps }
    }

    /// Takes the next token and returns the text that is now certain, often that of this token, sometimes none.
    ///
    /// # Errors
    /// [`Error::BadFile`](crate::Error::BadFile) when a decoder of the file fails.
    pub fn push(&mut self, id: TokenId) -> Result<String> {
        let Some(token) = self.tokenizer.token(id) else { return Ok(String::new()) };
        if self.skip_special && self.tokenizer.shared.inner.get_added_vocabulary().is_special_token(&token) {
            return Ok(String::new());
        }
        self.feed(0, vec![token])
    }

    /// Returns the text that was held back because another token might have changed it.
    ///
    /// # Errors
    /// [`Error::BadFile`](crate::Error::BadFile) when a decoder of the file fails.
    pub fn finish(mut self) -> Result<String> {
        let mut text = String::new();
        for i in 0..self.steps.len() {
            let mut tokens = Vec::new();
            self.steps[i].finish(&mut tokens).map_err(|e| self.tokenizer.failed("cannot decode the tokens", e))?;
            text.push_str(&self.feed(i + 1, tokens)?);
        }
        Ok(text)
    }

    fn feed(&mut self, from: usize, mut tokens: Vec<String>) -> Result<String> {
        for step in &mut self.steps[from..] {
            let mut next = Vec::with_capacity(tokens.len());
            for token in tokens {
                step.push(token, &mut next).map_err(|e| self.tokenizer.failed("cannot decode the tokens", e))?;
            }
            tokens = next;
        }
        Ok(tokens.concat())
    }
}

impl fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStream").field("skip_special", &self.skip_special).finish_non_exhaustive()
    }
}
