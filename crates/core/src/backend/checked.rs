//! The checks that need no engine, around every loaded model: arguments before a call, shapes of results after it.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use super::{
    Append, AppliedAdapter, Capability, HiddenStates, KvState, LoadOptions, Logits, LogitsRequest, Model, ModelInfo, PooledRows,
    Probe, ProbePoint, Prober, Session, SessionOptions, TokenBatch,
};
use crate::adapter::ScaledAdapter;
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::primitives::{Device, TokenId};
use crate::remedy::Remedy;

/// `inner` behind the checks, for a model that did not come from [`Backend::load`](super::Backend::load).
pub fn checked(inner: Arc<dyn Model>) -> Arc<dyn Model> {
    Arc::new(CheckedModel { inner, adapted: None })
}

struct CheckedModel {
    inner: Arc<dyn Model>,
    adapted: Option<Adapted>,
}

/// What is known of a model with adapters.
struct Adapted {
    /// The model without.
    base: Arc<dyn Model>,
    info: ModelInfo,
}

struct CheckedSession {
    model: Arc<dyn Model>,
    inner: Box<dyn Session>,
}

impl CheckedModel {
    fn session(&self, inner: Box<dyn Session>) -> Box<dyn Session> {
        Box::new(CheckedSession { model: Arc::clone(&self.inner), inner })
    }
}

impl Model for CheckedModel {
    fn info(&self) -> &ModelInfo {
        self.adapted.as_ref().map_or_else(|| self.inner.info(), |adapted| &adapted.info)
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        self.info().require(Capability::Generation)?;
        Ok(self.session(self.inner.new_session(&resolved(options, self.info())?)?))
    }

    fn append_batch(&self, appends: &mut [Append<'_>]) -> Vec<Result<()>> {
        let mut results: Vec<Result<()>> = Vec::with_capacity(appends.len());
        let mut valid = Vec::new();
        for (i, append) in appends.iter_mut().enumerate() {
            let (tokens, request, is_part) = (append.tokens, append.request, append.is_part);
            let session: &mut dyn Any = append.session;
            let session = session.downcast_mut::<CheckedSession>().filter(|session| Arc::ptr_eq(&session.model, &self.inner));
            results.push(match session {
                Some(session) => {
                    session.check_append(tokens, request).and_then(|()| session.check_part(is_part, tokens, request)).map(|()| {
                        let end = session.n_tokens() + tokens.len();
                        let own = Append::new(&mut *session.inner, tokens, request, append.logits).with_part(is_part);
                        valid.push((i, end, own));
                    })
                }
                None => Err(Error::invalid_option("batch", i, "is a session of another model")),
            });
        }
        let (places, mut rows): (Vec<_>, Vec<_>) = valid.into_iter().map(|(i, end, row)| ((i, end), row)).unzip();
        let mut appended = self.inner.append_batch(&mut rows);
        appended.resize_with(places.len(), || Err(self.info().broken("returned fewer results than appends")));
        for (((i, end), row), result) in places.into_iter().zip(rows).zip(appended) {
            results[i] =
                result.and_then(|()| self.info().check_appended(&*row.session, end, row.request, row.tokens.len(), row.logits));
        }
        results
    }

    fn encode(&self, batch: &TokenBatch, cancel: &CancelToken) -> Result<HiddenStates> {
        let info = self.info();
        info.require(Capability::HiddenStates)?;
        info.check_batch(batch, cancel)?;
        let states = self.inner.encode(batch, cancel)?;
        let is_whole = states.lengths == batch.lengths()
            && states.hidden_size == info.hidden_size
            && states.values.len() == batch.ids().len() * states.hidden_size;
        if is_whole { Ok(states) } else { Err(info.broken("returned hidden states of another shape than the batch")) }
    }

    fn encode_pooled(&self, batch: &TokenBatch, cancel: &CancelToken) -> Result<PooledRows> {
        let info = self.info();
        info.require(Capability::PooledOutput)?;
        info.check_batch(batch, cancel)?;
        let rows = self.inner.encode_pooled(batch, cancel)?;
        let is_whole = info.pooled_output.as_ref().is_some_and(|output| output.width == rows.width)
            && rows.values.len() == batch.lengths().len() * rows.width;
        if is_whole { Ok(rows) } else { Err(info.broken("returned something else than a row for each sequence")) }
    }

    fn with_adapters(&self, adapters: &[ScaledAdapter]) -> Result<Arc<dyn Model>> {
        self.info().require(Capability::Adapters)?;
        if let Some(bad) = adapters.iter().find(|adapter| !adapter.scale.is_finite()) {
            return Err(Error::invalid_option("adapter scale", bad.scale, "is not finite"));
        }
        let base = self.adapted.as_ref().map_or(&self.inner, |adapted| &adapted.base);
        if adapters.is_empty() {
            return Ok(checked(Arc::clone(base)));
        }
        let inner = base.with_adapters(adapters)?;
        let mut info = inner.info().clone();
        info.adapters = adapters.iter().map(AppliedAdapter::of).collect();
        Ok(Arc::new(CheckedModel { inner, adapted: Some(Adapted { base: Arc::clone(base), info }) }))
    }

    fn prober(&self) -> Option<&dyn Prober> {
        self.inner.prober().map(|_| self as &dyn Prober)
    }
}

impl Prober for CheckedModel {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let info = self.info();
        info.check_tokens(0, info.max_context, tokens)?;
        let prober = self.inner.prober().ok_or_else(|| info.unsupported("probing"))?;
        let probes = prober.probe(tokens, points)?;
        match probes.iter().all(|probe| probe.values.len() == probe.width * tokens.len()) {
            true => Ok(probes),
            false => Err(info.broken("returned inner values that are not one row a token")),
        }
    }
}

impl CheckedSession {
    fn check_append(&self, tokens: &[TokenId], request: LogitsRequest) -> Result<()> {
        let info = self.model.info();
        info.check_tokens(self.inner.n_tokens(), self.inner.context_length(), tokens)?;
        if request.exceeds_last() { info.require(Capability::AllLogits) } else { Ok(()) }
    }

    fn check_part(&self, is_part: bool, tokens: &[TokenId], request: LogitsRequest) -> Result<()> {
        if !is_part {
            return Ok(());
        }
        self.model.info().require(Capability::PromptParts)?;
        match request.n_rows(tokens.len()) < tokens.len() {
            true => Ok(()),
            false => Err(Error::invalid_option("part", tokens.len(), "has no more tokens than rows of logits")),
        }
    }

    fn check_held(&self, n_tokens: usize) -> Result<()> {
        match self.n_tokens() {
            held if n_tokens > held => {
                Err(Error::invalid_option("n_tokens", n_tokens, format!("is more than the {held} tokens held")))
            }
            _ => Ok(()),
        }
    }
}

impl Session for CheckedSession {
    fn n_tokens(&self) -> usize {
        self.inner.n_tokens()
    }

    fn context_length(&self) -> usize {
        self.inner.context_length()
    }

    fn reserved_tokens(&self) -> usize {
        self.inner.reserved_tokens()
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        self.check_append(tokens, request)?;
        let end = self.n_tokens() + tokens.len();
        self.inner.append_into(tokens, request, logits)?;
        self.model.info().check_appended(&*self.inner, end, request, tokens.len(), logits)
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.check_held(n_tokens)?;
        if n_tokens > 0 && n_tokens < self.n_tokens() {
            self.model.info().require(Capability::Rewind)?;
        }
        self.inner.rewind(n_tokens)
    }

    fn fork(&self, n_tokens: usize, options: &SessionOptions) -> Result<Box<dyn Session>> {
        self.model.info().require(Capability::Fork)?;
        self.check_held(n_tokens)?;
        let options = resolved(options, self.model.info())?;
        if let Some(max) = options.context_length.filter(|max| n_tokens > *max) {
            return Err(Error::ContextFull { held: 0, asked: n_tokens, max });
        }
        Ok(Box::new(Self { model: Arc::clone(&self.model), inner: self.inner.fork(n_tokens, &options)? }))
    }

    fn export_kv(&self, positions: Range<usize>) -> Result<KvState> {
        self.model.info().require(Capability::KvTransfer)?;
        self.check_held(positions.end)?;
        if positions.is_empty() {
            return Err(Error::invalid_option("positions", format!("{positions:?}"), "contains no position"));
        }
        let state = self.inner.export_kv(positions.clone())?;
        let is_whole = state.is_whole() && (state.first_position, state.n_tokens) == (positions.start, positions.len());
        if is_whole { Ok(state) } else { Err(self.model.info().broken("returned keys and values of other positions")) }
    }

    fn import_kv(&mut self, state: &KvState) -> Result<()> {
        self.model.info().require(Capability::KvTransfer)?;
        let held = self.n_tokens();
        if state.first_position != held || state.n_tokens == 0 || !state.is_whole() {
            let problem = format!("do not continue a session that holds {held} tokens");
            let positions = state.first_position..state.first_position.saturating_add(state.n_tokens);
            return Err(Error::invalid_option("keys and values", format!("{positions:?}"), problem));
        }
        self.model.info().check_room(held, self.context_length(), state.n_tokens)?;
        self.inner.import_kv(state)
    }
}

impl ModelInfo {
    /// Whether `tokens` can follow the `held` of at most `max`.
    fn check_tokens(&self, held: usize, max: usize, tokens: &[TokenId]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let vocab_size = self.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::InvalidToken { token, vocab_size });
        }
        self.check_room(held, max, tokens.len())
    }

    /// Whether the model takes `batch`, unless `cancel` was set.
    fn check_batch(&self, batch: &TokenBatch, cancel: &CancelToken) -> Result<()> {
        batch.sequences().try_for_each(|sequence| self.check_tokens(0, self.max_context, sequence))?;
        self.check_types(batch)?;
        if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Whether `batch` has a type for each token, if it has any, and the model each of them. A model without types has type 0.
    fn check_types(&self, batch: &TokenBatch) -> Result<()> {
        let Some(types) = batch.types() else { return Ok(()) };
        if types.len() != batch.ids().len() {
            let problem = format!("are not one for each of {} tokens", batch.ids().len());
            return Err(Error::invalid_option("token types", types.len(), problem));
        }
        let n_types = self.n_token_types.max(1);
        match types.iter().find(|&&kind| kind as usize >= n_types) {
            Some(bad) if n_types == 1 => {
                Err(Error::invalid_option("token type", bad, format!("is not 0, and `{}` has no others", self.name)))
            }
            Some(bad) => {
                Err(Error::invalid_option("token type", bad, format!("is not below {n_types}, as those of `{}`", self.name)))
            }
            None => Ok(()),
        }
    }

    fn check_room(&self, held: usize, max: usize, asked: usize) -> Result<()> {
        if asked > max.saturating_sub(held) { Err(Error::ContextFull { held, asked, max }) } else { Ok(()) }
    }

    fn check_appended(
        &self,
        session: &dyn Session,
        end: usize,
        request: LogitsRequest,
        n_tokens: usize,
        logits: &mut Logits,
    ) -> Result<()> {
        let n_rows = request.n_rows(n_tokens);
        if n_rows == 0 {
            // What an earlier append left there is not this one's.
            logits.resize(0, self.vocab_size);
        }
        let is_right = session.n_tokens() == end && logits.values().len() == n_rows * self.vocab_size;
        if is_right { Ok(()) } else { Err(self.broken("returned logits of another shape than requested")) }
    }

    fn require(&self, capability: Capability) -> Result<()> {
        if self.capabilities.has(capability) { Ok(()) } else { Err(self.without(capability)) }
    }

    /// Whether enough of the model runs on its device.
    pub(super) fn check_device_share(&self, required: Option<f64>) -> Result<()> {
        let Some(required) = required.filter(|&required| self.device_share < required) else { return Ok(()) };
        let placed: Vec<String> = self.placement.iter().map(|p| format!("{} nodes on {}", p.n_nodes, p.provider)).collect();
        Err(Error::DeviceUnavailable {
            backend: self.backend,
            device: self.device,
            reason: format!("{:.3} of the nodes run on it and {required} are required: {}", self.device_share, placed.join(", ")),
            hint: [Remedy::LowerRequireDevice, Remedy::UseDevice(Device::Cpu), Remedy::ListOperators].into(),
        })
    }

    /// A backend broke the contract.
    fn broken(&self, problem: &str) -> Error {
        Error::Engine { backend: self.backend, doing: "to keep the contract".into(), source: format!("it {problem}").into() }
    }
}

impl LoadOptions {
    pub(super) fn validate(&self) -> Result<()> {
        match self.onnx.require_device {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(Error::invalid_option("require_device", share, "is not a share from 0 to 1"))
            }
            _ => Ok(()),
        }
    }
}

/// `options` with the context length that counts.
fn resolved(options: &SessionOptions, model: &ModelInfo) -> Result<SessionOptions> {
    let limit = model.max_context;
    match options.context_length.unwrap_or(limit) {
        0 => Err(Error::invalid_option("context", 0, "holds no token")),
        n if n > limit => Err(Error::invalid_option(
            "context",
            n,
            format!("is more than the {limit} tokens that `{}` holds on backend `{}`", model.name, model.backend),
        )),
        n => Ok(SessionOptions { context_length: Some(n), ..options.clone() }),
    }
}
