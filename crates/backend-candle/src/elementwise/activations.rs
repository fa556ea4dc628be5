//! Activation functions of encoders, in place.

use tandem_core::config::Activation;

use super::exp;
use crate::kernel::vectorized;

/// Replaces each value by its activation.
pub(crate) fn activate(activation: Activation, values: &mut [f32]) {
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

/// `x/2 * (1 + erf(x / √2))`, with the error function as a quotient of polynomials: Eigen's (`generic_fast_erf_float` in
/// `unsupported/Eigen/src/SpecialFunctions/SpecialFunctionsImpl.h`, <https://gitlab.com/libeigen/eigen>).
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    const LARGEST: f32 = 4.0;
    let argument = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-LARGEST, LARGEST);
    let square = argument * argument;
    let mut numerator = -2.726_142_3e-10;
    for coefficient in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_599_8e-3, -1.609_603_4e-2] {
        numerator = numerator * square + coefficient;
    }
    let mut denominator = -1.456_607_2e-5;
    for coefficient in [-2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        denominator = denominator * square + coefficient;
    }
    // Below it the value is zero but for a rounding error of the sum, which must not grow with `x`.
    let bounded = if x < -LARGEST * std::f32::consts::SQRT_2 { -LARGEST * std::f32::consts::SQRT_2 } else { x };
    0.5 * bounded * (1.0 + argument * numerator / denominator)
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
