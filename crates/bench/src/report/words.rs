//! Figures as people read them.

use crate::closeness::Closeness;
use crate::loss::Loss;
use crate::record::{BenchEntry, Metric, Unit};
use crate::statistics::{Comparison, Interval, Verdict, interval};

/// A value of `metric` with its unit: `71.2/s`, `14.3 ms`, `1.9 GB`.
pub(super) fn value(metric: Metric, value: f64) -> String {
    match metric.unit() {
        Unit::TokensPerSecond | Unit::TextsPerSecond => format!("{}/s", digits(value)),
        Unit::Milliseconds => milliseconds(value),
        Unit::Bytes => bytes(value as u64),
    }
}

/// `71.2/s (70.1 to 72.0)`.
pub(super) fn with_interval(metric: Metric, values: &[f64]) -> Option<String> {
    let Interval { median, low, high } = (!values.is_empty()).then(|| interval(values))?;
    let ends = match metric.unit() {
        unit if unit.is_speed() => format!("{} to {}", digits(low), digits(high)),
        _ => format!("{} to {}", value(metric, low), value(metric, high)),
    };
    Some(if values.len() > 1 { format!("{} ({ends})", value(metric, median)) } else { value(metric, median) })
}

pub(super) fn milliseconds(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.1} s", value / 1e3) } else { format!("{} ms", digits(value)) }
}

pub(super) fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match value {
        value if value < 1e3 => format!("{bytes} bytes"),
        value if value < 1e6 => format!("{} kB", digits(value / 1e3)),
        value if value < 1e9 => format!("{} MB", digits(value / 1e6)),
        value => format!("{} GB", digits(value / 1e9)),
    }
}

/// Three digits, and none behind the point of a large number.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "–".into(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.0095 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.0e}"),
    }
}

pub(super) fn percent(share: f64) -> String {
    let value = share * 100.0;
    if (99.0..100.0).contains(&value) || value.abs() < 10.0 { format!("{value:.1}%") } else { format!("{value:.0}%") }
}

/// `1.32 times as fast (1.30 to 1.35)`, or that it cannot be said.
pub(super) fn comparison(metric: Metric, compared: &Comparison) -> String {
    let Interval { median, low, high } = compared.ratio;
    let times = format!("x{median:.2} ({low:.2} to {high:.2})");
    let is_more_better = metric.unit().is_speed();
    match (compared.verdict, is_more_better, metric.unit()) {
        (Verdict::TooFew, ..) => format!("{times}, too few rounds"),
        (Verdict::Same, ..) => format!("{times}, no difference"),
        (Verdict::Higher, _, Unit::Bytes) => format!("{times}, more"),
        (Verdict::Lower, _, Unit::Bytes) => format!("{times}, less"),
        (Verdict::Higher, true, _) | (Verdict::Lower, false, _) => format!("{times}, faster"),
        (Verdict::Lower, true, _) | (Verdict::Higher, false, _) => format!("{times}, slower"),
    }
}

/// What a loss comes to.
pub(super) fn loss(loss: &Loss) -> String {
    if loss.mean_kl < 1e-8 {
        return "lossless".into();
    }
    let change = loss.perplexity / loss.reference_perplexity - 1.0;
    format!(
        "KL divergence {} nats, top-1 agreement {}, perplexity {}{}",
        nats(loss.mean_kl),
        percent(loss.same_top),
        if change < 0.0 { "−" } else { "+" },
        percent(change.abs())
    )
}

/// What vectors that close to those of f32 have lost.
pub(super) fn closeness(found: &Closeness) -> String {
    format!("cosine to f32 {} on average, {} at least", cosine(found.cosine_mean), cosine(found.cosine_min))
}

/// A cosine: six digits, of which the last are what distinguishes one close to 1 from another.
pub(super) fn cosine(value: f64) -> String {
    // Rounding up would call equal what is not.
    format!("{:.6}", (value * 1e6).floor() / 1e6)
}

/// What an entry has lost, or why that is not known.
pub(super) fn lost(entry: &BenchEntry) -> String {
    match (&entry.loss, &entry.closeness) {
        (Some(found), _) => loss(found),
        (None, Some(found)) => closeness(found),
        (None, None) => format!("loss unknown: {}", entry.no_loss.as_deref().unwrap_or("it was not measured")),
    }
}

/// A divergence; what is below a hundred-millionth is rounding.
pub(super) fn nats(kl: f64) -> String {
    match kl {
        kl if kl < 1e-8 => "0".into(),
        kl if kl < 0.0095 => format!("{kl:.1e}"),
        kl => format!("{kl:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::compare_in_turns;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(value(Metric::Decode(0), 71.234), "71.2/s");
        assert_eq!([14.26, 314.2, 12_345.0].map(milliseconds), ["14.3 ms", "314 ms", "12.3 s"]);
        assert_eq!([900, 1_500, 2_500_000, 1_984_519_680].map(bytes), ["900 bytes", "1.50 kB", "2.50 MB", "1.98 GB"]);
        assert_eq!([0.912, 0.9987, 1.0, 0.004].map(percent), ["91%", "99.9%", "100%", "0.4%"]);
        assert_eq!([0.0, 4e-10, 0.000_12, 0.0312].map(nats), ["0", "0", "1.2e-4", "0.031"]);
    }

    #[test]
    fn cosines_are_never_rounded_up() {
        assert_eq!([1.0, 0.999_999_6, 0.998_123_49].map(cosine), ["1.000000", "0.999999", "0.998123"]);
    }

    #[test]
    fn comparisons_say_faster_for_more_tokens_and_less_time() {
        let compared = compare_in_turns(&[2.0; 6], &[1.0; 6]);
        assert_eq!(comparison(Metric::Decode(0), &compared), "x2.00 (2.00 to 2.00), faster");
        assert_eq!(comparison(Metric::LoadWarm, &compared), "x2.00 (2.00 to 2.00), slower");
        assert_eq!(comparison(Metric::PeakMemory, &compared), "x2.00 (2.00 to 2.00), more");
    }
}
