//! What is drawn after a prompt, token by token, whoever computes the logits: [`Generation`](super::Generation) for one sequence,
//! [`Scheduler`](crate::scheduler::Scheduler) for many.

use std::time::{Duration, Instant};

use super::{Event, FinishReason, GenerateOptions, Timings};
use crate::error::{Error, Result};
use crate::primitives::TokenId;
use crate::sampler::Sampler;
use crate::stop::StopMatcher;
use crate::tokenizer::{TokenStream, Tokenizer};

/// The tokens of one sequence, the sampler, and what decides when it ends.
pub(crate) struct Continuation {
    options: GenerateOptions,
    sampler: Option<Sampler>,
    /// `None` once its tail was taken.
    stream: Option<TokenStream>,
    stop: StopMatcher,
    /// The prompt and what was drawn.
    history: Vec<TokenId>,
    n_prompt: usize,
    started: Instant,
    timings: Timings,
}

impl Continuation {
    /// # Errors
    /// [`Error::InvalidOption`] for options that cannot be, [`Error::EmptyPrompt`].
    pub(crate) fn new(tokenizer: &Tokenizer, prompt: &[TokenId], options: GenerateOptions) -> Result<Self> {
        options.sampling.validate()?;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        Ok(Self {
            sampler: None,
            stream: Some(tokenizer.stream(true)),
            stop: StopMatcher::new(&options.stop)?,
            history: prompt.to_vec(),
            n_prompt: prompt.len(),
            options,
            started: Instant::now(),
            timings: Timings::default(),
        })
    }

    pub(crate) fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The prompt and what was drawn.
    pub(crate) fn history(&self) -> &[TokenId] {
        &self.history
    }

    pub(crate) fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// The tokens drawn so far, an end token included.
    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.history[self.n_prompt..]
    }

    pub(crate) fn timings(&self) -> Timings {
        self.timings
    }

    /// The first tokens are about to be computed; `n_reused` of the prompt need not be.
    pub(crate) fn start(&mut self, n_reused: usize) {
        self.started = Instant::now();
        self.timings.n_reused = n_reused;
    }

    /// `n` tokens of the prompt were computed in `time`, so that `n_tokens` are held.
    pub(crate) fn prefilled(&mut self, n: usize, n_tokens: usize, time: Duration) -> Event {
        self.timings.prefill += time;
        self.timings.n_prefilled += n;
        Event::Prefilled { n_tokens, n_prompt: self.n_prompt }
    }

    /// Whether no token is to be drawn.
    pub(crate) fn is_prompt_only(&self) -> bool {
        self.options.max_new_tokens == Some(0)
    }

    /// The tokens that may still be drawn.
    pub(crate) fn n_wanted(&self) -> usize {
        self.options.max_new_tokens.map_or(usize::MAX, |max| max.saturating_sub(self.tokens().len()))
    }

    /// A drawn token was computed in `time`, with `n_drafts` draft tokens behind it.
    pub(crate) fn decoded(&mut self, time: Duration, n_drafts: usize) {
        self.timings.engine_decode += time;
        self.timings.n_decoded += 1;
        self.timings.n_drafted += n_drafts;
    }

    /// A draft token was accepted: it is computed already.
    pub(crate) fn accepted(&mut self) {
        self.timings.n_decoded += 1;
        self.timings.n_accepted += 1;
    }

    /// Draws the next token from `logits`, `[vocab_size]`, and says whether the generation ends with it.
    ///
    /// # Errors
    /// [`Error::BadLogits`], and options that do not fit the vocabulary.
    pub(crate) fn draw(&mut self, logits: &[f32]) -> Result<(Event, Option<FinishReason>)> {
        let sampler = match &mut self.sampler {
            Some(sampler) => sampler,
            none => none.insert(Sampler::new(self.options.sampling.clone(), logits.len())?),
        };
        let n = self.history.len() - self.n_prompt;
        let sampled = sampler.sample(logits, &self.history, n as u64)?;
        self.history.push(sampled.id);
        let elapsed = self.started.elapsed();
        if n == 0 {
            self.timings.first_token = elapsed;
        }
        self.timings.decode = elapsed - self.timings.first_token;
        let (text, reason) = self.text_of(sampled.id, n + 1)?;
        Ok((Event::Token { id: sampled.id, text, logprob: sampled.logprob }, reason))
    }

    /// The text that became certain with token `id`, the `n`th, and whether the generation ends with it.
    fn text_of(&mut self, id: TokenId, n: usize) -> Result<(String, Option<FinishReason>)> {
        if self.stop.is_end(id) {
            return Ok((String::new(), Some(FinishReason::Stop)));
        }
        let piece = self.stream.as_mut().map_or(Ok(String::new()), |stream| stream.push(id))?;
        let step = self.stop.push(&piece);
        let full = self.options.max_new_tokens.is_some_and(|max| n >= max);
        let reason = if step.matched.is_some() { Some(FinishReason::Stop) } else { full.then_some(FinishReason::Length) };
        Ok((step.emit, reason))
    }

    /// The last event, with the text that was held back unless a stop string ended it.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn finish(&mut self, reason: FinishReason) -> Result<Event> {
        let tail = self.stream.take().map_or(Ok(String::new()), TokenStream::finish)?;
        let mut text = self.stop.push(&tail).emit;
        text += &self.stop.finish().emit;
        Ok(Event::Finished { reason, text })
    }
}
