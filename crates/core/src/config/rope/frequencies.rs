//! Inverse frequencies, step by step in f32 as transformers computes them (`modeling_rope_utils.py`), so that both agree to the
//! last place or two; bounds that it computes in Python's doubles are f64 here.

use std::f64::consts::PI;

use super::{Llama3Rope, RopeConfig, RopeScaling, YarnRope};

impl RopeConfig {
    /// The angle of each pair of dimensions at position 1: `[head_dim / 2]`. Position `p` turns pair `i` by `p * inv_freq[i]`.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        let powers = powers(self.theta, head_dim);
        let plain = powers.iter().map(|power| 1.0 / power);
        match &self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / *factor as f32).collect(),
            RopeScaling::Llama3(llama3) => plain.map(|frequency| llama3.scale(frequency)).collect(),
            RopeScaling::Yarn(yarn) => yarn.scale(&powers, self.theta, head_dim),
            RopeScaling::Factors(factors) => plain.zip(factors).map(|(frequency, factor)| frequency / factor).collect(),
        }
    }

    /// What cosine and sine are multiplied by; 1 but for YaRN.
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor() as f32,
            _ => 1.0,
        }
    }
}

impl Llama3Rope {
    fn scale(&self, frequency: f32) -> f32 {
        let context = self.original_max_position as f64;
        let wavelength = (2.0 * PI) as f32 / frequency;
        let factor = self.factor as f32;
        if wavelength > (context / self.low_freq_factor) as f32 {
            return frequency / factor;
        }
        if wavelength < (context / self.high_freq_factor) as f32 {
            return frequency;
        }
        let span = (self.high_freq_factor - self.low_freq_factor) as f32;
        let smooth = (context as f32 / wavelength - self.low_freq_factor as f32) / span;
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

impl YarnRope {
    fn scale(&self, powers: &[f32], theta: f64, head_dim: usize) -> Vec<f32> {
        let (low, high) = self.ramp(theta, head_dim);
        let scaled = |(i, power): (usize, &f32)| {
            let kept = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let (extrapolated, interpolated) = (1.0 / power, 1.0 / (self.factor as f32 * power));
            interpolated * (1.0 - kept) + extrapolated * kept
        };
        powers.iter().enumerate().map(scaled).collect()
    }

    /// The pairs of dimensions between which frequencies go from kept to interpolated.
    fn ramp(&self, theta: f64, head_dim: usize) -> (f64, f64) {
        let dim = head_dim as f64;
        let bound =
            |rotations: f64| (dim * (self.original_max_position as f64 / (rotations * 2.0 * PI)).ln()) / (2.0 * theta.ln());
        let (mut low, mut high) = (bound(self.beta_fast), bound(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // As upstream: a ramp of no width would divide by zero.
        if low == high { (low, high + 0.001) } else { (low, high) }
    }

    fn attention_factor(&self) -> f64 {
        if let Some(given) = self.attention_factor {
            return given;
        }
        let weighted = |mscale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 };
        match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all_dim)) if mscale != 0.0 && all_dim != 0.0 => weighted(mscale) / weighted(all_dim),
            _ => weighted(1.0),
        }
    }
}

/// `theta^(2i / head_dim)` for each pair of dimensions; the power itself is taken in f64 and rounded once.
fn powers(theta: f64, head_dim: usize) -> Vec<f32> {
    let theta = f64::from(theta as f32);
    let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
    (0..head_dim / 2).map(|i| theta.powf(f64::from(exponent(i))) as f32).collect()
}
