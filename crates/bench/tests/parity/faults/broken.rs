//! Models with faults that no file can have.

use std::sync::Arc;

use tandem_core::backend::{Probe, ProbePoint, Prober};
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
        let mut session = self.0.new_session(&options.clone().with_context_length(room))?;
        session.append(&[STOWAWAY], LogitsRequest::None)?;
        Ok(Box::new(ShiftedSession(session)))
    }

    fn prober(&self) -> Option<&dyn Prober> {
        self.0.prober().map(|_| self as &dyn Prober)
    }
}

impl Prober for Shifted {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let shifted = [&[STOWAWAY], tokens].concat();
        let probes = self.0.prober().map_or(Ok(Vec::new()), |inner| inner.probe(&shifted, points))?;
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

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        self.0.append_into(tokens, request, logits)
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

    fn prober(&self) -> Option<&dyn Prober> {
        self.0.prober()
    }
}

impl Session for LateSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn context_length(&self) -> usize {
        self.inner.context_length()
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        if let Some(last) = self.last {
            self.inner.append(&[last], LogitsRequest::None)?;
        }
        self.inner.append_into(tokens, request, logits)?;
        self.n_tokens += tokens.len();
        self.last = tokens.last().copied();
        Ok(())
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.inner.rewind(n_tokens)?;
        self.n_tokens = n_tokens;
        self.last = None;
        Ok(())
    }
}
