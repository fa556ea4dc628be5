//! How many tokens of prompts a step takes while others generate: a model of time, measured as it goes.

use std::time::Duration;

/// The weight of the newest measurement.
const NEWEST: f64 = 0.3;

/// The share of the time allowed that is planned for, since measurements vary.
const PLANNED: f64 = 0.85;

/// What steps took.
pub(super) struct Pace {
    slowdown: f64,
    /// Seconds of a step of so many sequences that generate, and nothing else; the first is that of one.
    decoding: Vec<Option<f64>>,
    /// Seconds that a token of a prompt adds to a step, in chunks of about the size that is chosen.
    per_token: Option<f64>,
}

impl Pace {
    /// Steps with prompts take at most `slowdown` times as long as without.
    pub(super) fn new(slowdown: f64) -> Self {
        Self { slowdown, decoding: Vec::new(), per_token: None }
    }

    /// A step of `n_decoding` sequences and `n_prompt` tokens of prompts took `time`.
    pub(super) fn observe(&mut self, n_decoding: usize, n_prompt: usize, time: Duration) {
        let time = time.as_secs_f64();
        if n_prompt == 0 {
            if self.decoding.len() < n_decoding {
                self.decoding.resize(n_decoding, None);
            }
            update(&mut self.decoding[n_decoding - 1], time);
        } else if n_decoding == 0 {
            // What is known before the first step of both.
            self.per_token.get_or_insert(time / n_prompt as f64);
        } else if let Some(alone) = self.step_of(n_decoding) {
            update(&mut self.per_token, (time - alone).max(0.0) / n_prompt as f64);
        }
    }

    /// The most tokens of prompts in a step beside `n_decoding` sequences, of `most` where none waits for it; 0 for as few as can be.
    pub(super) fn chunk(&self, n_decoding: usize, most: usize) -> usize {
        if n_decoding == 0 {
            return most;
        }
        match (self.step_of(n_decoding), self.per_token) {
            (Some(step), Some(per_token)) if per_token > 0.0 => {
                (PLANNED * (self.slowdown - 1.0) * step / per_token).min(most as f64) as usize
            }
            _ => 0,
        }
    }

    /// Seconds of a step of `n` sequences: as measured, or of the nearest number that was.
    fn step_of(&self, n: usize) -> Option<f64> {
        let known = self.decoding.iter().enumerate().filter_map(|(i, time)| time.map(|time| (n.abs_diff(i + 1), time)));
        known.min_by_key(|(distance, _)| *distance).map(|(_, time)| time)
    }
}

fn update(average: &mut Option<f64>, newest: f64) {
    *average = Some(average.map_or(newest, |average| average + NEWEST * (newest - average)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine whose steps take `fixed` seconds, and more for each sequence and each token of a prompt.
    struct Engine {
        fixed: f64,
        per_sequence: f64,
        fixed_chunk: f64,
        per_token: f64,
    }

    impl Engine {
        fn time(&self, n_decoding: usize, n_prompt: usize) -> Duration {
            let chunk = if n_prompt > 0 { self.fixed_chunk } else { 0.0 };
            let decoding = if n_decoding > 0 { self.fixed } else { 0.0 };
            let sum = decoding + self.per_sequence * n_decoding as f64 + chunk + self.per_token * n_prompt as f64;
            Duration::from_secs_f64(sum)
        }
    }

    #[test]
    fn a_long_prompt_holds_nobody_up() {
        for engine in [
            Engine { fixed: 0.012, per_sequence: 0.004, fixed_chunk: 0.0, per_token: 0.001 },
            Engine { fixed: 0.012, per_sequence: 0.004, fixed_chunk: 0.010, per_token: 0.0005 },
            Engine { fixed: 0.002, per_sequence: 0.001, fixed_chunk: 0.001, per_token: 0.0001 },
        ] {
            let mut pace = Pace::new(2.0);
            // Prompts alone are faster a token.
            pace.observe(0, 256, engine.time(0, 256));
            (0..3).for_each(|_| pace.observe(7, 0, engine.time(7, 0)));
            let (alone, mut left, mut times) = (engine.time(7, 0).as_secs_f64(), 2048_usize, Vec::new());
            while left > 0 {
                let n = pace.chunk(7, 256).clamp(1, left);
                let time = engine.time(7, n);
                pace.observe(7, n, time);
                times.push(time.as_secs_f64() / alone);
                left -= n;
            }
            times.sort_by(f64::total_cmp);
            let p99 = times[times.len() * 99 / 100 - 1];
            assert!(p99 <= 2.0, "{p99} of {} steps", times.len());
            assert!(times[times.len() / 2] > 1.5, "the time allowed is used: {}", times[times.len() / 2]);
        }
    }

    #[test]
    fn nothing_is_known_at_first() {
        let mut pace = Pace::new(2.0);
        assert_eq!((pace.chunk(0, 256), pace.chunk(3, 256)), (256, 0));
        pace.observe(2, 0, Duration::from_millis(10));
        pace.observe(0, 100, Duration::from_millis(100));
        assert_eq!(pace.chunk(3, 256), 8, "0.85 of ten milliseconds, a millisecond each");
        assert_eq!(pace.chunk(3, 5), 5);
    }
}
