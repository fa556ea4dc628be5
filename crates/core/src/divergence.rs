//! How far one distribution over the vocabulary is from another.

/// The Kullback-Leibler divergence of softmax(`candidate`) from softmax(`reference`), in nats: the sum over tokens of
/// p ln(p / q), where p is the reference. Both are logits, `[vocab_size]`; infinite or undefined logits give NaN.
pub fn kl_divergence(reference: &[f32], candidate: &[f32]) -> f64 {
    let (p, q) = (LogSoftmax::new(reference), LogSoftmax::new(candidate));
    let terms = reference.iter().zip(candidate).map(|(&r, &c)| {
        let log_p = p.of(r);
        log_p.exp() * (log_p - q.of(c))
    });
    let sum: f64 = terms.sum();
    // Rounding may leave a sum of equal terms just below 0; `max` would make a number of what is none.
    if sum < 0.0 { 0.0 } else { sum }
}

struct LogSoftmax {
    log_sum: f64,
}

impl LogSoftmax {
    fn new(logits: &[f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        Self { log_sum: max + logits.iter().map(|&value| (f64::from(value) - max).exp()).sum::<f64>().ln() }
    }

    fn of(&self, logit: f32) -> f64 {
        f64::from(logit) - self.log_sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_for_equal_distributions_and_as_defined_for_others() {
        let logits = [0.3, -1.0, 2.0];
        let shifted = logits.map(|value| value + 5.0);
        assert!(kl_divergence(&logits, &shifted) < 1e-12);
        // p = (1/2, 1/2), q = (1/4, 3/4)
        let expected = 0.5 * 2_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        assert!((kl_divergence(&[0.0, 0.0], &[0.0, 3_f32.ln()]) - expected).abs() < 1e-7);
        assert!(kl_divergence(&[0.0, f32::NAN], &[0.0, 0.0]).is_nan());
    }
}
