//! Sequences that ended, kept within a budget of memory for prompts with the same beginning. The least recently used go first.

use crate::backend::{Session, TokenId};
use crate::cancel::CancelToken;

/// The fewest tokens that are worth a copy.
pub(super) const LEAST_REUSED: usize = 16;

/// A sequence that ended.
pub(super) struct Parked {
    pub(super) session: Box<dyn Session>,
    /// What it holds.
    pub(super) tokens: Vec<TokenId>,
    /// How many of them have the bits that a prompt gives them.
    pub(super) n_exact: usize,
    /// That of the session.
    pub(super) cancel: CancelToken,
}

struct Entry {
    parked: Parked,
    bytes: u64,
    last_used: u64,
}

/// All of them.
pub(super) struct ParkedSessions {
    entries: Vec<Entry>,
    max_bytes: u64,
    bytes_per_token: u64,
    uses: u64,
    n_evicted: u64,
}

impl ParkedSessions {
    pub(super) fn new(max_bytes: u64, bytes_per_token: u64) -> Self {
        Self { entries: Vec::new(), max_bytes, bytes_per_token, uses: 0, n_evicted: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    pub(super) fn n_evicted(&self) -> u64 {
        self.n_evicted
    }

    /// Keeps `parked`, unless another holds all of it, and gives up what no longer fits.
    pub(super) fn park(&mut self, parked: Parked) {
        let of_tokens = size_of_val(&*parked.tokens) as u64;
        let bytes = (parked.session.reserved_tokens() as u64).saturating_mul(self.bytes_per_token).saturating_add(of_tokens);
        if bytes > self.max_bytes || parked.tokens.len() < LEAST_REUSED {
            return;
        }
        self.uses += 1;
        let covers = |entry: &Parked, other: &Parked| entry.tokens.starts_with(&other.tokens) && entry.n_exact >= other.n_exact;
        if let Some(entry) = self.entries.iter_mut().find(|entry| covers(&entry.parked, &parked)) {
            entry.last_used = self.uses;
            return;
        }
        self.entries.retain(|entry| !covers(&parked, &entry.parked));
        self.entries.push(Entry { parked, bytes, last_used: self.uses });
        while self.bytes() > self.max_bytes {
            let oldest = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.last_used);
            let Some((oldest, _)) = oldest else { return };
            self.entries.remove(oldest);
            self.n_evicted += 1;
        }
    }

    /// Each of them with its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Parked)> {
        self.entries.iter().enumerate().map(|(i, entry)| (i, &entry.parked))
    }

    /// Number `i`, which stays and counts as used.
    pub(super) fn used(&mut self, i: usize) -> &Parked {
        self.uses += 1;
        self.entries[i].last_used = self.uses;
        &self.entries[i].parked
    }

    /// Number `i`, which is gone then.
    pub(super) fn take(&mut self, i: usize) -> Parked {
        self.entries.remove(i).parked
    }
}
