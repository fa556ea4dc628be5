//! A loaded encoder, and how batches are divided among threads.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use tandem_core::backend::{Capability, HiddenStates, Probe, ProbePoint, Prober, TokenBatch};
use tandem_core::{CancelToken, Error, Model, ModelInfo, Result, Session, SessionOptions, TokenId};
use tandem_kernels::Threads;

use super::{Buffers, Encoder, Texts};

/// Tokens that are computed together at the most, but for a text that is longer: what lies between layers stays in the second cache.
pub(crate) const MOST_TOKENS: usize = 192;

/// And at the least, where there are so many: fewer would read the weights too often.
const LEAST_TOKENS: usize = 32;

/// An encoder on candle.
pub(crate) struct EncoderModel {
    pub(crate) encoder: Encoder,
    pub(crate) threads: Arc<Threads>,
    pub(crate) info: ModelInfo,
    /// Memory of passes, and of the rows that they give; those that run at the same time have one each.
    buffers: Mutex<Vec<(Buffers, Vec<f32>)>>,
}

impl EncoderModel {
    pub(crate) fn new(encoder: Encoder, threads: Arc<Threads>, info: ModelInfo) -> Self {
        Self { encoder, threads, info, buffers: Mutex::default() }
    }

    /// Writes the states of the tokens of `texts` to `places`, one for each text: `[tokens, hidden_size]`.
    fn forward(&self, texts: &Texts<'_>, cancel: &CancelToken, places: Vec<&mut [f32]>) -> Result<()> {
        let pool = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut buffers, mut rows) = pool().pop().unwrap_or_default();
        rows.resize(texts.ids.len() * self.info.hidden_size, 0.0);
        let done = self.encoder.forward(texts, cancel, &mut buffers, &mut rows);
        let mut rest = rows.as_slice();
        for place in places {
            let (own, others) = rest.split_at(place.len());
            place.copy_from_slice(own);
            rest = others;
        }
        pool().push((buffers, rows));
        done.ok_or(Error::Cancelled)
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
        let mut rest = values.as_mut_slice();
        let mut places: Vec<Option<&mut [f32]>> = Vec::with_capacity(lengths.len());
        for n in lengths {
            let (own, others) = rest.split_at_mut(n * width);
            places.push(Some(own));
            rest = others;
        }
        let starts: Vec<usize> = lengths.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n))).collect();
        let tasks: Vec<_> = divided(lengths, self.threads.n())
            .into_iter()
            .map(|part| {
                let places: Vec<_> = part.iter().map(|&i| places[i].take().expect("a text is in one part")).collect();
                (part, places)
            })
            .collect();
        let of = |values: &[u32], part: &[usize]| -> Vec<u32> {
            part.iter().flat_map(|&i| &values[starts[i]..starts[i] + lengths[i]]).copied().collect()
        };
        self.threads.run(|| {
            tasks.into_par_iter().with_max_len(1).try_for_each(|(part, places)| {
                let (ids, types) = (of(batch.ids(), &part), batch.types().map(|types| of(types, &part)));
                let lengths: Vec<usize> = part.iter().map(|&i| lengths[i]).collect();
                self.forward(&Texts { ids: &ids, types: types.as_deref(), lengths: &lengths }, cancel, places)
            })
        })?;
        Ok(HiddenStates { values, hidden_size: width, lengths: lengths.to_vec() })
    }

    fn prober(&self) -> Option<&dyn Prober> {
        Some(self)
    }
}

impl Prober for EncoderModel {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        Ok(self.threads.install(|| self.encoder.probe(tokens, points)))
    }
}

/// Divides texts of `lengths` into those that are computed together, so that few lanes stay empty: each text, the longest first, goes
/// where the least room is left (best fit decreasing).
fn divided(lengths: &[usize], n_threads: usize) -> Vec<Vec<usize>> {
    let all: usize = lengths.iter().sum();
    let most = all.div_ceil(n_threads).clamp(LEAST_TOKENS, MOST_TOKENS);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut parts: Vec<Vec<usize>> = Vec::new();
    // The room that is left in parts, and which part it is.
    let mut rooms: BTreeSet<(usize, usize)> = BTreeSet::new();
    for i in order {
        let n = lengths[i];
        let (room, part) = match rooms.range((n, 0)..).next().copied() {
            Some(found) => {
                rooms.remove(&found);
                found
            }
            None => {
                parts.push(Vec::new());
                (most.max(n), parts.len() - 1)
            }
        };
        parts[part].push(i);
        rooms.insert((room - n, part));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_share_a_pass_where_the_least_room_is_left() {
        let check = |lengths: &[usize], n_threads, expected: &[&[usize]]| {
            let parts = divided(lengths, n_threads);
            let totals: Vec<Vec<usize>> = parts.iter().map(|part| part.iter().map(|&i| lengths[i]).collect()).collect();
            assert_eq!(totals, expected);
            let mut all = parts.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..lengths.len()), "each text once");
        };
        check(&[16], 2, &[&[16]]);
        check(&[600, 1, 2], 2, &[&[600], &[2, 1]]);
        check(&[32; 8], 2, &[&[32; 4], &[32; 4]]);
        check(&[32; 2], 8, &[&[32], &[32]]);
        check(&[10; 3], 8, &[&[10; 3]]);
        check(&[20, 100, 28, 90, 30], 2, &[&[100, 30], &[90, 28], &[20]]);
    }
}
