//! Softmax over the whole vocabulary: weights relative to the best token, which has weight 1.

use super::exponential::{LOWEST, exp, sum};
use super::scores::{BLOCK, Scores};
use crate::primitives::TokenId;

/// Scores with a temperature; the weight of a token is `exp((score - best) / temperature)`.
pub(super) struct Weights<'a> {
    pub(super) scores: Scores<'a>,
    pub(super) inverse_temperature: f64,
}

impl Weights<'_> {
    /// The logarithm of a token's weight; 0 for the best, and for it alone.
    #[inline(always)]
    pub(super) fn exponent(&self, score: f64) -> f64 {
        (score - self.scores.best()) * self.inverse_temperature
    }

    /// The sum of all weights; `block_sums` is filled with that of each block.
    pub(super) fn total(&self, block_sums: &mut Vec<f64>) -> f64 {
        sum_blocks(self, block_sums);
        block_sums.iter().sum()
    }

    /// The mean of the exponents over all tokens, by their weights, given their sum.
    pub(super) fn mean_exponent(&self, total: f64) -> f64 {
        sum_exponents(self) / total
    }

    /// The token at which the weights, summed by rising id, pass the share `uniform` of their total.
    pub(super) fn draw(&self, uniform: f64, block_sums: &mut Vec<f64>) -> TokenId {
        let target = uniform * self.total(block_sums);
        let mut before = 0.0;
        let mut block = 0;
        for (i, &block_sum) in block_sums.iter().enumerate().filter(|(_, block_sum)| **block_sum > 0.0) {
            block = i;
            if before + block_sum > target {
                break;
            }
            before += block_sum;
        }
        let mut buffer = [0.0; BLOCK];
        let weights = self.block(block, &mut buffer);
        let drawn = pick(weights.iter().copied(), target - before);
        (block * BLOCK + drawn) as TokenId
    }

    #[inline(always)]
    fn block<'b>(&self, block: usize, buffer: &'b mut [f64; BLOCK]) -> &'b mut [f64] {
        let weights = self.scores.block(block, buffer);
        for weight in weights.iter_mut() {
            *weight = exp(self.exponent(*weight));
        }
        weights
    }
}

/// The sum of each block's weights.
///
/// Wider vectors take more tokens at a time and give the same sums: they do the same operations in the same order, and
/// multiplications and additions are never fused.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512dq+avx512vl", "x86_64+avx2"))]
fn sum_blocks(weights: &Weights<'_>, block_sums: &mut Vec<f64>) {
    let mut buffer = [0.0; BLOCK];
    block_sums.clear();
    for block in 0..weights.scores.n_blocks() {
        block_sums.push(sum(weights.block(block, &mut buffer)));
    }
}

/// The sum of weight times exponent over all tokens.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512dq+avx512vl", "x86_64+avx2"))]
fn sum_exponents(weights: &Weights<'_>) -> f64 {
    let mut buffer = [0.0; BLOCK];
    let mut total = 0.0;
    for block in 0..weights.scores.n_blocks() {
        let products = weights.scores.block(block, &mut buffer);
        for product in products.iter_mut() {
            // A banned token has weight 0 and exponent minus infinity, whose product would be NaN.
            let exponent = weights.exponent(*product).max(LOWEST);
            *product = exp(exponent) * exponent;
        }
        total += sum(products);
    }
    total
}

/// The index at which the running sum of `weights` passes `target`, never one whose weight is 0.
///
/// Rounding may leave the whole sum at or below the target; then it is the last that has a weight.
pub(super) fn pick(weights: impl Iterator<Item = f64>, target: f64) -> usize {
    let (mut before, mut picked) = (0.0, 0);
    for (i, weight) in weights.enumerate().filter(|&(_, weight)| weight > 0.0) {
        picked = i;
        before += weight;
        if before > target {
            break;
        }
    }
    picked
}
