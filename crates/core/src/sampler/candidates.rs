//! The tokens that top-k, top-p, min-p and typical-p leave.
//!
//! None of them sorts the vocabulary. Top-k looks only at blocks that reach the `k`th best block. Top-p and typical-p
//! look at tokens near the front of their order, further and further back until these hold the mass asked for, and
//! sort them in growing pieces. What is left is the same as after a full sort.

use std::cmp::Ordering;

use super::exponential::{LOWEST, exp};
use super::options::{SamplingOptions, decimal};
use super::weights::{Weights, pick};
use crate::primitives::TokenId;

/// How far, in units of exponents, the first look of top-p and typical-p goes; each further look goes twice as far.
const FIRST_LOOK: f64 = 3.0;

/// The first piece that is sorted; each further one is four times as long.
const FIRST_PIECE: usize = 64;

/// The filters, in the order in which they apply; `None` is off.
pub(super) struct Filters {
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    typical_p: Option<f64>,
}

impl Filters {
    pub(super) fn new(options: &SamplingOptions, vocab_size: usize) -> Self {
        let below_one = |value: f32| (value < 1.0).then(|| decimal(value));
        Self {
            top_k: (1..vocab_size).contains(&options.top_k).then_some(options.top_k),
            top_p: below_one(options.top_p),
            min_p: (options.min_p > 0.0).then(|| decimal(options.min_p)),
            typical_p: below_one(options.typical_p),
        }
    }

    /// Whether every token is left.
    pub(super) fn are_off(&self) -> bool {
        self.top_k.is_none() && self.top_p.is_none() && self.min_p.is_none() && self.typical_p.is_none()
    }
}

#[derive(Clone, Copy)]
struct Candidate {
    id: TokenId,
    score: f64,
    /// Its place in the order of the filter at work: the lowest first, ties to the lowest id.
    key: f64,
    weight: f64,
}

/// In which order tokens are kept.
#[derive(Clone, Copy)]
enum Order {
    /// The highest score first.
    Best,
    /// The exponent nearest to this mean first, which is to say the information content nearest to the entropy: with
    /// probability `p = exp(x) / z` one is `ln z - x` and the other `ln z - mean`.
    Typical(f64),
}

/// A list of candidates that keeps its memory from token to token.
#[derive(Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    block_sums: Vec<f64>,
    scratch: Vec<f32>,
}

impl Candidates {
    /// Draws from the tokens that `filters` leave, in the order of their ids.
    pub(super) fn draw(&mut self, weights: &Weights<'_>, filters: &Filters, uniform: f64) -> TokenId {
        if filters.are_off() {
            return weights.draw(uniform, &mut self.block_sums);
        }
        self.filter(weights, filters);
        self.list.sort_unstable_by_key(|candidate| candidate.id);
        let target = uniform * self.mass();
        self.list[pick(self.list.iter().map(|candidate| candidate.weight), target)].id
    }

    /// What is left, with probabilities, the most probable first and ties by id.
    pub(super) fn distribution(&mut self, weights: &Weights<'_>, filters: &Filters) -> Vec<(TokenId, f64)> {
        self.filter(weights, filters);
        self.set_keys(weights, Order::Best);
        self.list.sort_unstable_by(by_key);
        let total = self.mass();
        self.list.iter().map(|candidate| (candidate.id, candidate.weight / total)).collect()
    }

    /// The sum of all weights of the vocabulary.
    pub(super) fn total(&mut self, weights: &Weights<'_>) -> f64 {
        weights.total(&mut self.block_sums)
    }

    fn filter(&mut self, weights: &Weights<'_>, filters: &Filters) {
        self.list.clear();
        // Room for every token, once: memory that is not written to costs nothing.
        self.list.reserve(weights.scores.n_tokens());
        if let Some(k) = filters.top_k {
            self.take_best(weights, k);
        }
        if let Some(p) = filters.top_p {
            self.take_mass(weights, Order::Best, p);
        }
        if let Some(p) = filters.min_p {
            if self.list.is_empty() {
                // A little further than the exact bound, which is decided by the weights below.
                self.look(weights, Order::Best, 1e-6 - libm::log(p));
            }
            self.list.retain(|candidate| candidate.weight >= p);
        }
        if let Some(p) = filters.typical_p {
            let mean = self.mean_exponent(weights);
            self.take_mass(weights, Order::Typical(mean), p);
        }
        if self.list.is_empty() {
            self.look(weights, Order::Best, f64::INFINITY);
        }
    }

    /// Lists the `k` best tokens.
    fn take_best(&mut self, weights: &Weights<'_>, k: usize) {
        let floor = weights.scores.floor_of_best(k, &mut self.scratch);
        weights.scores.for_each_from(floor, |id, score| {
            self.list.push(Candidate { id, score, key: Order::Best.key(score, 0.0), weight: 0.0 });
        });
        if self.list.len() > k {
            self.list.select_nth_unstable_by(k, by_key);
            self.list.truncate(k);
        }
        for candidate in &mut self.list {
            candidate.weight = exp(weights.exponent(candidate.score));
        }
        self.list.retain(|candidate| candidate.weight > 0.0);
    }

    /// Keeps the first tokens of `order` whose weights reach the share `p` of all; of the whole vocabulary when none
    /// are listed yet.
    fn take_mass(&mut self, weights: &Weights<'_>, order: Order, p: f64) {
        if !self.list.is_empty() {
            self.set_keys(weights, order);
            let target = p * self.mass();
            self.keep_until(target, order);
            return;
        }
        let target = p * self.total(weights);
        let mut reach = FIRST_LOOK;
        loop {
            self.look(weights, order, reach);
            let is_all = reach > -LOWEST;
            // A sum in another order may be a little less; whether the mass is there is decided in sorted order.
            let is_likely_enough = self.mass() >= target * (1.0 - 1e-9);
            let is_reached = (is_all || is_likely_enough) && self.keep_until(target, order);
            if is_reached || is_all {
                return;
            }
            reach *= 2.0;
        }
    }

    /// Lists the tokens of the vocabulary that are within `reach` of the front of `order` and have a weight.
    fn look(&mut self, weights: &Weights<'_>, order: Order, reach: f64) {
        self.list.clear();
        let front = match order {
            Order::Best => 0.0,
            Order::Typical(mean) => mean,
        };
        let lowest_exponent = (front - reach).max(LOWEST);
        // Slack for the rounding of a division that `exponent` does as a multiplication; the exact test is below.
        let lowest = weights.scores.best() + (lowest_exponent - 1e-6) / weights.inverse_temperature;
        weights.scores.for_each_from(lowest, |id, score| {
            let exponent = weights.exponent(score);
            if exponent >= lowest_exponent && exponent - front <= reach {
                let key = order.key(score, exponent);
                self.list.push(Candidate { id, score, key, weight: exp(exponent) });
            }
        });
    }

    /// Cuts the list behind the token at which the weights, summed in the order of the keys, reach `target`. False when
    /// they do not; then the list is whole.
    fn keep_until(&mut self, target: f64, order: Order) -> bool {
        let (mut sorted, mut piece, mut mass) = (0, FIRST_PIECE, 0.0);
        while sorted < self.list.len() {
            let rest = &mut self.list[sorted..];
            let n = piece.min(rest.len());
            if n < rest.len() {
                rest.select_nth_unstable_by(n, by_key);
            }
            rest[..n].sort_unstable_by(by_key);
            for (i, candidate) in rest[..n].iter().enumerate() {
                mass += candidate.weight;
                if mass >= target {
                    self.cut_behind(sorted + i, order);
                    return true;
                }
            }
            sorted += n;
            piece *= 4;
        }
        false
    }

    /// Typical-p keeps what ties with the last token, as transformers does; top-p does not.
    fn cut_behind(&mut self, last: usize, order: Order) {
        let behind = last + 1;
        let mut n = behind;
        if let Order::Typical(_) = order {
            for i in behind..self.list.len() {
                if self.list[i].key == self.list[last].key {
                    self.list.swap(n, i);
                    n += 1;
                }
            }
        }
        self.list.truncate(n);
    }

    fn set_keys(&mut self, weights: &Weights<'_>, order: Order) {
        for candidate in &mut self.list {
            candidate.key = order.key(candidate.score, weights.exponent(candidate.score));
        }
    }

    /// The mean exponent of the listed tokens by their weights; of the whole vocabulary when none are listed.
    fn mean_exponent(&mut self, weights: &Weights<'_>) -> f64 {
        if self.list.is_empty() {
            let total = self.total(weights);
            return weights.mean_exponent(total);
        }
        let product = |candidate: &Candidate| candidate.weight * weights.exponent(candidate.score);
        self.list.iter().map(product).sum::<f64>() / self.mass()
    }

    fn mass(&self) -> f64 {
        self.list.iter().map(|candidate| candidate.weight).sum()
    }
}

impl Order {
    #[inline(always)]
    fn key(self, score: f64, exponent: f64) -> f64 {
        match self {
            // A difference and not a negation: -0 and 0 are one score and must be one key.
            Self::Best => 0.0 - score,
            Self::Typical(mean) => (exponent - mean).abs(),
        }
    }
}

fn by_key(a: &Candidate, b: &Candidate) -> Ordering {
    a.key.total_cmp(&b.key).then(a.id.cmp(&b.id))
}
