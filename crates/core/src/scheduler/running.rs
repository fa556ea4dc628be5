//! One running request, and the session that it begins with.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::parked::{LEAST_REUSED, Parked};
use super::queue::Waiting;
use super::{Ended, Priority, RequestId, Reuse, Scheduler, Update};
use crate::backend::{Append, Capabilities, Capability, Logits, LogitsRequest, Session, SessionOptions, TokenId};
use crate::cancel::CancelToken;
use crate::error::Result;
use crate::generate::{Continuation, Event, FinishReason};
use crate::sequence::{LEAST_CHUNK, next_chunk, next_part};

/// A request that has a session.
pub(super) struct Running {
    id: RequestId,
    session: Box<dyn Session>,
    continuation: Continuation,
    logits: Logits,
    /// The tokens that it may come to hold.
    n_tokens: usize,
    /// How many of the tokens that it began with have the bits of a prompt.
    n_exact: usize,
    /// Its prompt is appended in parts, which may be smaller than chunks.
    in_parts: bool,
    priority: Priority,
    /// When it last had a turn.
    turn: u64,
    /// That of the request.
    cancel: CancelToken,
    /// That of the session, which outlives the request.
    session_cancel: CancelToken,
    /// Passes a cancel on to the session while the request runs.
    _listener: Arc<dyn Fn() + Send + Sync>,
}

impl Running {
    /// `session` of a model with these `capabilities` holds a beginning of the prompt, of which `n_exact` tokens have the bits of a prompt.
    pub(super) fn new(
        waiting: Waiting,
        (session, session_cancel, n_exact): (Box<dyn Session>, CancelToken, usize),
        capabilities: Capabilities,
    ) -> Self {
        let Waiting { id, mut continuation, n_tokens, priority, cancel, .. } = waiting;
        continuation.start(session.n_tokens());
        let of_session = session_cancel.clone();
        let listener: Arc<dyn Fn() + Send + Sync> = Arc::new(move || of_session.cancel());
        cancel.listen(&listener);
        let mut running = Self {
            id,
            session,
            continuation,
            logits: Logits::default(),
            n_tokens,
            n_exact,
            in_parts: false,
            priority,
            turn: 0,
            cancel,
            session_cancel,
            _listener: listener,
        };
        running.in_parts = running.has_chunks() && capabilities.has(Capability::PromptParts);
        running
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    /// The tokens for which memory is spoken for.
    pub(super) fn n_reserved(&self) -> usize {
        self.n_tokens.max(self.session.reserved_tokens())
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Whether its prompt is read.
    pub(super) fn is_decoding(&self) -> bool {
        self.session.n_tokens() >= self.continuation.n_prompt()
    }

    /// Whether its next token has no place.
    pub(super) fn is_full(&self) -> bool {
        self.is_decoding() && self.session.n_tokens() == self.session.context_length()
    }

    /// Those of the highest priority first, then those that had a turn the longest ago.
    pub(super) fn turn(&self) -> (Reverse<Priority>, u64) {
        (Reverse(self.priority), self.turn)
    }

    pub(super) fn took_turn(&mut self, turn: u64) {
        self.turn = turn;
    }

    /// The most tokens of its prompt that are computed at once.
    pub(super) fn most_at_once(&self) -> usize {
        self.continuation.options().prefill_chunk.max(1)
    }

    /// How many tokens of its prompt are computed next, where `allowed` may be.
    pub(super) fn next_chunk(&self, allowed: usize) -> usize {
        let rest = self.continuation.n_prompt() - self.session.n_tokens();
        match self.in_parts {
            true => next_part(rest, allowed, self.most_at_once()),
            false => next_chunk(rest, allowed, self.most_at_once()),
        }
    }

    /// Its part of the next step: the `n` tokens that follow those held.
    pub(super) fn append(&mut self, n: usize) -> Append<'_> {
        let held = self.session.n_tokens();
        let is_last = held + n >= self.continuation.n_prompt();
        let request = if is_last { LogitsRequest::Last(1) } else { LogitsRequest::None };
        let is_part = self.in_parts && held < self.continuation.n_prompt();
        let tokens = &self.continuation.history()[held..held + n];
        Append::new(&mut *self.session, tokens, request, &mut self.logits).with_part(is_part)
    }

    /// The `n` tokens of its part were computed in `time`; why it ends, if it does.
    ///
    /// # Errors
    /// Those of [`Continuation::draw`].
    pub(super) fn advance(&mut self, n: usize, time: Duration, updates: &mut Vec<Update>) -> Result<Option<FinishReason>> {
        let held = self.session.n_tokens();
        let mut tell = |event| updates.push(Update { id: self.id, event: Ok(event), ended: None });
        if held <= self.continuation.n_prompt() {
            tell(self.continuation.prefilled(n, held, time));
            if held < self.continuation.n_prompt() {
                return Ok(None);
            }
            if self.continuation.is_prompt_only() {
                return Ok(Some(FinishReason::Length));
            }
        } else {
            self.continuation.decoded(time, 0);
        }
        let Some(row) = self.logits.last() else { return Ok(Some(FinishReason::Length)) };
        let (event, reason) = self.continuation.draw(row)?;
        tell(event);
        Ok(reason)
    }

    /// Its last event.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(super) fn finish(&mut self, reason: FinishReason) -> Result<Event> {
        self.continuation.finish(reason)
    }

    pub(super) fn ended(&self) -> Ended {
        Ended { tokens: self.continuation.tokens().to_vec(), timings: self.continuation.timings() }
    }

    /// What it holds, of which so many have the bits of a prompt.
    pub(super) fn held(&self) -> (&[TokenId], usize) {
        let held = &self.continuation.history()[..self.session.n_tokens()];
        let (n_prompt, n_reused) = (self.continuation.n_prompt(), self.continuation.timings().n_reused);
        (held, if self.has_chunks() && self.n_exact >= n_reused { held.len().min(n_prompt) } else { self.n_exact })
    }

    /// Whether its prompt has the bits of any other division: a short one is computed as generated tokens are.
    fn has_chunks(&self) -> bool {
        let n_computed = self.continuation.n_prompt() - self.continuation.timings().n_reused;
        n_computed >= LEAST_CHUNK && self.most_at_once() >= 2 * LEAST_CHUNK
    }

    pub(super) fn into_parked(self) -> Parked {
        let (tokens, n_exact) = self.held();
        let tokens = tokens.to_vec();
        self.session_cancel.reset();
        Parked { session: self.session, tokens, n_exact, cancel: self.session_cancel }
    }
}

/// The fewest tokens of another's prompt that are worth waiting for.
const LEAST_AWAITED: usize = 32;

/// A sequence that has the beginning of a prompt.
enum Source {
    Parked(usize),
    Running(usize),
}

impl Scheduler {
    /// A session for `waiting` with its cancel token, that holds as much of the prompt as others have computed, and how much of that has the
    /// bits of a prompt.
    pub(super) fn session(&mut self, waiting: &Waiting) -> Result<(Box<dyn Session>, CancelToken, usize)> {
        let cancel = CancelToken::new();
        let capabilities = self.model.info().capabilities;
        // One that can be copied needs no more room than its request.
        let context = if capabilities.has(Capability::Fork) { waiting.n_tokens } else { self.context_length() };
        let options = SessionOptions::new().with_context_length(context).with_cancel(cancel.clone());
        let prompt = waiting.continuation.history();
        let found = self.find(prompt, waiting.continuation.options().prefill_chunk);
        let Some((source, n, n_exact)) = found else { return Ok((self.model.new_session(&options)?, cancel, 0)) };
        let exact = n.min(n_exact);
        match source {
            Source::Running(i) => Ok((self.running[i].session.fork(n, &options)?, cancel, exact)),
            Source::Parked(i) => {
                let Parked { session, tokens, .. } = self.parked.used(i);
                let has_room = session.context_length() >= context && session.reserved_tokens() <= context;
                if capabilities.has(Capability::Fork) && !(has_room && tokens.len() == n) {
                    return Ok((session.fork(n, &options)?, cancel, exact));
                }
                let Parked { mut session, cancel, .. } = self.parked.take(i);
                session.rewind(n)?;
                Ok((session, cancel, exact))
            }
        }
    }

    /// Whether a running request is about to compute more of what `prompt` begins with than there is, enough to wait for it.
    pub(super) fn is_being_computed(&self, prompt: &[TokenId]) -> bool {
        let can_fork = self.model.info().capabilities.has(Capability::Fork);
        can_fork
            && self.running.iter().filter(|running| !running.is_decoding()).any(|running| {
                let (own, held) =
                    (&running.continuation.history()[..running.continuation.n_prompt()], running.session.n_tokens());
                self.usable(own, own.len(), prompt, running.most_at_once()) >= held + LEAST_AWAITED
            })
    }

    /// The sequence with the longest beginning that `prompt` can take, how long that is, and how much of the sequence has the bits of a
    /// prompt. At least one token is left to compute.
    fn find(&self, prompt: &[TokenId], chunk: usize) -> Option<(Source, usize, usize)> {
        let capabilities = self.model.info().capabilities;
        let (can_fork, can_rewind) = (capabilities.has(Capability::Fork), capabilities.has(Capability::Rewind));
        let common = |tokens: &[TokenId], n_exact: usize| self.usable(tokens, n_exact, prompt, chunk);
        let of_parked = self.parked.iter().filter_map(|(i, parked)| {
            let n = common(&parked.tokens, parked.n_exact);
            let is_whole = n == parked.tokens.len();
            (can_fork || can_rewind || is_whole).then_some((Source::Parked(i), n, parked.n_exact))
        });
        let of_running = self.running.iter().enumerate().filter(|_| can_fork).map(|(i, running)| {
            let (held, n_exact) = running.held();
            (Source::Running(i), common(held, n_exact), n_exact)
        });
        of_parked.chain(of_running).filter(|(_, n, _)| *n >= LEAST_REUSED).max_by_key(|(_, n, _)| *n)
    }

    /// How many of `tokens`, of which `n_exact` have the bits of a prompt, `prompt` can take, whose chunks have `chunk` tokens.
    fn usable(&self, tokens: &[TokenId], n_exact: usize, prompt: &[TokenId], chunk: usize) -> usize {
        let common = tokens.iter().zip(prompt).take_while(|(held, next)| held == next).count();
        match self.options.reuse {
            Reuse::Nothing => 0,
            // What is left is a chunk, as a whole prompt has it.
            Reuse::Prompts if chunk < 2 * LEAST_CHUNK => 0,
            Reuse::Prompts => common.min(n_exact).min(prompt.len().saturating_sub(LEAST_CHUNK)),
            Reuse::All => common.min(prompt.len() - 1),
        }
    }
}
