//! Generation: an iterator of events over a [`Sequence`].

mod continuation;

use std::time::{Duration, Instant};

pub(crate) use self::continuation::Continuation;
use crate::backend::{Capability, LogitsRequest};
use crate::error::{Error, Result};
use crate::named::named;
use crate::primitives::TokenId;
use crate::sampler::SamplingOptions;
use crate::sequence::{PREFILL_CHUNK, Sequence};
use crate::speculation::{Drafter, Pace};
use crate::stop::StopOptions;
use crate::tokenizer::Tokenizer;

/// How to generate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// The most tokens to generate; `None` goes on to the end of the context.
    pub max_new_tokens: Option<usize>,
    /// How a token is drawn.
    pub sampling: SamplingOptions,
    /// What ends the text.
    pub stop: StopOptions,
    /// Tokens prefilled in one run.
    pub prefill_chunk: usize,
}

impl GenerateOptions {
    /// Options with the usual prefill chunk.
    pub fn new(max_new_tokens: Option<usize>, sampling: SamplingOptions, stop: StopOptions) -> Self {
        Self { max_new_tokens, sampling, stop, prefill_chunk: PREFILL_CHUNK }
    }

    /// Sets [`sampling`](Self::sampling).
    #[must_use]
    pub fn with_sampling(self, sampling: SamplingOptions) -> Self {
        Self { sampling, ..self }
    }

    /// Sets [`prefill_chunk`](Self::prefill_chunk).
    #[must_use]
    pub fn with_prefill_chunk(self, prefill_chunk: usize) -> Self {
        Self { prefill_chunk, ..self }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// The most tokens that were asked for, or the end of the context.
    Length,
    /// The caller ended it.
    Cancelled,
}

named!(FinishReason, "finish_reason", { Stop: "stop", Length: "length", Cancelled: "cancelled" });

/// What a generation reports.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A part of the prompt entered the cache.
    Prefilled {
        /// Tokens held by now.
        n_tokens: usize,
        /// Tokens of the prompt.
        n_prompt: usize,
    },
    /// A token was drawn.
    Token {
        /// Its id.
        id: TokenId,
        /// The text that became certain with it; empty while a character or a possible stop string is incomplete.
        text: String,
        /// Natural logarithm of its probability under the model, before any option; when it was asked for.
        logprob: Option<f64>,
    },
    /// The end. No event follows.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that was held back and is certain now.
        text: String,
    },
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Prompt tokens found in the cache.
    pub n_reused: usize,
    /// Prompt tokens computed.
    pub n_prefilled: usize,
    /// Time for them.
    pub prefill: Duration,
    /// From the start to the first token.
    pub first_token: Duration,
    /// Tokens computed after the first.
    pub n_decoded: usize,
    /// Draft tokens of speculative decoding: see [`speculation`](crate::speculation).
    pub n_drafted: usize,
    /// Those of them that were accepted, which are among `n_decoded`.
    pub n_accepted: usize,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// Time within `decode` that the engine took; the rest is sampling, text and bookkeeping.
    pub engine_decode: Duration,
}

/// A running generation.
pub struct Generation<'a> {
    sequence: &'a mut Sequence,
    continuation: Continuation,
    drafter: Option<(&'a mut dyn Drafter, Pace)>,
    state: State,
}

enum State {
    Start,
    Prefill,
    /// A token is to be drawn from row `index` of the sequence's logits. It holds `drafts` beyond what was drawn, of which those before
    /// `index` were right.
    Sample {
        drafts: Vec<TokenId>,
        index: usize,
    },
    /// The last token drawn is not in the cache yet.
    Decode,
    /// The last event is still to come.
    Finish(FinishReason),
    Done,
}

impl<'a> Generation<'a> {
    /// A generation that continues `prompt`, of which the sequence may hold a beginning already.
    ///
    /// Nothing is computed before the first [`next`](Iterator::next).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for options that cannot be, [`Error::EmptyPrompt`].
    pub fn new(sequence: &'a mut Sequence, tokenizer: &Tokenizer, prompt: &[TokenId], options: GenerateOptions) -> Result<Self> {
        let continuation = Continuation::new(tokenizer, prompt, options)?;
        Ok(Self { sequence, continuation, drafter: None, state: State::Start })
    }

    /// Decodes speculatively: tokens that `drafter` drafts are computed together. The output is the same as without.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model without [`Capability::AllLogits`] or [`Capability::Rewind`].
    pub fn with_drafter(mut self, drafter: &'a mut dyn Drafter) -> Result<Self> {
        for needed in [Capability::AllLogits, Capability::Rewind] {
            if !self.sequence.capabilities().has(needed) {
                return Err(Error::missing_capability(needed.description()));
            }
        }
        self.drafter = Some((drafter, Pace::default()));
        Ok(self)
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.continuation.timings()
    }

    /// The tokens drawn so far, an end token included.
    pub fn tokens(&self) -> &[TokenId] {
        self.continuation.tokens()
    }

    fn step(&mut self) -> Result<Option<Event>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Start => {
                let n_reused = self.sequence.start(self.continuation.history())?;
                self.continuation.start(n_reused);
                self.state = State::Prefill;
                self.step()
            }
            State::Prefill => self.prefill().map(Some),
            State::Sample { drafts, index } => self.sample(drafts, index).map(Some),
            State::Decode => self.decode().map(Some),
            State::Finish(reason) => self.finish(reason).map(Some),
            State::Done => Ok(None),
        }
    }

    fn prefill(&mut self) -> Result<Event> {
        let before = Instant::now();
        let held = self.sequence.tokens().len();
        let is_last = self.sequence.advance(self.continuation.history(), self.continuation.options().prefill_chunk)?;
        let n_tokens = self.sequence.tokens().len();
        self.state = match is_last {
            true if self.continuation.is_prompt_only() => State::Finish(FinishReason::Length),
            true => State::Sample { drafts: Vec::new(), index: 0 },
            false => State::Prefill,
        };
        Ok(self.continuation.prefilled(n_tokens - held, n_tokens, before.elapsed()))
    }

    fn decode(&mut self) -> Result<Event> {
        let history = self.continuation.history();
        if self.sequence.tokens().len() == self.sequence.context_length() {
            return self.finish(FinishReason::Length);
        }
        if self.sequence.cancel_token().is_cancelled() {
            return Err(Error::Cancelled);
        }
        let last = history[history.len() - 1];
        let drafts = self.draft()?;
        let before = Instant::now();
        let tokens: Vec<TokenId> = [last].iter().chain(&drafts).copied().collect();
        self.sequence.append(&tokens, LogitsRequest::Last(tokens.len()))?;
        self.continuation.decoded(before.elapsed(), drafts.len());
        self.sample(drafts, 0)
    }

    /// Guesses what follows what was drawn, as far as there is room for it.
    fn draft(&mut self) -> Result<Vec<TokenId>> {
        let Some((drafter, pace)) = &mut self.drafter else { return Ok(Vec::new()) };
        let room = self.sequence.context_length() - self.sequence.tokens().len() - 1;
        let n = pace.next().min(room).min(self.continuation.n_wanted().saturating_sub(1));
        if n == 0 { Ok(Vec::new()) } else { drafter.draft(self.continuation.history(), n) }
    }

    fn sample(&mut self, drafts: Vec<TokenId>, index: usize) -> Result<Event> {
        let logits = self.sequence.logits();
        if index >= logits.n_rows() {
            return self.finish(FinishReason::Length);
        }
        let drawn = self.continuation.draw(logits.row(index));
        let is_right = drawn.is_ok() && drafts.get(index) == self.continuation.history().last();
        if is_right {
            self.continuation.accepted();
            if matches!(drawn, Ok((_, None))) {
                self.state = State::Sample { drafts, index: index + 1 };
                return drawn.map(|(event, _)| event);
            }
        }
        // What was wrong is not held.
        if index < drafts.len() {
            self.sequence.rewind(self.sequence.tokens().len() - (drafts.len() - index))?;
        }
        if let Some((_, pace)) = self.drafter.as_mut().filter(|_| !drafts.is_empty()) {
            pace.learn(drafts.len(), index + usize::from(is_right));
        }
        let (event, reason) = drawn?;
        self.state = reason.map_or(State::Decode, State::Finish);
        Ok(event)
    }

    fn finish(&mut self, reason: FinishReason) -> Result<Event> {
        self.state = State::Done;
        self.continuation.finish(reason)
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Err(Error::Cancelled) => Some(self.finish(FinishReason::Cancelled)),
            other => other.transpose(),
        }
    }
}
