//! When one of two is faster, and when it cannot be said.

use super::{Interval, interval};

/// The smallest gap that is worth a word: less changes from one build, boot or placement in memory to the next.
pub const LEAST_GAP: f64 = 0.03;

/// The fewest rounds that can tell anything at 95%: of five, all fall on one side by chance in 6 of 100 cases.
pub const LEAST_ROUNDS: usize = 6;

/// What two sets of times or speeds say of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The candidate's values are higher, by at least [`LEAST_GAP`] and beyond chance.
    Higher,
    /// They are lower.
    Lower,
    /// Neither can be said.
    Same,
    /// There are fewer than [`LEAST_ROUNDS`].
    TooFew,
}

/// A candidate against a reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Candidate over reference, with its 95% interval.
    pub ratio: Interval,
    /// What that means.
    pub verdict: Verdict,
}

impl Comparison {
    /// `clear` is how far from 1 the whole interval must lie.
    fn new(ratio: Interval, n: usize, clear: f64) -> Self {
        let verdict = match ratio {
            _ if n < LEAST_ROUNDS => Verdict::TooFew,
            Interval { median, low, .. } if low > 1.0 + clear && median >= 1.0 + LEAST_GAP => Verdict::Higher,
            Interval { median, high, .. } if high < 1.0 / (1.0 + clear) && median <= 1.0 / (1.0 + LEAST_GAP) => Verdict::Lower,
            _ => Verdict::Same,
        };
        Self { ratio, verdict }
    }
}

/// Compares samples of the same rounds, one of each in every round.
///
/// What a round had of the machine, both had: it goes out of the ratio. That is the same as to take each round's own factor out of
/// both sides and to ask whether what is left of their intervals overlaps.
///
/// # Panics
/// When there are not as many of one as of the other.
pub fn compare_in_turns(candidate: &[f64], reference: &[f64]) -> Comparison {
    assert_eq!(candidate.len(), reference.len(), "one sample of each in every round");
    let ratios: Vec<f64> = candidate.iter().zip(reference).map(|(candidate, reference)| candidate / reference).collect();
    Comparison::new(interval(&ratios), ratios.len(), 0.0)
}

/// Compares samples of two runs, which have no round in common: their intervals must be apart, by [`LEAST_GAP`], since from one run to the
/// next the machine changes as well.
pub fn compare_apart(candidate: &[f64], reference: &[f64]) -> Comparison {
    let (ours, theirs) = (interval(candidate), interval(reference));
    let ratio = Interval { median: ours.median / theirs.median, low: ours.low / theirs.high, high: ours.high / theirs.low };
    Comparison::new(ratio, candidate.len().min(reference.len()), LEAST_GAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(candidate: [f64; 7], reference: [f64; 7], in_turns: Verdict, apart: Verdict) {
        assert_eq!(compare_in_turns(&candidate, &reference).verdict, in_turns);
        assert_eq!(compare_apart(&candidate, &reference).verdict, apart);
        // The other way round, it is the opposite.
        let opposite = |verdict| match verdict {
            Verdict::Higher => Verdict::Lower,
            Verdict::Lower => Verdict::Higher,
            other => other,
        };
        assert_eq!(compare_in_turns(&reference, &candidate).verdict, opposite(in_turns));
        assert_eq!(compare_apart(&reference, &candidate).verdict, opposite(apart));
    }

    #[test]
    fn differences_must_exceed_chance_and_the_least_gap() {
        let drifting = [100.0, 95.0, 90.0, 80.0, 85.0, 97.0, 70.0];
        let steady = [100.0, 101.0, 99.0, 100.5, 99.5, 100.0, 100.2];
        check(steady, steady, Verdict::Same, Verdict::Same);
        check(steady.map(|x| x * 1.02), steady, Verdict::Same, Verdict::Same);
        check(steady.map(|x| x * 1.05), steady, Verdict::Higher, Verdict::Same);
        check(steady.map(|x| x * 1.08), steady, Verdict::Higher, Verdict::Higher);
        // The machine changed for both: only in turns is it seen.
        check(drifting.map(|x| x * 1.1), drifting, Verdict::Higher, Verdict::Same);
    }

    #[test]
    fn comparisons_need_six_rounds() {
        assert_eq!(compare_in_turns(&[2.0; 5], &[1.0; 5]).verdict, Verdict::TooFew);
        assert_eq!(compare_in_turns(&[2.0; 6], &[1.0; 6]).verdict, Verdict::Higher);
        assert_eq!(compare_apart(&[], &[]).verdict, Verdict::TooFew);
    }
}
