//! What a scheduler may hold, and what it is asked.

use std::time::Duration;

use crate::backend::TokenId;
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::generate::GenerateOptions;

/// Limits of a [`Scheduler`](super::Scheduler).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SchedulerOptions {
    /// The most requests that run at once.
    pub max_running: usize,
    /// The most that wait.
    pub max_waiting: usize,
    /// The longest that one waits; `None` without a limit.
    pub max_wait: Option<Duration>,
    /// The most bytes of keys and values that running requests may come to need, each with all the tokens that it asks for; `None` without a
    /// limit.
    pub kv_bytes: Option<u64>,
    /// The most tokens of a sequence; `None` is what the model holds.
    pub context_length: Option<usize>,
    /// The most bytes of sequences that ended and are kept for prompts with the same beginning.
    pub parked_bytes: u64,
    /// What of them is reused.
    pub reuse: Reuse,
    /// How much longer, at the most, a step may take for the prompts that come in while others generate, as a factor.
    pub slowdown: f64,
}

/// Which tokens of other sequences a prompt takes instead of computing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// None.
    Nothing,
    /// Those that were computed as a prompt, all but the last few, so that the request gets what it gets alone to the bit.
    Prompts,
    /// All, with those that were generated: engines compute those in another order, so that logits differ in their last bits.
    All,
}

/// Which request goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After all others.
    Low,
    /// As most.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// What one asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt, of at least one token.
    pub prompt: Vec<TokenId>,
    /// How to generate.
    pub options: GenerateOptions,
    /// Which goes first.
    pub priority: Priority,
    /// Ends this request and no other, from any thread.
    pub cancel: CancelToken,
}

impl Request {
    /// With the usual priority.
    pub fn new(prompt: Vec<TokenId>, options: GenerateOptions) -> Self {
        Self { prompt, options, priority: Priority::default(), cancel: CancelToken::new() }
    }

    /// Sets [`priority`](Self::priority).
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Sets [`cancel`](Self::cancel).
    #[must_use]
    pub fn with_cancel(self, cancel: CancelToken) -> Self {
        Self { cancel, ..self }
    }
}

impl SchedulerOptions {
    /// For up to `max_running` at once, without other limits than 256 MiB of sequences that ended.
    pub fn new(max_running: usize) -> Self {
        Self {
            max_running,
            max_waiting: usize::MAX,
            max_wait: None,
            kv_bytes: None,
            context_length: None,
            parked_bytes: 256 << 20,
            reuse: Reuse::Prompts,
            slowdown: 2.0,
        }
    }

    /// Sets [`max_waiting`](Self::max_waiting) and [`max_wait`](Self::max_wait).
    #[must_use]
    pub fn with_queue(self, max_waiting: usize, max_wait: Option<Duration>) -> Self {
        Self { max_waiting, max_wait, ..self }
    }

    /// Sets [`kv_bytes`](Self::kv_bytes).
    #[must_use]
    pub fn with_kv_bytes(self, kv_bytes: Option<u64>) -> Self {
        Self { kv_bytes, ..self }
    }

    /// For a machine with `usable` bytes of memory: running requests get at most three quarters of them, sequences that ended at most an
    /// eighth, and the rest is for the work itself.
    #[must_use]
    pub fn with_memory(self, usable: u64) -> Self {
        let kv_bytes = usable / 4 * 3;
        let kv_bytes = self.kv_bytes.map_or(kv_bytes, |bytes| bytes.min(kv_bytes));
        Self { kv_bytes: Some(kv_bytes), parked_bytes: self.parked_bytes.min(usable / 8), ..self }
    }

    /// Sets [`context_length`](Self::context_length).
    #[must_use]
    pub fn with_context_length(self, context_length: Option<usize>) -> Self {
        Self { context_length, ..self }
    }

    /// Sets [`reuse`](Self::reuse) and [`parked_bytes`](Self::parked_bytes).
    #[must_use]
    pub fn with_reuse(self, reuse: Reuse, parked_bytes: u64) -> Self {
        Self { reuse, parked_bytes, ..self }
    }

    /// Sets [`slowdown`](Self::slowdown).
    #[must_use]
    pub fn with_slowdown(self, slowdown: f64) -> Self {
        Self { slowdown, ..self }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.max_running == 0 {
            return Err(Error::invalid_option("parallel", 0, "is less than 1"));
        }
        if !(self.slowdown > 1.0 && self.slowdown.is_finite()) {
            return Err(Error::invalid_option("slowdown", self.slowdown, "is not above 1"));
        }
        Ok(())
    }
}
