//! How long to wait before a request is repeated, and how often it is.

use std::thread;
use std::time::{Duration, Instant};

use tandem_core::CancelToken;

use crate::failure::Failure;
use crate::settings::HubSettings;

/// How often a waiting caller looks whether it was cancelled.
const PATIENCE: Duration = Duration::from_millis(20);

/// The longest wait of our own choice.
const LONGEST: Duration = Duration::from_secs(20);

/// Repetitions of one request: each waits twice as long as the one before, a random half of it less, so that many clients do not
/// come back at once.
pub(crate) struct Backoff<'s> {
    settings: &'s HubSettings,
    failures: u32,
}

impl<'s> Backoff<'s> {
    pub(crate) fn new(settings: &'s HubSettings) -> Self {
        Self { settings, failures: 0 }
    }

    /// Something was gained: the count begins anew.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits before the repetition of what failed with `failure`.
    ///
    /// # Errors
    /// `failure` itself, when it lasts or the attempts are used up; [`Failure::Cancelled`].
    pub(crate) fn wait(&mut self, failure: Failure, cancel: &CancelToken) -> Result<(), Failure> {
        let Failure::Passing { problem, wait, source } = failure else { return Err(failure) };
        self.failures += 1;
        if self.failures >= self.settings.attempts {
            let problem = format!("{problem}, {} times in a row", self.failures);
            return Err(Failure::Passing { problem, wait, source });
        }
        let longest = self.settings.longest_wait;
        if let Some(asked) = wait.filter(|asked| *asked > longest) {
            return Err(Failure::Lasting {
                problem: format!("{problem}, and wants to be left alone for {} s", asked.as_secs()),
                hint: Some("try again after that time: what was downloaded is kept".into()),
                status: None,
            });
        }
        rest(wait.unwrap_or_else(|| self.own_wait()), cancel)
    }

    fn own_wait(&self) -> Duration {
        let doubled = self.settings.first_wait.saturating_mul(1 << (self.failures - 1).min(16));
        doubled.min(LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Waits, unless it is cancelled.
fn rest(time: Duration, cancel: &CancelToken) -> Result<(), Failure> {
    let end = Instant::now() + time;
    loop {
        if cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(PATIENCE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_vary_by_half() {
        let settings = HubSettings::new("http://hub.example", "cache");
        let backoff = |failures| Backoff { settings: &settings, failures };
        for (failures, longest) in [(1, 500), (2, 1000), (3, 2000), (9, 20_000), (40, 20_000)] {
            for _ in 0..100 {
                let wait = backoff(failures).own_wait().as_millis();
                assert!((longest / 2..=longest).contains(&wait), "{failures}: {wait}");
            }
        }
    }

    #[test]
    fn what_lasts_is_not_repeated_and_what_passes_is_given_up() {
        let mut settings = HubSettings::new("http://hub.example", "cache");
        settings.first_wait = Duration::ZERO;
        let mut backoff = Backoff::new(&settings);
        let cancel = CancelToken::new();
        assert!(matches!(backoff.wait(Failure::lasting("gone", ""), &cancel), Err(Failure::Lasting { .. })));
        for _ in 1..settings.attempts {
            assert!(backoff.wait(Failure::passing("busy"), &cancel).is_ok());
        }
        let Err(Failure::Passing { problem, .. }) = backoff.wait(Failure::passing("busy"), &cancel) else { panic!() };
        assert_eq!(problem, "busy, 6 times in a row");
        backoff.reset();
        let asks = Failure::Passing { problem: "busy".into(), wait: Some(Duration::from_secs(3600)), source: None };
        assert!(matches!(backoff.wait(asks, &cancel), Err(Failure::Lasting { problem, .. }) if problem.contains("3600 s")));
        cancel.cancel();
        assert!(matches!(backoff.wait(Failure::passing("busy"), &cancel), Err(Failure::Cancelled)));
    }
}
