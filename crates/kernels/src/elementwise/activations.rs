//! Activation functions of encoders, in place.

use tandem_core::config::Activation;

use super::exp;
use crate::isa::vectorized;

/// Replaces each value by its activation.
pub fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Gelu => gelu(values),
        Activation::GeluTanh => gelu_tanh(values),
        Activation::Relu => relu(values),
        Activation::Silu => silu(values),
    }
}

/// Writes `activation(a) * b` of the halves `a` and `b` of `both` to `out`, which is as long as a half.
pub(crate) fn product_of_halves(activation: Activation, both: &[f32], out: &mut [f32]) {
    let (first, second) = both.split_at(out.len());
    out.copy_from_slice(first);
    activate(activation, out);
    multiply(out, second);
}

vectorized! {
    fn multiply(values: &mut [f32], others: &[f32]) {
        values.iter_mut().zip(others).for_each(|(value, other)| *value *= other);
    }
}

vectorized! {
    fn gelu(values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = gelu_of(*value));
    }
}

vectorized! {
    /// As in `elementwise::gelu_product`.
    fn gelu_tanh(values: &mut [f32]) {
        const FACTOR: f32 = -2.0 * 0.797_884_6;
        for value in values {
            *value = *value / (1.0 + exp(FACTOR * (*value + 0.044_715 * *value * *value * *value)));
        }
    }
}

vectorized! {
    fn relu(values: &mut [f32]) {
        // NaN stays.
        values.iter_mut().for_each(|value| *value = if *value <= 0.0 { 0.0 } else { *value });
    }
}

vectorized! {
    fn silu(values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = *value / (1.0 + exp(-*value)));
    }
}

/// `x/2 * (1 + erf(x / √2))` as `max(x, 0) - |x| * r(|x|)`, where `r` is `erfc(|x| / √2) / 2`: a polynomial, fitted at Chebyshev's nodes by
/// least squares weighted by `|x|`. The error is below 3e-7; beyond `LAST` what is subtracted is below 1e-7.
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    const LAST: f32 = 5.6;
    /// Of `2 |x| / LAST - 1`, from its twelfth power on by fours, and of the sixteenth.
    const HIGH: [f32; 4] = [-0.029_842_347, 0.046_583_65, -0.006_304_761, -0.009_461_293];
    const COEFFICIENTS: [[f32; 4]; 3] = [
        [-0.188_809_54, -0.007_787_576_4, 0.136_221_66, -0.079_543_605],
        [0.274_745_1, -0.198_053_6, -0.028_755_879, 0.218_498_47],
        [0.002_555_139_4, -0.022_163_49, 0.086_878_87, -0.198_072_75],
    ];
    const HIGHEST: f32 = 0.003_311_940_7;
    let size = if x.abs() < LAST { x.abs() } else { LAST };
    let argument = size * (2.0 / LAST) - 1.0;
    let square = argument * argument;
    let fourth = square * square;
    // Four sums, so that few of the steps wait for another.
    let mut sums = [HIGHEST * fourth + HIGH[0], HIGH[1], HIGH[2], HIGH[3]];
    for coefficients in COEFFICIENTS {
        for (sum, coefficient) in sums.iter_mut().zip(coefficients) {
            *sum = *sum * fourth + coefficient;
        }
    }
    let share = (sums[0] + argument * sums[1]) + square * (sums[2] + argument * sums[3]);
    // NaN stays.
    let positive = if x <= 0.0 { 0.0 } else { x };
    positive - size * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
            Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh()),
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
        }
    }

    #[test]
    fn activations_match_f64() {
        let inputs: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 / 2_000.0).collect();
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
            let mut values = inputs.clone();
            activate(activation, &mut values);
            for (x, value) in inputs.iter().zip(values) {
                let expected = exact(activation, f64::from(*x));
                let allowed = if activation == Activation::Gelu { 1e-6 } else { 1e-6 * f64::from(x.abs()).max(1.0) };
                assert!((f64::from(value) - expected).abs() <= allowed, "{activation:?} {x}: {value} {expected}");
            }
        }
    }

    #[test]
    fn nan_stays() {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
            let mut values = [f32::NAN];
            activate(activation, &mut values);
            assert!(values[0].is_nan(), "{activation:?}");
        }
    }
}
