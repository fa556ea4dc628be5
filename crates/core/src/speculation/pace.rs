//! How many tokens are guessed at a time: more while guesses hold, none for a while after they failed.

/// Tokens that are guessed at first.
const FIRST: usize = 3;

/// The most: with the token before them they are as many as engines multiply together best.
const MOST: usize = 7;

/// Failures in a row after which nothing is guessed for some tokens; twice as many after each further one.
const PATIENCE: u32 = 2;

/// Tokens without a guess after the first pause, and at the most.
const PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 64;

/// The lengths of guesses.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    length: usize,
    failures: u32,
    /// Tokens until the next guess.
    pause: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { length: FIRST, failures: 0, pause: 0 }
    }
}

impl Pace {
    /// How many tokens to guess for the next run.
    pub(crate) fn next(&mut self) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.length
    }

    /// Of `n` tokens that were guessed, at least one, the first `n_accepted` were right.
    pub(crate) fn learn(&mut self, n: usize, n_accepted: usize) {
        if n_accepted == n {
            self.failures = 0;
            self.length = (2 * self.length + 1).min(MOST);
        } else if n_accepted > 0 {
            self.failures = 0;
            self.length = (n_accepted + 1).min(MOST);
        } else {
            self.failures += 1;
            self.length = 1;
            if self.failures >= PATIENCE {
                self.pause = (PAUSE << (self.failures - PATIENCE).min(8)).min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_grow_while_they_hold_and_pause_when_they_fail() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(), 3);
        pace.learn(3, 3);
        assert_eq!(pace.next(), 7);
        pace.learn(7, 7);
        assert_eq!(pace.next(), 7);
        pace.learn(7, 2);
        assert_eq!(pace.next(), 3);
        pace.learn(3, 0);
        assert_eq!(pace.next(), 1);
        pace.learn(1, 0);
        for pause in [4, 8, 16, 32, 64, 64] {
            for _ in 0..pause {
                assert_eq!(pace.next(), 0);
            }
            assert_eq!(pace.next(), 1);
            pace.learn(1, 0);
        }
        pace.learn(1, 1);
        assert_eq!(pace.failures, 0);
    }
}
