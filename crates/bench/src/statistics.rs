//! Statistics of samples that were taken in turns: medians, what they may be off by, and when a difference is one.

mod comparison;

pub use self::comparison::{Comparison, LEAST_GAP, LEAST_ROUNDS, Verdict, compare_apart, compare_in_turns};

/// How often samples are drawn anew.
const N_DRAWS: usize = 4000;

/// The share of all cases in which an interval holds the true median.
const CONFIDENCE: f64 = 0.95;

/// A median and where it lies with 95% certainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The median of the samples.
    pub median: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The median; NaN of no samples.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The value below which `share`, 0 to 1, of the samples lie, interpolated (type 7 of Hyndman and Fan, 1996); NaN of no samples.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    quantile_of_sorted(&sorted(samples), share)
}

/// The median of `candidate` over that of `reference`.
pub fn ratio_of_medians(candidate: &[f64], reference: &[f64]) -> f64 {
    median(candidate) / median(reference)
}

/// The distance between the quartiles over the median: how far samples spread, without the few that lie far off.
pub fn spread(samples: &[f64]) -> f64 {
    (quantile(samples, 0.75) - quantile(samples, 0.25)) / median(samples)
}

/// The median of `samples` with its 95% interval; NaN of no samples.
///
/// The interval is that of the bootstrap (percentiles of medians of samples drawn anew; Efron, 1979), widened where the exact one of
/// order statistics is wider: of few samples the bootstrap claims more than it knows. The draws are the same each time.
pub fn interval(samples: &[f64]) -> Interval {
    let sorted = sorted(samples);
    let n = sorted.len();
    let median = quantile_of_sorted(&sorted, 0.5);
    if n < 2 {
        return Interval { median, low: median, high: median };
    }
    let mut random = Random(0x7a6d_656d);
    let mut draw = vec![0.0; n];
    let medians: Vec<f64> = (0..N_DRAWS)
        .map(|_| {
            draw.iter_mut().for_each(|value| *value = sorted[random.below(n)]);
            draw.sort_by(f64::total_cmp);
            quantile_of_sorted(&draw, 0.5)
        })
        .collect();
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let rank = exact_rank(n);
    Interval {
        median,
        low: quantile(&medians, tail).min(sorted[rank]),
        high: quantile(&medians, 1.0 - tail).max(sorted[n - 1 - rank]),
    }
}

/// The greatest `k` such that the median lies between the `k`-th sample from below and from above, both counted from 0, in 95 of 100
/// cases: fewer than `k + 1` of `n` fall on one side with a chance of no more than 2.5%, by the binomial distribution. 0 when `n` is
/// too small for that.
fn exact_rank(n: usize) -> usize {
    let mut chance = 0.5_f64.powi(n as i32);
    let mut sum = chance;
    let mut rank = 0;
    while rank < n / 2 {
        chance *= (n - rank) as f64 / (rank + 1) as f64;
        sum += chance;
        if sum > (1.0 - CONFIDENCE) / 2.0 {
            break;
        }
        rank += 1;
    }
    rank
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn quantile_of_sorted(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The high half of a product: every value is as likely, to one in 2^64 / n.
        ((u128::from(z) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(ratio_of_medians(&[2.0], &[4.0, 4.0]), 0.5);
        assert_eq!(quantile(&[0.0, 10.0, 20.0, 30.0, 40.0], 0.9), 36.0);
        assert_eq!([0.0, 1.0].map(|share| quantile(&[5.0, 1.0], share)), [1.0, 5.0]);
        assert_eq!(spread(&[9.0, 10.0, 10.0, 11.0, 50.0]), 0.1);
    }

    #[test]
    fn exact_intervals_match_published_tables() {
        // Conover, Practical Nonparametric Statistics: ranks from 1 are 1, 2, 3, 6, 10 for these n.
        assert_eq!([6, 9, 12, 20, 30].map(exact_rank), [0, 1, 2, 5, 9]);
        assert_eq!(exact_rank(2), 0);
    }

    #[test]
    fn intervals_cover_the_median_at_95_percent() {
        let mut random = Random(5);
        // Sums of uniform numbers about 0, nearly normal.
        let mut normal = || (0..12).map(|_| random.below(1 << 20) as f64 / f64::from(1 << 20)).sum::<f64>() - 6.0;
        for n in [7, 9, 15] {
            let held = (0..400)
                .filter(|_| {
                    let samples: Vec<f64> = (0..n).map(|_| normal()).collect();
                    let Interval { low, high, .. } = interval(&samples);
                    low <= 0.0 && 0.0 <= high
                })
                .count();
            assert!(held >= 375, "{held} of 400 intervals of {n} samples");
        }
    }

    #[test]
    fn intervals_are_reproducible_and_narrow_with_samples() {
        let few: Vec<f64> = (0..9).map(f64::from).collect();
        let many: Vec<f64> = (0..900).map(|i| f64::from(i % 9)).collect();
        assert_eq!(interval(&few), interval(&few));
        let width = |samples: &[f64]| interval(samples).high - interval(samples).low;
        assert!(width(&many) < width(&few) / 3.0);
        assert_eq!(interval(&[3.0]), Interval { median: 3.0, low: 3.0, high: 3.0 });
        assert!(interval(&[]).median.is_nan());
    }
}
