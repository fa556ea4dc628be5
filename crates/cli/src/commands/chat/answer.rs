//! One answer, and its figures.

use anyhow::Result;
use tandem::{Event, FinishReason, Timings};

use super::Talk;
use crate::figures::{counted, line, per_second};
use crate::generation::reported_seed;

/// What is known of the last answer.
pub(super) struct Turn {
    timings: Timings,
    n_tokens: usize,
    reason: Option<FinishReason>,
    seed: Option<u64>,
}

impl Talk<'_> {
    pub(super) fn say(&mut self, message: &str) -> Result<()> {
        self.chat.options = self.generation.resolve(self.model)?;
        let seed = reported_seed(&self.chat.options);
        self.chat.cancel_token().reset();
        self.interrupts.arm();
        let answered = self.answer(message, seed);
        if !self.is_terminal {
            self.interrupts.disarm();
        }
        let turn = answered?;
        self.output.detail(&line(self.model.info(), &turn.timings, turn.n_tokens, turn.reason));
        if let Some(seed) = seed {
            self.output.detail(&format!("seed {seed}"));
        }
        self.remark_on_end(&turn);
        self.last = Some(turn);
        Ok(())
    }

    /// Shows the answer to `message` as it comes.
    fn answer(&mut self, message: &str, seed: Option<u64>) -> Result<Turn> {
        let mut progress = Some(self.output.progress("reading"));
        let mut reply = self.chat.say(message)?;
        let mut last = None;
        let mut failure = None;
        for event in reply.by_ref() {
            match event {
                Ok(Event::Prefilled { n_tokens, n_prompt }) => {
                    if let Some(progress) = &progress {
                        progress.say(format!("reading: {n_tokens} of {n_prompt} tokens"));
                    }
                }
                Ok(Event::Token { text, .. } | Event::Finished { text, .. }) if !text.is_empty() => {
                    progress.take();
                    self.output.model_text(&text)?;
                    last = text.chars().last();
                }
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        drop(progress);
        let turn = Turn { timings: reply.timings(), n_tokens: reply.tokens().len(), reason: reply.reason(), seed };
        drop(reply);
        if last.is_some_and(|last| last != '\n') {
            self.output.line("")?;
        }
        failure.map_or(Ok(turn), |error| Err(error.into()))
    }

    fn remark_on_end(&self, turn: &Turn) {
        let is_full = self.chat.n_cached() >= self.chat.context_length();
        match turn.reason {
            Some(FinishReason::Length) if is_full => {
                self.output.note("the context is full: `/clear` begins anew, `/save FILE` keeps what there is");
            }
            Some(FinishReason::Length) => {
                let max = self.chat.options.max_new_tokens.unwrap_or_default();
                self.output.note(&format!("the answer was ended at {max} tokens: `/set max_tokens N` allows more"));
            }
            Some(FinishReason::Cancelled) if turn.n_tokens == 0 => self.output.note("cancelled: your message was taken back"),
            Some(FinishReason::Cancelled) => self.output.note("cancelled: the answer stays as far as it came"),
            _ if turn.n_tokens <= 1 => self.output.note("the model said nothing"),
            _ => {}
        }
    }

    /// `/stats`.
    pub(super) fn stats(&self) -> Result<()> {
        let (used, max) = (self.chat.n_cached(), self.chat.context_length());
        let share = 100.0 * used as f64 / max as f64;
        self.output.line(&format!("context: {used} of {max} tokens in the cache ({share:.0} %)"))?;
        let Some(turn) = &self.last else { return self.output.line("answers: none yet") };
        let timings = &turn.timings;
        let n_prompt = timings.n_reused + timings.n_prefilled;
        let speed = counted(timings.n_prefilled, "token", per_second(timings.n_prefilled, timings.prefill));
        self.output
            .line(&format!("last prompt: {n_prompt} tokens: {} reused from the cache, computed {speed}", timings.n_reused))?;
        let speed = counted(turn.n_tokens, "token", per_second(timings.n_decoded, timings.decode));
        let reason = turn.reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        self.output.line(&format!("last answer: {speed}, the first after {} ms{reason}", timings.first_token.as_millis()))?;
        match turn.seed {
            Some(seed) => self.output.line(&format!("seed: {seed}")),
            None => Ok(()),
        }
    }
}
