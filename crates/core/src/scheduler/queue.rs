//! Requests that wait: the first of the highest priority goes first, and none waits longer than is allowed.

use std::time::{Duration, Instant};

use super::{Ended, Priority, RequestId, Update};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::generate::{Continuation, FinishReason};

/// A request that has not begun.
pub(super) struct Waiting {
    pub(super) id: RequestId,
    pub(super) continuation: Continuation,
    /// The tokens that it may come to hold.
    pub(super) n_tokens: usize,
    pub(super) priority: Priority,
    pub(super) cancel: CancelToken,
    pub(super) since: Instant,
}

/// All of them, in the order in which they came.
pub(super) struct Queue {
    waiting: Vec<Waiting>,
    max: usize,
    max_wait: Option<Duration>,
}

impl Queue {
    pub(super) fn new(max: usize, max_wait: Option<Duration>) -> Self {
        Self { waiting: Vec::new(), max, max_wait }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// # Errors
    /// [`Error::Busy`] when it is full.
    pub(super) fn push(&mut self, waiting: Waiting) -> Result<()> {
        if self.waiting.len() >= self.max {
            return Err(Error::Busy { problem: format!("{} requests wait already", self.waiting.len()) });
        }
        self.waiting.push(waiting);
        Ok(())
    }

    pub(super) fn first(&self) -> Option<&Waiting> {
        self.place().map(|i| &self.waiting[i])
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        self.place().map(|i| self.waiting.remove(i))
    }

    fn place(&self) -> Option<usize> {
        let of = |(i, waiting): (usize, &Waiting)| (std::cmp::Reverse(waiting.priority), i);
        self.waiting.iter().enumerate().min_by_key(|place| of(*place)).map(|(i, _)| i)
    }

    /// Drops those that were cancelled and those that waited too long.
    pub(super) fn drop_ended(&mut self, updates: &mut Vec<Update>) {
        let max_wait = self.max_wait;
        for mut ended in self
            .waiting
            .extract_if(.., |waiting| waiting.cancel.is_cancelled() || max_wait.is_some_and(|max| waiting.since.elapsed() > max))
        {
            let event = if ended.cancel.is_cancelled() {
                ended.continuation.finish(FinishReason::Cancelled)
            } else {
                Err(Error::Busy { problem: format!("the request waited longer than {:?}", max_wait.unwrap_or_default()) })
            };
            updates.push(Update { id: ended.id, event, ended: Some(Ended::default()) });
        }
    }
}
