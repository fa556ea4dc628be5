//! How far one distribution over the vocabulary is from another.

/// The logarithm of the softmax of logits, in double precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSoftmax {
    log_sum: f64,
}

impl LogSoftmax {
    /// Of `logits`, `[vocab_size]`.
    pub fn new(logits: &[f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        Self { log_sum: max + logits.iter().map(|&value| (f64::from(value) - max).exp()).sum::<f64>().ln() }
    }

    /// The natural logarithm of the probability of a token with this logit.
    pub fn of(&self, logit: f32) -> f64 {
        f64::from(logit) - self.log_sum
    }
}

/// The Kullback-Leibler divergences between softmax(`reference`) and softmax(`candidate`), in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergences {
    /// Of the candidate from the reference: the sum over tokens of p ln(p / q), where p is the reference.
    pub forward: f64,
    /// Of the reference from the candidate: the sum of q ln(q / p).
    pub backward: f64,
}

impl Divergences {
    /// Of logits, `[vocab_size]` each; infinite or undefined logits give NaN.
    pub fn new((reference, p): (&[f32], LogSoftmax), (candidate, q): (&[f32], LogSoftmax)) -> Self {
        let (mut forward, mut backward) = (0.0, 0.0);
        for (&r, &c) in reference.iter().zip(candidate) {
            let (log_p, log_q) = (p.of(r), q.of(c));
            forward += log_p.exp() * (log_p - log_q);
            backward += log_q.exp() * (log_q - log_p);
        }
        Self { forward: not_negative(forward), backward: not_negative(backward) }
    }
}

/// The Kullback-Leibler divergence of softmax(`candidate`) from softmax(`reference`), in nats: the sum over tokens of
/// p ln(p / q), where p is the reference. Both are logits, `[vocab_size]`; infinite or undefined logits give NaN.
pub fn kl_divergence(reference: &[f32], candidate: &[f32]) -> f64 {
    let (p, q) = (LogSoftmax::new(reference), LogSoftmax::new(candidate));
    let terms = reference.iter().zip(candidate).map(|(&r, &c)| {
        let log_p = p.of(r);
        log_p.exp() * (log_p - q.of(c))
    });
    not_negative(terms.sum())
}

/// Rounding may leave a sum of equal terms just below 0; `max` would turn NaN into a number.
fn not_negative(sum: f64) -> f64 {
    if sum < 0.0 { 0.0 } else { sum }
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

    #[test]
    fn both_ways_are_those_of_one_way_with_the_sides_changed() {
        let (reference, candidate) = ([0.3, -1.0, 2.0, 0.0], [0.2, -0.5, 1.0, 3.0]);
        let both = Divergences::new((&reference, LogSoftmax::new(&reference)), (&candidate, LogSoftmax::new(&candidate)));
        assert!((both.forward - kl_divergence(&reference, &candidate)).abs() < 1e-12);
        assert!((both.backward - kl_divergence(&candidate, &reference)).abs() < 1e-12);
        assert!(both.forward > 0.1 && (both.forward - both.backward).abs() > 0.01);
    }
}
