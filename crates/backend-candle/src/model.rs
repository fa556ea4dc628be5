//! A loaded model.

use std::sync::Arc;

use tandem_core::adapter::{AdapterSum, ScaledAdapter};
use tandem_core::backend::{Append, Capability, HiddenStates, Probe, ProbePoint, Prober, Stage, TokenBatch};
use tandem_core::{CancelToken, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

use crate::error::Doing;
use crate::loaded::Loaded;
use crate::probe::probe;
use crate::session::{CandleSession, MAX_PASS, append_batch};

/// A model on candle.
pub(crate) struct CandleModel {
    pub(crate) loaded: Arc<Loaded>,
}

impl CandleModel {
    /// The hidden states of a sequence of more than [`MAX_PASS`].
    fn encode_long(&self, sequence: &[TokenId], cancel: &CancelToken, out: &mut Vec<f32>) -> Result<()> {
        let options = SessionOptions::new().with_context_length(sequence.len()).with_cancel(cancel.clone());
        let mut session = CandleSession::unrounded(Arc::clone(&self.loaded), &options)?;
        session.forward_chunked(sequence, sequence.len(), &mut |states| self.loaded.push_normed(states, out))
    }
}

impl Model for CandleModel {
    fn info(&self) -> &ModelInfo {
        &self.loaded.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(CandleSession::new(Arc::clone(&self.loaded), options)?))
    }

    fn append_batch(&self, appends: &mut [Append<'_>]) -> Vec<Result<()>> {
        self.loaded.threads.run(|| append_batch(&self.loaded, appends))
    }

    fn encode(&self, batch: &TokenBatch, cancel: &CancelToken) -> Result<HiddenStates> {
        let info = &self.loaded.info;
        let mut values = Vec::with_capacity(batch.ids().len() * info.hidden_size);
        self.loaded.threads.run(|| {
            let mut together: Vec<&[TokenId]> = Vec::new();
            for sequence in batch.sequences() {
                let n: usize = together.iter().map(|sequence| sequence.len()).sum();
                if n > 0 && n + sequence.len() > MAX_PASS {
                    self.loaded.encode(&std::mem::take(&mut together), cancel, &mut values)?;
                }
                // A sequence whose tokens see those behind them cannot be divided.
                if sequence.len() > MAX_PASS && self.loaded.is_causal {
                    self.encode_long(sequence, cancel, &mut values)?;
                } else {
                    together.push(sequence);
                }
            }
            if together.is_empty() { Ok(()) } else { self.loaded.encode(&together, cancel, &mut values) }
        })?;
        Ok(HiddenStates { values, hidden_size: info.hidden_size, lengths: batch.lengths().to_vec() })
    }

    fn with_adapters(&self, adapters: &[ScaledAdapter]) -> Result<Arc<dyn Model>> {
        let mut sum = AdapterSum::new(adapters)?;
        let Loaded { decoder, threads, info, is_causal, .. } = &*self.loaded;
        let decoder = threads.install(|| decoder.adapted(&mut sum))?;
        sum.finish()?;
        let loaded = Loaded::new(decoder, Arc::clone(threads), info.clone(), *is_causal);
        Ok(Arc::new(Self { loaded: Arc::new(loaded) }))
    }

    fn prober(&self) -> Option<&dyn Prober> {
        self.loaded.decoder.probed().map(|_| self as &dyn Prober)
    }
}

impl Prober for CandleModel {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let Loaded { decoder, threads, info, is_causal, .. } = &*self.loaded;
        let decoder = decoder.probed().ok_or_else(|| info.unsupported("probing"))?;
        // One that only encodes may have no head.
        let points: Vec<ProbePoint> = match info.capabilities.has(Capability::Generation) {
            true => points.to_vec(),
            false => points.iter().copied().filter(|point| point.stage != Stage::Logits).collect(),
        };
        Ok(threads.install(|| probe(decoder, tokens, &points, *is_causal)).doing("to run the model")?)
    }
}
