//! The scores of one step: the model's logits, checked, with biases and penalties applied.
//!
//! Logits stay `f32` as the model wrote them; the few that are changed are kept aside as `f64`. The best of each block
//! of logits is noted in the pass that checks them, so that later passes skip blocks that cannot matter.

use super::options::{SamplingOptions, decimal};
use crate::error::{Error, Result};
use crate::primitives::TokenId;

/// Logits that are looked at together; a part of the result, as sums are taken by blocks.
pub(super) const BLOCK: usize = 128;

/// Vector lanes of the pass over the logits; without effect on its result.
const LANES: usize = 16;

/// One score for each token, minus infinity for a banned one; at least one is finite.
pub(super) struct Scores<'a> {
    /// Logits; minus infinity where `adjusted` has the token.
    values: &'a [f32],
    /// At least the best of each block of `values`.
    block_best: &'a [f32],
    /// Scores that differ from the logits, by rising id.
    adjusted: &'a [(TokenId, f64)],
    best: f64,
}

impl Scores<'_> {
    /// The highest score.
    pub(super) fn best(&self) -> f64 {
        self.best
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.values.len()
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.values.len().div_ceil(BLOCK)
    }

    /// The lowest id with the highest score.
    pub(super) fn argmax(&self) -> TokenId {
        let highest = |&best: &f32| f64::from(best) == self.best;
        let unadjusted = self.block_best.iter().position(highest).and_then(|block| {
            let start = block * BLOCK;
            let values = &self.values[start..self.values.len().min(start + BLOCK)];
            values.iter().position(|&value| f64::from(value) == self.best).map(|i| (start + i) as TokenId)
        });
        let adjusted = self.adjusted.iter().find(|(_, score)| *score == self.best).map(|&(id, _)| id);
        unadjusted.into_iter().chain(adjusted).min().expect("one of the scores is the best one")
    }

    /// The scores of a block, written to the front of `buffer`.
    #[inline(always)]
    pub(super) fn block<'b>(&self, block: usize, buffer: &'b mut [f64; BLOCK]) -> &'b mut [f64] {
        let start = block * BLOCK;
        let values = &self.values[start..self.values.len().min(start + BLOCK)];
        let scores = &mut buffer[..values.len()];
        for (score, &value) in scores.iter_mut().zip(values) {
            *score = f64::from(value);
        }
        if !self.adjusted.is_empty() {
            let from = self.adjusted.partition_point(|&(id, _)| (id as usize) < start);
            for &(id, score) in self.adjusted[from..].iter().take_while(|&&(id, _)| (id as usize) < start + BLOCK) {
                scores[id as usize - start] = score;
            }
        }
        scores
    }

    /// Calls `visit` with every token whose score is at least `lowest`, in no particular order.
    #[inline(always)]
    pub(super) fn for_each_from(&self, lowest: f64, mut visit: impl FnMut(TokenId, f64)) {
        for (block, values) in self.values.chunks(BLOCK).enumerate() {
            if f64::from(self.block_best[block]) < lowest {
                continue;
            }
            for (i, &value) in values.iter().enumerate() {
                if f64::from(value) >= lowest && value != f32::NEG_INFINITY {
                    visit((block * BLOCK + i) as TokenId, f64::from(value));
                }
            }
        }
        for &(id, score) in self.adjusted {
            if score >= lowest && score != f64::NEG_INFINITY {
                visit(id, score);
            }
        }
    }

    /// A score that at least `k` tokens reach: the `k`th best of the blocks; minus infinity when there are fewer.
    pub(super) fn floor_of_best(&self, k: usize, scratch: &mut Vec<f32>) -> f64 {
        if k == 0 || k > self.block_best.len() {
            return f64::NEG_INFINITY;
        }
        scratch.clear();
        scratch.extend_from_slice(self.block_best);
        let (_, floor, _) = scratch.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        f64::from(*floor)
    }
}

/// Makes [`Scores`] and owns what they borrow.
pub(super) struct Scorer {
    vocab_size: usize,
    /// Merged, by rising id.
    biases: Vec<(TokenId, f64)>,
    penalties: Option<Penalties>,
    masked: Vec<f32>,
    block_best: Vec<f32>,
    adjusted: Vec<(TokenId, f64)>,
    /// How often each token stands in the history; all 0 between calls.
    counts: Vec<u32>,
}

struct Penalties {
    repetition: f64,
    presence: f64,
    frequency: f64,
    window: usize,
}

impl Scorer {
    pub(super) fn new(options: &SamplingOptions, vocab_size: usize) -> Self {
        let mut biases: Vec<_> = options.logit_bias.iter().map(|&(token, bias)| (token, decimal(bias))).collect();
        merge(&mut biases);
        let penalties = options.penalises().then(|| Penalties {
            repetition: decimal(options.repetition_penalty),
            presence: decimal(options.presence_penalty),
            frequency: decimal(options.frequency_penalty),
            window: options.penalty_window.unwrap_or(usize::MAX),
        });
        let counts = if penalties.is_some() { vec![0; vocab_size] } else { Vec::new() };
        let (masked, block_best, adjusted) = Default::default();
        Self { vocab_size, biases, penalties, masked, block_best, adjusted, counts }
    }

    /// Checks `logits` and applies biases and penalties, which count the tokens of `history`.
    pub(super) fn score<'a>(&'a mut self, logits: &'a [f32], history: &[TokenId]) -> Result<Scores<'a>> {
        self.check(logits, history.len())?;
        self.adjust(logits, history)?;
        self.mask(logits);
        let values = if self.adjusted.is_empty() { logits } else { &self.masked };
        let unadjusted = f64::from(highest(&self.block_best));
        let best = self.adjusted.iter().fold(unadjusted, |best, &(_, score)| if score > best { score } else { best });
        Ok(Scores { values, block_best: &self.block_best, adjusted: &self.adjusted, best })
    }

    /// `logits` as they are; only for those that [`score`](Self::score) has just accepted.
    pub(super) fn unmodified<'a>(&'a mut self, logits: &'a [f32]) -> Scores<'a> {
        self.block_best.clear();
        self.block_best.extend(logits.chunks(BLOCK).map(highest));
        Scores { values: logits, block_best: &self.block_best, adjusted: &[], best: f64::from(highest(&self.block_best)) }
    }

    fn check(&mut self, logits: &[f32], n_tokens: usize) -> Result<()> {
        if logits.len() != self.vocab_size {
            let problem = format!("is not the number of logits, {}", logits.len());
            return Err(Error::invalid_option("vocab_size", self.vocab_size, problem));
        }
        self.block_best.clear();
        let mut all_finite = true;
        for block in logits.chunks(BLOCK) {
            all_finite &= is_finite(block);
            self.block_best.push(highest(block));
        }
        if all_finite {
            return Ok(());
        }
        let bad = logits.iter().position(|value| !value.is_finite()).expect("a block has a value that is not finite");
        Err(Error::BadLogits { token: bad as TokenId, value: logits[bad], n_tokens })
    }

    fn adjust(&mut self, logits: &[f32], history: &[TokenId]) -> Result<()> {
        self.adjusted.clear();
        self.adjusted.extend_from_slice(&self.biases);
        if let Some(penalties) = &self.penalties {
            let window = &history[history.len().saturating_sub(penalties.window)..];
            if let Some(&token) = window.iter().find(|&&token| token as usize >= self.vocab_size) {
                return Err(Error::InvalidToken { token, vocab_size: self.vocab_size });
            }
            for &token in window {
                let count = &mut self.counts[token as usize];
                if *count == 0 {
                    self.adjusted.push((token, 0.0));
                }
                *count = count.saturating_add(1);
            }
            merge(&mut self.adjusted);
        }
        for (token, score) in &mut self.adjusted {
            let token = *token as usize;
            *score += f64::from(logits[token]);
            if let Some(penalties) = &self.penalties {
                *score = penalties.apply(*score, std::mem::take(&mut self.counts[token]));
            }
        }
        Ok(())
    }

    /// Writes the logits with minus infinity for every adjusted token, and the best of the blocks that this changes.
    fn mask(&mut self, logits: &[f32]) {
        if self.adjusted.is_empty() {
            return;
        }
        self.masked.clear();
        self.masked.extend_from_slice(logits);
        for &(token, _) in &self.adjusted {
            self.masked[token as usize] = f32::NEG_INFINITY;
        }
        let mut done = None;
        for &(token, _) in &self.adjusted {
            let block = token as usize / BLOCK;
            if done.replace(block) != Some(block) {
                let end = logits.len().min((block + 1) * BLOCK);
                self.block_best[block] = highest(&self.masked[block * BLOCK..end]);
            }
        }
    }
}

impl Penalties {
    /// Repetition as transformers' `RepetitionPenaltyLogitsProcessor`; the others as OpenAI's API defines them,
    /// `logit - count * frequency - (count > 0) * presence`.
    fn apply(&self, score: f64, count: u32) -> f64 {
        if count == 0 {
            return score;
        }
        let repeated = if score < 0.0 { score * self.repetition } else { score / self.repetition };
        repeated - f64::from(count) * self.frequency - self.presence
    }
}

/// Sorts by id and adds up what stands for the same id.
fn merge(scores: &mut Vec<(TokenId, f64)>) {
    scores.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    scores.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 += later.1;
        }
        same
    });
}

/// The highest value; minus infinity when there is none.
#[inline(always)]
fn highest(values: &[f32]) -> f32 {
    let larger = |best: f32, value: f32| if value > best { value } else { best };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &value| larger(best, value))
}

/// Whether no value is NaN or infinite: only those give something other than 0 when they are multiplied by it.
#[inline(always)]
fn is_finite(values: &[f32]) -> bool {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * 0.0;
        }
    }
    lanes.iter().all(|&lane| lane == 0.0) && rest.iter().all(|value| value.is_finite())
}
