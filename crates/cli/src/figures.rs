//! Speeds and times of a generation, for people and for programs.

use std::time::Duration;

use serde::Serialize;
use tandem::machine::Size;
use tandem::{FinishReason, ModelInfo, Timings};

/// Where the time went, as in `tandem run --json`. A speed is null when nothing was computed.
#[derive(Debug, Serialize)]
pub(crate) struct TimingsReport {
    pub(crate) load_ms: f64,
    pub(crate) prefill_ms: f64,
    /// From the start of the generation to the first token.
    pub(crate) first_token_ms: f64,
    pub(crate) decode_ms: f64,
    pub(crate) prefill_tokens_per_s: Option<f64>,
    pub(crate) decode_tokens_per_s: Option<f64>,
    /// Draft tokens of speculative decoding, and how many of them were accepted.
    pub(crate) tokens_drafted: usize,
    pub(crate) tokens_accepted: usize,
}

impl TimingsReport {
    pub(crate) fn new(load: Duration, timings: &Timings) -> Self {
        Self {
            load_ms: milliseconds(load),
            prefill_ms: milliseconds(timings.prefill),
            first_token_ms: milliseconds(timings.first_token),
            decode_ms: milliseconds(timings.decode),
            prefill_tokens_per_s: per_second(timings.n_prefilled, timings.prefill),
            decode_tokens_per_s: per_second(timings.n_decoded, timings.decode),
            tokens_drafted: timings.n_drafted,
            tokens_accepted: timings.n_accepted,
        }
    }
}

/// One line on a generation: `demo · onnx cpu f16 · 23 prompt tokens at 850/s · 118 tokens at 210/s · first token 41 ms · stop`.
pub(crate) fn line(info: &ModelInfo, timings: &Timings, n_tokens: usize, reason: Option<FinishReason>) -> String {
    let mut parts = vec![info.name.clone(), format!("{} {} {}", info.backend, info.device, info.dtype)];
    parts.push(counted(timings.n_prefilled, "prompt token", per_second(timings.n_prefilled, timings.prefill)));
    parts.push(counted(n_tokens, "token", per_second(timings.n_decoded, timings.decode)));
    if n_tokens > 0 {
        parts.push(format!("first token {} ms", timings.first_token.as_millis()));
    }
    if timings.n_drafted > 0 {
        parts.push(format!("{} of {} draft tokens accepted", timings.n_accepted, timings.n_drafted));
    }
    parts.extend(reason.map(|reason| reason.to_string()));
    parts.join(" · ")
}

/// `23 prompt tokens at 850/s`.
pub(crate) fn counted(n: usize, noun: &str, per_second: Option<f64>) -> String {
    let plural = if n == 1 { "" } else { "s" };
    let speed = per_second.map_or_else(String::new, |speed| format!(" at {}/s", rounded(speed)));
    format!("{n} {noun}{plural}{speed}")
}

/// `n` in `time`; `None` when that says nothing.
pub(crate) fn per_second(n: usize, time: Duration) -> Option<f64> {
    (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64())
}

/// `bytes` as people read them: `1.5 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// `n` as people read it: `494 million`.
pub(crate) fn many(n: u64) -> String {
    match n {
        0..=99_999 => n.to_string(),
        100_000..=999_949_999 => format!("{} million", rounded(n as f64 / 1e6)),
        _ => format!("{} billion", rounded(n as f64 / 1e9)),
    }
}

/// Two or more digits that count.
fn rounded(value: f64) -> String {
    match value {
        value if value < 0.995 => format!("{value:.2}"),
        value if value < 9.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are as fine as the clock is worth.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(counted(23, "prompt token", Some(849.6)), "23 prompt tokens at 850/s");
        assert_eq!(counted(1, "token", None), "1 token");
        assert_eq!([0, 999, 1000, 1_500_000, 2_000_000_000].map(bytes), ["0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "2.0 GB"]);
        assert_eq!([812, 494_032_768, 7_615_616_512].map(many), ["812", "494 million", "7.6 billion"]);
        assert_eq!(rounded(0.123), "0.12");
    }

    #[test]
    fn no_time_is_no_speed() {
        assert_eq!(per_second(5, Duration::ZERO), None);
        assert_eq!(per_second(0, Duration::from_secs(1)), None);
        assert_eq!(per_second(10, Duration::from_millis(500)), Some(20.0));
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)), 1.235);
    }
}
