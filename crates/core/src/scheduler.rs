//! Many sequences of one model at once: requests come in, each step of the engine serves several, events come out.
//!
//! A step computes the next token of every sequence that generates, and with them a piece of the prompts that came in, small enough that
//! nobody waits long for it (`scheduler::pace`). What a request gets is what it would get alone, to the token: the same sampler draws from the
//! same logits, and prompts are divided so that engines compute them alike: into chunks of at least
//! [`LEAST_CHUNK`](crate::sequence::LEAST_CHUNK), or into smaller [parts](crate::backend::Append::is_part) where the engine keeps their bits.
//! Sequences that ended stay for a while, so that prompts with the same beginning need not compute it again (`scheduler::parked`).
//!
//! It owns the model's time: one thread calls [`step`](Scheduler::step) as long as there is work. Adapted models are models of their own,
//! with a scheduler each.

mod options;
mod pace;
mod parked;
mod queue;
mod running;

use std::sync::Arc;
use std::time::Instant;

pub use self::options::{Priority, Request, Reuse, SchedulerOptions};
use self::pace::Pace;
use self::parked::ParkedSessions;
use self::queue::{Queue, Waiting};
use self::running::Running;
use crate::backend::{Append, Capability, Model, TokenId};
use crate::error::{Error, Result};
use crate::generate::{Continuation, Event, FinishReason, Timings};
use crate::tokenizer::Tokenizer;

/// The name of a request within its scheduler, by the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Something that happened to a request.
#[derive(Debug)]
pub struct Update {
    /// Which.
    pub id: RequestId,
    /// What; an error ends the request, and no other.
    pub event: Result<Event>,
    /// What came of it, with its last event.
    pub ended: Option<Ended>,
}

/// A request that ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ended {
    /// The tokens drawn, an end token included.
    pub tokens: Vec<TokenId>,
    /// Where the time went, from when its first tokens were computed. A step serves several requests, and its time is that of each.
    pub timings: Timings,
}

/// What a scheduler did so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchedulerFigures {
    /// Steps of the engine.
    pub n_steps: u64,
    /// Tokens that were computed after prompts.
    pub n_decoded: u64,
    /// Tokens of prompts that were computed.
    pub n_prefilled: u64,
    /// Tokens of prompts that others had computed.
    pub n_reused: u64,
    /// Requests that wait.
    pub n_waiting: usize,
    /// Requests that run.
    pub n_running: usize,
    /// Bytes that those may come to need for keys and values.
    pub reserved_bytes: u64,
    /// Sequences that ended and are kept.
    pub n_parked: usize,
    /// Bytes of them.
    pub parked_bytes: u64,
    /// Sequences that were given up for others, or because they did not fit.
    pub n_evicted: u64,
}

/// Serves many requests with one model.
pub struct Scheduler {
    model: Arc<dyn Model>,
    tokenizer: Tokenizer,
    options: SchedulerOptions,
    queue: Queue,
    running: Vec<Running>,
    parked: ParkedSessions,
    pace: Pace,
    next_id: u64,
    /// Counts the turns of prompts.
    turn: u64,
    figures: SchedulerFigures,
}

impl Scheduler {
    /// Without requests.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that does not generate, [`Error::InvalidOption`] for options that cannot be.
    pub fn new(model: Arc<dyn Model>, tokenizer: Tokenizer, options: SchedulerOptions) -> Result<Self> {
        if !model.info().capabilities.has(Capability::Generation) {
            return Err(model.info().unsupported(Capability::Generation.description()));
        }
        options.validate()?;
        let parked = if options.reuse == Reuse::Nothing { 0 } else { options.parked_bytes };
        Ok(Self {
            queue: Queue::new(options.max_waiting, options.max_wait),
            running: Vec::new(),
            parked: ParkedSessions::new(parked, model.info().kv_bytes_per_token as u64),
            pace: Pace::new(options.slowdown),
            model,
            tokenizer,
            options,
            next_id: 0,
            turn: 0,
            figures: SchedulerFigures::default(),
        })
    }

    /// The model that it serves.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// Takes a request. Nothing is computed before the next [`step`](Self::step).
    ///
    /// # Errors
    /// [`Error::Busy`] when as many wait as may, [`Error::ContextFull`] and [`Error::KvLimit`] for a prompt that never fits, and as
    /// [`Generation::new`](crate::generate::Generation::new).
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let Request { prompt, options, priority, cancel } = request;
        let context = self.context_length();
        if prompt.len() > context {
            return Err(Error::ContextFull { held: 0, asked: prompt.len(), max: context });
        }
        let n_tokens = options.max_new_tokens.map_or(context, |more| prompt.len().saturating_add(more).min(context));
        let needed = self.bytes(n_tokens);
        if let Some(limit) = self.options.kv_bytes.filter(|limit| needed > *limit) {
            return Err(Error::KvLimit { n_tokens, needed, limit });
        }
        let continuation = Continuation::new(&self.tokenizer, &prompt, options)?;
        let id = RequestId(self.next_id);
        self.queue.push(Waiting { id, continuation, n_tokens, priority, cancel, since: Instant::now() })?;
        self.next_id += 1;
        Ok(id)
    }

    /// Whether every request has ended.
    pub fn is_idle(&self) -> bool {
        self.queue.len() == 0 && self.running.is_empty()
    }

    /// What it did so far.
    pub fn figures(&self) -> SchedulerFigures {
        SchedulerFigures {
            n_waiting: self.queue.len(),
            n_running: self.running.len(),
            reserved_bytes: self.reserved_bytes(),
            n_parked: self.parked.len(),
            parked_bytes: self.parked.bytes(),
            n_evicted: self.parked.n_evicted(),
            ..self.figures
        }
    }

    /// One step of the engine, and what came of it: nothing when there is no work.
    pub fn step(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        self.queue.drop_ended(&mut updates);
        self.end_cancelled(&mut updates);
        self.admit(&mut updates);
        self.run(&mut updates);
        updates
    }

    fn context_length(&self) -> usize {
        self.options.context_length.unwrap_or(self.model.info().max_context)
    }

    /// Bytes of keys and values of `n_tokens`.
    fn bytes(&self, n_tokens: usize) -> u64 {
        (n_tokens as u64).saturating_mul(self.model.info().kv_bytes_per_token as u64)
    }

    fn reserved_bytes(&self) -> u64 {
        self.running.iter().map(|running| self.bytes(running.n_reserved())).sum()
    }

    /// Ends the running requests that were cancelled.
    fn end_cancelled(&mut self, updates: &mut Vec<Update>) {
        let mut i = 0;
        while i < self.running.len() {
            if self.running[i].is_cancelled() {
                self.end(i, FinishReason::Cancelled, updates);
            } else {
                i += 1;
            }
        }
    }

    /// Lets waiting requests run, as far as there is room, the first of the highest priority first. Nobody passes one that does not fit yet, or
    /// whose beginning is just being computed.
    fn admit(&mut self, updates: &mut Vec<Update>) {
        while self.running.len() < self.options.max_running {
            let Some(next) = self.queue.first() else { return };
            let needed = self.bytes(next.n_tokens);
            let is_full = self.options.kv_bytes.is_some_and(|max| self.reserved_bytes().saturating_add(needed) > max);
            if (is_full && !self.running.is_empty()) || self.is_being_computed(next.continuation.history()) {
                return;
            }
            let Some(next) = self.queue.pop() else { return };
            let id = next.id;
            match self.session(&next) {
                Ok(found) => {
                    self.figures.n_reused += found.0.n_tokens() as u64;
                    self.running.push(Running::new(next, found, self.model.info().capabilities));
                }
                Err(error) => updates.push(Update { id, event: Err(error), ended: Some(Ended::default()) }),
            }
        }
    }

    /// One append to all that have a turn.
    fn run(&mut self, updates: &mut Vec<Update>) {
        // A sequence whose context is full has drawn its last token.
        for i in (0..self.running.len()).rev() {
            if self.running[i].is_full() {
                self.end(i, FinishReason::Length, updates);
            }
        }
        let plan = self.plan();
        let n_decoding = plan.iter().zip(&self.running).filter(|(n, running)| **n > 0 && running.is_decoding()).count();
        let n_prompt = plan.iter().sum::<usize>() - n_decoding;
        if n_decoding + n_prompt == 0 {
            return;
        }
        let before = Instant::now();
        let served = self.running.iter_mut().zip(&plan).filter(|(_, n)| **n > 0);
        let mut appends: Vec<Append<'_>> = served.map(|(running, n)| running.append(*n)).collect();
        let mut results = self.model.append_batch(&mut appends).into_iter();
        let time = before.elapsed();
        self.pace.observe(n_decoding, n_prompt, time);
        self.figures.n_steps += 1;
        self.figures.n_decoded += n_decoding as u64;
        self.figures.n_prefilled += n_prompt as u64;
        let mut ends = Vec::new();
        for (i, n) in plan.into_iter().enumerate().filter(|(_, n)| *n > 0) {
            let running = &mut self.running[i];
            let outcome = results.next().unwrap_or(Err(Error::Cancelled)).and_then(|()| running.advance(n, time, updates));
            match outcome {
                Ok(None) => {}
                Ok(Some(reason)) => ends.push((i, Ok(reason))),
                Err(Error::Cancelled) => ends.push((i, Ok(FinishReason::Cancelled))),
                Err(error) => ends.push((i, Err(error))),
            }
        }
        for (i, end) in ends.into_iter().rev() {
            match end {
                Ok(reason) => self.end(i, reason, updates),
                Err(error) => {
                    let running = self.running.remove(i);
                    updates.push(Update { id: running.id(), event: Err(error), ended: Some(running.ended()) });
                }
            }
        }
    }

    /// How many tokens each running request is given in the next step: one that is decoding one, prompts in turns what the pace allows.
    fn plan(&mut self) -> Vec<usize> {
        let mut plan: Vec<usize> = self.running.iter().map(|running| usize::from(running.is_decoding())).collect();
        let n_decoding = plan.iter().sum();
        if self.pace.needs_a_step_of(n_decoding) {
            return plan;
        }
        let mut prompts: Vec<usize> = (0..plan.len()).filter(|i| plan[*i] == 0).collect();
        prompts.sort_by_key(|i| self.running[*i].turn());
        let mut left: Option<usize> = None;
        for i in prompts {
            let running = &mut self.running[i];
            let most = running.most_at_once();
            let allowed = left.unwrap_or_else(|| self.pace.chunk(n_decoding, most));
            let n = running.next_chunk(allowed);
            // The first is served in any case.
            if left.is_some() && n > allowed {
                continue;
            }
            plan[i] = n;
            left = Some(allowed.saturating_sub(n));
            self.turn += 1;
            running.took_turn(self.turn);
        }
        plan
    }

    /// Ends request number `i` and keeps its sequence for others.
    fn end(&mut self, i: usize, reason: FinishReason, updates: &mut Vec<Update>) {
        let mut running = self.running.remove(i);
        let event = running.finish(reason);
        updates.push(Update { id: running.id(), event, ended: Some(running.ended()) });
        self.parked.park(running.into_parked());
    }
}
