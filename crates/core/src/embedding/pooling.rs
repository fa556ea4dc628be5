//! Pooling: from the hidden states of a text's tokens to one vector.

use crate::named::named;

/// One way of pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// The first token's.
    Cls,
    /// The largest value of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean, weighted by position from 1 on.
    WeightedMean,
    /// The last token's.
    LastToken,
}

named!(Pool, "pooling", {
    Cls: "cls",
    Max: "max",
    Mean: "mean",
    MeanSqrtLen: "mean_sqrt_len_tokens",
    WeightedMean: "weightedmean",
    LastToken: "lasttoken",
});

/// How a text's hidden states become one vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// The ways whose results are concatenated, in this order; at least one.
    pub pools: Vec<Pool>,
    /// Tokens of the prompt are pooled as well.
    pub include_prompt: bool,
}

impl Pooling {
    /// One way of pooling, over the prompt as well.
    pub fn of(pool: Pool) -> Self {
        Self { pools: vec![pool], include_prompt: true }
    }

    /// Its name for people, such as `mean` or `cls+mean`.
    pub fn name(&self) -> String {
        self.pools.iter().map(Pool::to_string).collect::<Vec<_>>().join("+")
    }

    /// The width of a vector pooled from states of `hidden_size`.
    pub fn width(&self, hidden_size: usize) -> usize {
        self.pools.len() * hidden_size
    }

    /// The vector of a text with `states`, `[n, hidden_size]`, of which the first `n_prompt` tokens are the prompt's: appended to `out`,
    /// `[pools * hidden_size]`.
    pub fn pool(&self, states: &[f32], hidden_size: usize, n_prompt: usize, out: &mut Vec<f32>) {
        let skipped = if self.include_prompt { 0 } else { n_prompt * hidden_size };
        let pooled = states.get(skipped..).unwrap_or_default();
        for pool in &self.pools {
            match pool {
                // The first that is pooled, as in sentence-transformers since 6; of none, the first of all.
                Pool::Cls => out.extend_from_slice(pooled.get(..hidden_size).unwrap_or(&states[..hidden_size])),
                Pool::LastToken => out.extend_from_slice(&states[states.len() - hidden_size..]),
                Pool::Max => out.extend(largest(pooled, hidden_size)),
                Pool::Mean => out.extend(weighted(pooled, hidden_size, |_| 1.0, |sum| sum)),
                Pool::MeanSqrtLen => out.extend(weighted(pooled, hidden_size, |_| 1.0, f64::sqrt)),
                // Positions count from the first token, the prompt's included.
                Pool::WeightedMean => {
                    let first = skipped / hidden_size;
                    out.extend(weighted(pooled, hidden_size, |i| (first + i + 1) as f64, |sum| sum));
                }
            }
        }
    }
}

fn largest(states: &[f32], hidden_size: usize) -> Vec<f32> {
    let mut largest = vec![f32::NEG_INFINITY; hidden_size];
    for state in states.chunks_exact(hidden_size) {
        // What is not a number stays, so that it is found.
        largest.iter_mut().zip(state).for_each(|(largest, &value)| *largest = if value <= *largest { *largest } else { value });
    }
    largest
}

/// The sum of the states by their weights, over `divisor` of the sum of the weights. Without a token it is zero.
fn weighted(states: &[f32], hidden_size: usize, weight: impl Fn(usize) -> f64, divisor: fn(f64) -> f64) -> Vec<f32> {
    let mut sums = vec![0.0_f64; hidden_size];
    let mut total = 0.0;
    for (i, state) in states.chunks_exact(hidden_size).enumerate() {
        let weight = weight(i);
        total += weight;
        sums.iter_mut().zip(state).for_each(|(sum, value)| *sum += weight * f64::from(*value));
    }
    let divisor = divisor(total).max(1e-9);
    sums.into_iter().map(|sum| (sum / divisor) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pool: Pool, include_prompt: bool, n_prompt: usize) -> Vec<f32> {
        let mut out = Vec::new();
        let pooling = Pooling { pools: vec![pool], include_prompt };
        pooling.pool(&[1.0, -4.0, 2.0, 0.0, 6.0, 1.0], 2, n_prompt, &mut out);
        out
    }

    #[test]
    fn each_way_of_pooling_is_its_formula() {
        assert_eq!(pooled(Pool::Cls, true, 0), [1.0, -4.0]);
        assert_eq!(pooled(Pool::LastToken, true, 0), [6.0, 1.0]);
        assert_eq!(pooled(Pool::Max, true, 0), [6.0, 1.0]);
        assert_eq!(pooled(Pool::Mean, true, 0), [3.0, -1.0]);
        assert_eq!(pooled(Pool::MeanSqrtLen, true, 0), [(9.0 / 3f64.sqrt()) as f32, (-3.0 / 3f64.sqrt()) as f32]);
        assert_eq!(pooled(Pool::WeightedMean, true, 0), [23.0 / 6.0, -1.0 / 6.0]);
    }

    #[test]
    fn a_prompt_that_is_left_out_is_not_pooled() {
        assert_eq!(pooled(Pool::Mean, false, 1), [4.0, 0.5]);
        assert_eq!(pooled(Pool::Cls, false, 1), [2.0, 0.0]);
        assert_eq!(pooled(Pool::Cls, false, 9), [1.0, -4.0]);
        assert_eq!(pooled(Pool::WeightedMean, false, 1), [22.0 / 5.0, 3.0 / 5.0]);
        assert_eq!(pooled(Pool::Mean, false, 9), [0.0, 0.0]);
    }

    #[test]
    fn several_ways_are_concatenated_and_nan_stays() {
        let mut out = Vec::new();
        Pooling { pools: vec![Pool::Max, Pool::Cls], include_prompt: true }.pool(&[1.0, 2.0, f32::NAN, 0.0], 2, 0, &mut out);
        assert!(out[0].is_nan() && out[1..] == [2.0, 1.0, 2.0]);
    }
}
