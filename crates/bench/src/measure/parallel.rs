//! Several sequences that are decoded together, a token of each in every step.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tandem_core::backend::{Append, Capability, Logits, LogitsRequest};
use tandem_core::{CancelToken, Model, Result, Session, SessionOptions, TokenId};

use super::{Greedy, milliseconds, prompt_token};

/// How many sequences are decoded at once, and after how many tokens of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Together {
    /// Sequences.
    pub n: usize,
    /// Tokens held before.
    pub depth: usize,
}

/// Tokens of several sequences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchDecode {
    /// Of how many, and where.
    pub together: Together,
    /// How many were decoded of each.
    pub n_tokens: usize,
    /// All of them, in milliseconds.
    pub ms: f64,
    /// Each step, of a token of every sequence, in milliseconds.
    pub step_ms: Vec<f64>,
}

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, depth } = self;
        let plural = if *n == 1 { "" } else { "s" };
        write!(f, "{n} sequence{plural} at depth {depth}")
    }
}

/// Decodes `n_tokens` of each of the sequences, which differ after the `depth` tokens that `held` begins with.
pub(super) fn decode(
    model: &dyn Model,
    held: &dyn Session,
    together: Together,
    n_tokens: usize,
    cancel: &CancelToken,
) -> Result<BatchDecode> {
    let Together { n, depth } = together;
    let depth = depth.max(1);
    let options = SessionOptions::new().with_context_length(depth + n_tokens).with_cancel(cancel.clone());
    let mut sessions = Vec::with_capacity(n);
    for _ in 0..n {
        sessions.push(if model.info().capabilities.has(Capability::Fork) {
            held.fork(depth, &options)?
        } else {
            let mut session = model.new_session(&options)?;
            let prompt: Vec<TokenId> = (0..depth).map(|i| prompt_token(i, model.info().vocab_size)).collect();
            session.append(&prompt, LogitsRequest::None)?;
            session
        });
    }
    let mut tokens: Vec<TokenId> = (0..n).map(|i| prompt_token(i, model.info().vocab_size)).collect();
    let (mut logits, mut choice) = (vec![Logits::default(); n], Greedy::new(model)?);
    let mut step_ms = Vec::with_capacity(n_tokens);
    for _ in 0..n_tokens {
        let started = Instant::now();
        let rows = sessions.iter_mut().zip(tokens.chunks(1)).zip(&mut logits);
        let mut appends: Vec<Append<'_>> =
            rows.map(|((session, tokens), logits)| Append::new(&mut **session, tokens, LogitsRequest::Last(1), logits)).collect();
        model.append_batch(&mut appends).into_iter().collect::<Result<()>>()?;
        for (token, logits) in tokens.iter_mut().zip(&logits) {
            *token = choice.of(logits)?;
        }
        step_ms.push(milliseconds(started));
    }
    Ok(BatchDecode { together, n_tokens, ms: step_ms.iter().sum(), step_ms })
}
