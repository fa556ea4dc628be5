//! When tokens are drafted: as long as enough of them are accepted, and now and then after they were not.

/// The tokens that are drafted at a time: with the one before them they are as many as engines multiply together best. Fewer are not much
/// cheaper: of Qwen2.5-0.5B in int4, a step of two sequences takes 1.1 times as long as one of one, of four 1.5 and of eight 2.8 (README of
/// `tandem-bench`).
const DRAFTED: usize = 7;

/// The share of draft tokens that must be accepted for the others to be worth their time.
const WORTH: f64 = 0.4;

/// Tokens without a draft after the first failure, twice as many after each further one, and at the most.
const PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 128;

/// The success of drafts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// The share that was accepted, of which the last draft counts for half.
    share: Option<f64>,
    /// Pauses in a row.
    failures: u32,
    /// Tokens until the next draft.
    pause: u32,
}

impl Pace {
    /// How many tokens to draft for the next run.
    pub(crate) fn next(&mut self) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        DRAFTED
    }

    /// Of `n` draft tokens, at least one, the first `n_accepted` were accepted.
    pub(crate) fn learn(&mut self, n: usize, n_accepted: usize) {
        let own = n_accepted as f64 / n as f64;
        let share = self.share.map_or(own, |before| f64::midpoint(before, own));
        if share >= WORTH {
            (self.share, self.failures) = (Some(share), 0);
            return;
        }
        self.pause = (PAUSE << self.failures.min(8)).min(LONGEST_PAUSE);
        (self.share, self.failures) = (None, self.failures + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_pause_when_they_fail_and_longer_each_time() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(), 7);
        pace.learn(7, 7);
        pace.learn(7, 0);
        assert_eq!(pace.next(), 7, "one failure after a success");
        pace.learn(7, 1);
        for pause in [4, 8, 16, 32, 64, 128, 128] {
            for _ in 0..pause {
                assert_eq!(pace.next(), 0);
            }
            assert_eq!(pace.next(), 7);
            pace.learn(7, 2);
        }
        pace.pause = 0;
        pace.learn(2, 1);
        assert_eq!((pace.next(), pace.failures), (7, 0));
    }
}
