//! How many tokens of prompts a step takes while others generate: a model of time, measured as it goes.

use std::time::Duration;

/// The weight of the newest measurement.
const NEWEST: f64 = 0.3;

/// The share of the time allowed that is planned for, since measurements vary.
const PLANNED: f64 = 0.85;

/// The tokens of a prompt in the first step beside others.
const FIRST: f64 = 4.0;

/// Steps with prompts after which one without is measured again: sequences become longer.
const MOST_WITHOUT: usize = 64;

/// Steps without prompts that are measured before one with, since the first of them may be slow.
const LEAST_MEASURED: usize = 3;

/// The most that a step without prompts counts, of what they took so far: one that is slow by chance must not allow slow ones.
const MOST_OF_AVERAGE: f64 = 1.25;

/// How much more a token of a prompt is taken to cost in a small chunk than in a large one of a prompt alone.
const SMALL_CHUNK: f64 = 2.0;

/// What steps took.
///
/// A step with tokens of a prompt takes what it takes without them, a fixed time, since weights are read once more for them, and a time for each
/// of them. The time for each is estimated from prompts that were computed alone; the rest of what steps took more is the fixed time.
pub(super) struct Pace {
    slowdown: f64,
    /// Steps of so many sequences that generate, and nothing else; the first is that of one.
    decoding: Vec<Decoding>,
    /// The most tokens of a prompt alone in a step so far, and the seconds of each.
    alone: Option<(usize, f64)>,
    /// Seconds and tokens that prompts add to steps.
    added: Option<f64>,
    n_added: Option<f64>,
    /// Steps since one without prompts.
    n_without: usize,
}

/// Steps without prompts.
#[derive(Clone, Copy, Default)]
struct Decoding {
    n_steps: usize,
    /// Of a step: the least of the first ones, then an average.
    seconds: f64,
}

impl Decoding {
    fn observe(&mut self, seconds: f64) {
        self.seconds = match self.n_steps {
            0 => seconds,
            n if n < LEAST_MEASURED => self.seconds.min(seconds),
            _ => self.seconds + NEWEST * (seconds.min(MOST_OF_AVERAGE * self.seconds) - self.seconds),
        };
        self.n_steps += 1;
    }
}

impl Pace {
    /// Steps with prompts take at most `slowdown` times as long as without.
    pub(super) fn new(slowdown: f64) -> Self {
        Self { slowdown, decoding: Vec::new(), alone: None, added: None, n_added: None, n_without: 0 }
    }

    /// A step of `n_decoding` sequences and `n_prompt` tokens of prompts took `time`.
    pub(super) fn observe(&mut self, n_decoding: usize, n_prompt: usize, time: Duration) {
        let (time, n) = (time.as_secs_f64(), n_prompt as f64);
        if n_prompt == 0 {
            if self.decoding.len() < n_decoding {
                self.decoding.resize(n_decoding, Decoding::default());
            }
            self.decoding[n_decoding - 1].observe(time);
            self.n_without = 0;
        } else if n_decoding == 0 {
            if self.alone.is_none_or(|(most, _)| n_prompt >= most) {
                self.alone = Some((n_prompt, time / n));
            }
        } else {
            self.n_without += 1;
            if let Some(step) = self.step_of(n_decoding) {
                update(&mut self.added, (time - step).max(0.0));
                update(&mut self.n_added, n);
            }
        }
    }

    /// Whether a step of so many sequences that generate, and nothing else, must be measured next.
    pub(super) fn needs_a_step_of(&self, n_decoding: usize) -> bool {
        n_decoding > 0 && (self.step_of(n_decoding).is_none() || self.n_without >= MOST_WITHOUT)
    }

    /// The most tokens of prompts in a step beside `n_decoding` sequences, of `most` where none waits for it; 0 for as few as can be.
    pub(super) fn chunk(&self, n_decoding: usize, most: usize) -> usize {
        if n_decoding == 0 {
            return most;
        }
        let Some(step) = self.step_of(n_decoding) else { return 0 };
        let allowed = PLANNED * (self.slowdown - 1.0) * step;
        let n = match (self.added, self.n_added, self.alone) {
            (Some(added), Some(n), alone) if added > 0.0 => {
                let per_token = alone.map_or(added / n, |(_, alone)| (SMALL_CHUNK * alone).min(added / n));
                let fixed = added - per_token * n;
                (allowed - fixed) / per_token
            }
            (None, _, Some((_, alone))) if alone > 0.0 => FIRST.min(allowed / alone),
            _ => FIRST,
        };
        n.clamp(0.0, most as f64) as usize
    }

    /// Seconds of a step of `n` sequences and nothing else, where enough of them were measured.
    fn step_of(&self, n: usize) -> Option<f64> {
        self.decoding.get(n - 1).filter(|of| of.n_steps >= LEAST_MEASURED).map(|of| of.seconds)
    }
}

fn update(average: &mut Option<f64>, newest: f64) {
    *average = Some(average.map_or(newest, |average| average + NEWEST * (newest - average)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine whose steps take `fixed` seconds, and more for each sequence and each token of a prompt.
    #[derive(Debug)]
    struct Engine {
        fixed: f64,
        per_sequence: f64,
        fixed_chunk: f64,
        per_token: f64,
        /// What a token takes more behind all others of the prompt.
        deepest: f64,
    }

    const PROMPT: usize = 2048;

    impl Engine {
        fn new([fixed, per_sequence, fixed_chunk, per_token, deepest]: [f64; 5]) -> Self {
            Self { fixed, per_sequence, fixed_chunk, per_token, deepest }
        }

        fn time(&self, n_decoding: usize, n_prompt: usize, left: usize) -> f64 {
            let chunk = if n_prompt > 0 { self.fixed_chunk } else { 0.0 };
            let decoding = if n_decoding > 0 { self.fixed } else { 0.0 };
            let depth = (PROMPT - left) as f64 / PROMPT as f64;
            let per_token = self.per_token + self.deepest * depth;
            decoding + self.per_sequence * n_decoding as f64 + chunk + per_token * n_prompt as f64
        }

        /// How much longer each step of `n_decoding` sequences takes while a prompt comes in, in chunks of at least `least`; step number `i` takes
        /// `noise(i)` times as long as it would.
        fn slowdowns(&self, n_decoding: usize, least: usize, noise: impl Fn(usize) -> f64) -> Vec<f64> {
            let mut pace = Pace::new(2.0);
            let seconds = Duration::from_secs_f64;
            // Prompts alone are faster a token.
            pace.observe(0, 256, seconds(self.time(0, 256, PROMPT)));
            let (alone, mut left, mut times) = (self.time(n_decoding, 0, 0), PROMPT, Vec::new());
            for step in 0.. {
                let n = match pace.needs_a_step_of(n_decoding) {
                    true => 0,
                    false => pace.chunk(n_decoding, 256).max(least).min(left),
                };
                let time = self.time(n_decoding, n, left) * noise(step);
                pace.observe(n_decoding, n, seconds(time));
                times.push(time / alone);
                left -= n;
                if left == 0 {
                    return times;
                }
            }
            unreachable!("a prompt ends")
        }
    }

    fn quantile(times: &[f64], share: f64) -> f64 {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        times[((times.len() as f64 * share) as usize).saturating_sub(1)]
    }

    #[test]
    fn a_long_prompt_holds_nobody_up() {
        for (n_decoding, engine) in [
            (7, [0.012, 0.004, 0.0, 0.001, 0.0]),
            (7, [0.012, 0.004, 0.010, 0.0005, 0.0]),
            (7, [0.002, 0.001, 0.001, 0.0001, 0.0]),
            (1, [0.012, 0.001, 0.007, 0.0006, 0.0006]),
            (1, [0.012, 0.001, 0.002, 0.0015, 0.001]),
            (2, [0.012, 0.001, 0.004, 0.0005, 0.002]),
        ] {
            let engine = Engine::new(engine);
            let times = engine.slowdowns(n_decoding, 2, |_| 1.0);
            let (p99, median) = (quantile(&times, 0.99), quantile(&times, 0.5));
            assert!(p99 <= 2.0, "{engine:?}: {p99} of {} steps", times.len());
            assert!(median > 1.5, "{engine:?}: the time allowed is used: {median}");
        }
    }

    #[test]
    fn the_pace_recovers_from_slow_steps() {
        // The fixed time is most of what is allowed.
        let engine = Engine::new([0.012, 0.001, 0.009, 0.0004, 0.0]);
        let calm = engine.slowdowns(1, 2, |_| 1.0).len();
        let varied = engine.slowdowns(1, 2, |step| 0.95 + (step * 37 % 100) as f64 / 1000.0);
        assert!(varied.len() < calm * 4 / 3, "{} steps in place of {calm}", varied.len());
        assert!(quantile(&varied, 0.99) <= 2.0, "{}", quantile(&varied, 0.99));
    }

    #[test]
    fn slow_steps_without_prompts_allow_no_slow_ones() {
        let engine = Engine::new([0.012, 0.001, 0.0, 0.0025, 0.002]);
        let is_slow = |step: usize| step == 0 || (step > 50 && step % 67 < 3);
        let times = engine.slowdowns(1, 2, |step| if is_slow(step) { 4.0 } else { 1.0 });
        let others: Vec<f64> = times.iter().enumerate().filter(|(step, _)| !is_slow(*step)).map(|(_, time)| *time).collect();
        assert!(quantile(&others, 0.99) <= 2.0, "{}", quantile(&others, 0.99));
    }

    #[test]
    fn steps_of_each_number_of_sequences_are_measured() {
        let (mut pace, seconds) = (Pace::new(2.0), Duration::from_millis);
        assert!(!pace.needs_a_step_of(0) && pace.needs_a_step_of(2));
        assert_eq!((pace.chunk(0, 256), pace.chunk(3, 256)), (256, 0));
        for time in [40, 10, 11] {
            assert!(pace.needs_a_step_of(2));
            pace.observe(2, 0, seconds(time));
        }
        assert!(!pace.needs_a_step_of(2) && pace.needs_a_step_of(1) && pace.needs_a_step_of(3));
        assert_eq!(pace.chunk(2, 256), 4, "nothing is known of prompts");
        pace.observe(0, 100, seconds(300));
        assert_eq!(pace.chunk(2, 256), 2, "0.85 of ten milliseconds, three each");
        pace.observe(0, 3, seconds(300));
        pace.observe(2, 4, seconds(16));
        assert_eq!(pace.chunk(2, 256), 5, "1.5 milliseconds each");
        assert_eq!(pace.chunk(2, 3), 3);
        (0..MOST_WITHOUT).for_each(|_| pace.observe(2, 4, seconds(16)));
        assert!(pace.needs_a_step_of(2) && !pace.needs_a_step_of(0), "sequences became longer");
    }
}
