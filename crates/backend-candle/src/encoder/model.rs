//! A loaded encoder, and how batches are divided among threads.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::ThreadPool;
use rayon::prelude::*;
use tandem_core::backend::{Capability, HiddenStates, Probe, ProbePoint, Prober, TokenBatch};
use tandem_core::{CancelToken, Error, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

use super::{Buffers, Encoder, Texts};
use crate::error::Doing;

/// Tokens that are computed together at the most, but for a text that is longer: what lies between layers stays in the second cache.
pub(crate) const MOST_TOKENS: usize = 128;

/// And at the least, where there are so many: fewer would read the weights too often.
const LEAST_TOKENS: usize = 32;

/// An encoder on candle.
pub(crate) struct EncoderModel {
    pub(crate) encoder: Encoder,
    pub(crate) threads: Arc<ThreadPool>,
    pub(crate) info: ModelInfo,
    /// Memory of passes; those that run at the same time have one each.
    buffers: Mutex<Vec<Buffers>>,
}

impl EncoderModel {
    pub(crate) fn new(encoder: Encoder, threads: Arc<ThreadPool>, info: ModelInfo) -> Self {
        Self { encoder, threads, info, buffers: Mutex::default() }
    }

    fn forward(&self, texts: &Texts<'_>, cancel: &CancelToken, out: &mut [f32]) -> Result<()> {
        let pool = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = pool().pop().unwrap_or_default();
        let done = self.encoder.forward(texts, cancel, &mut buffers, out).doing("to encode");
        pool().push(buffers);
        done?.ok_or(Error::Cancelled)
    }
}

impl Model for EncoderModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_session(&self, _options: &SessionOptions) -> Result<Box<dyn Session>> {
        Err(self.info.unsupported(Capability::Generation.description()))
    }

    /// Each thread computes some texts at a time. Where there are fewer of those than threads, the others help within.
    fn encode(&self, batch: &TokenBatch, cancel: &CancelToken) -> Result<HiddenStates> {
        let (width, lengths) = (self.info.hidden_size, batch.lengths());
        let mut values = vec![0.0; batch.ids().len() * width];
        let mut tasks = Vec::new();
        let (mut ids, mut types, mut rest) = (batch.ids(), batch.types(), values.as_mut_slice());
        for lengths in divided(lengths, self.threads.current_num_threads()) {
            let n: usize = lengths.iter().sum();
            let (own_ids, own);
            (own_ids, ids) = ids.split_at(n);
            (own, rest) = rest.split_at_mut(n * width);
            let own_types = types.map(|types| &types[..n]);
            types = types.map(|types| &types[n..]);
            tasks.push((Texts { ids: own_ids, types: own_types, lengths }, own));
        }
        self.threads
            .install(|| tasks.into_par_iter().with_max_len(1).try_for_each(|(texts, out)| self.forward(&texts, cancel, out)))?;
        Ok(HiddenStates { values, hidden_size: width, lengths: lengths.to_vec() })
    }

    fn prober(&self) -> Option<&dyn Prober> {
        Some(self)
    }
}

impl Prober for EncoderModel {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        Ok(self.threads.install(|| self.encoder.probe(tokens, points)).doing("to run the model")?)
    }
}

/// Divides texts of `lengths` into those that are computed together.
fn divided(lengths: &[usize], n_threads: usize) -> Vec<&[usize]> {
    let all: usize = lengths.iter().sum();
    let most = all.div_ceil(n_threads).clamp(LEAST_TOKENS, MOST_TOKENS);
    let mut parts = Vec::new();
    let (mut start, mut n) = (0, 0);
    for (i, length) in lengths.iter().enumerate() {
        if n > 0 && n + length > most {
            parts.push(&lengths[start..i]);
            (start, n) = (i, 0);
        }
        n += length;
    }
    parts.push(&lengths[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_divided_in_order_into_parts_of_some_tokens() {
        let check = |lengths: &[usize], n_threads, expected: &[&[usize]]| assert_eq!(divided(lengths, n_threads), expected);
        check(&[16], 2, &[&[16]]);
        check(&[600, 1, 2], 2, &[&[600], &[1, 2]]);
        check(&[32; 8], 2, &[&[32; 4], &[32; 4]]);
        check(&[32; 2], 8, &[&[32], &[32]]);
        check(&[10; 3], 8, &[&[10; 3]]);
    }
}
