//! Models with faults that no file can have.

use std::sync::Arc;

use tandem_core::backend::{HiddenStates, LoraAdapter, Probe, ProbePoint, TokenBatch};
use tandem_core::{Logits, LogitsRequest, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

/// Every token stands one position too late: behind a token that nobody gave.
pub(super) struct Shifted(pub(super) Arc<dyn Model>);

struct ShiftedSession(Box<dyn Session>);

const STOWAWAY: TokenId = 3;

impl Model for Shifted {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        let room = options.context_length.map(|n| n + 1).map(|n| n.min(self.info().max_context));
        let mut session = self.0.new_session(&SessionOptions { context_length: room, ..options.clone() })?;
        session.append(&[STOWAWAY], LogitsRequest::None)?;
        Ok(Box::new(ShiftedSession(session)))
    }

    fn encode(&self, batch: &TokenBatch) -> Result<HiddenStates> {
        self.0.encode(batch)
    }

    fn with_adapter(&self, adapter: &LoraAdapter) -> Result<Arc<dyn Model>> {
        self.0.with_adapter(adapter)
    }

    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let shifted = [&[STOWAWAY], tokens].concat();
        let probes = self.0.probe(&shifted, points)?;
        let without = |probe: Probe| Probe::new(probe.point, probe.values[probe.width..].to_vec(), tokens);
        Ok(probes.into_iter().map(without).collect())
    }
}

impl Session for ShiftedSession {
    fn n_tokens(&self) -> usize {
        self.0.n_tokens() - 1
    }

    fn context_length(&self) -> usize {
        self.0.context_length() - 1
    }

    fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        self.0.append(tokens, wanted)
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.0.rewind(n_tokens + 1)
    }
}

/// Right in one pass; each further pass begins behind a token that is held twice.
pub(super) struct LateCache(pub(super) Arc<dyn Model>);

struct LateSession {
    inner: Box<dyn Session>,
    n_tokens: usize,
    last: Option<TokenId>,
}

impl Model for LateCache {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn new_session(&self, _options: &SessionOptions) -> Result<Box<dyn Session>> {
        let inner = self.0.new_session(&SessionOptions::default())?;
        Ok(Box::new(LateSession { inner, n_tokens: 0, last: None }))
    }

    fn encode(&self, batch: &TokenBatch) -> Result<HiddenStates> {
        self.0.encode(batch)
    }

    fn with_adapter(&self, adapter: &LoraAdapter) -> Result<Arc<dyn Model>> {
        self.0.with_adapter(adapter)
    }

    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        self.0.probe(tokens, points)
    }
}

impl Session for LateSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn context_length(&self) -> usize {
        self.inner.context_length()
    }

    fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        if let Some(last) = self.last {
            self.inner.append(&[last], LogitsRequest::None)?;
        }
        let logits = self.inner.append(tokens, wanted)?;
        self.n_tokens += tokens.len();
        self.last = tokens.last().copied();
        Ok(logits)
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.inner.rewind(n_tokens)?;
        self.n_tokens = n_tokens;
        self.last = None;
        Ok(())
    }
}
