//! AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, with the constants that PyTorch has.

use super::FactorGradients;
use crate::adapter::LowRankFactors;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The moments of each factor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Adam {
    pub(super) first: Vec<FactorGradients>,
    pub(super) second: Vec<FactorGradients>,
}

impl Adam {
    pub(super) fn new(factors: &[LowRankFactors]) -> Self {
        let zeros: Vec<FactorGradients> =
            factors.iter().map(|factor| FactorGradients { a: vec![0.0; factor.a.len()], b: vec![0.0; factor.b.len()] }).collect();
        Self { first: zeros.clone(), second: zeros }
    }

    /// Multiplies `gradients` by `scale` and shortens them to the length `clip`, unless that is 0; the length before that is the result.
    pub(super) fn scale_and_clip(&self, gradients: &mut [FactorGradients], scale: f64, clip: f64) -> f64 {
        let squares = gradients.iter().flat_map(|gradient| gradient.a.iter().chain(&gradient.b)).map(|g| f64::from(*g).powi(2));
        let norm = squares.sum::<f64>().sqrt() * scale;
        // As in PyTorch's `clip_grad_norm_`.
        let factor = if clip > 0.0 && norm > clip { scale * clip / (norm + 1e-6) } else { scale };
        for gradient in gradients {
            gradient.a.iter_mut().chain(&mut gradient.b).for_each(|g| *g = (f64::from(*g) * factor) as f32);
        }
        norm
    }

    /// Update number `step`, from 1 on, of `factors` by `gradients`.
    pub(super) fn update(
        &mut self,
        factors: &mut [LowRankFactors],
        gradients: &[FactorGradients],
        step: usize,
        learning_rate: f64,
        weight_decay: f64,
    ) {
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let (first_share, second_share) = (1.0 - BETA_1.powi(step), 1.0 - BETA_2.powi(step));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((factor, gradient), (first, second)) in factors.iter_mut().zip(gradients).zip(moments) {
            let values = factor.a.iter_mut().chain(&mut factor.b).zip(gradient.a.iter().chain(&gradient.b));
            let moments = first.a.iter_mut().chain(&mut first.b).zip(second.a.iter_mut().chain(&mut second.b));
            for ((value, gradient), (first, second)) in values.zip(moments) {
                let gradient = f64::from(*gradient);
                *first = (BETA_1 * f64::from(*first) + (1.0 - BETA_1) * gradient) as f32;
                *second = (BETA_2 * f64::from(*second) + (1.0 - BETA_2) * gradient * gradient) as f32;
                let direction = f64::from(*first) / first_share / ((f64::from(*second) / second_share).sqrt() + EPSILON);
                *value = (f64::from(*value) * (1.0 - learning_rate * weight_decay) - learning_rate * direction) as f32;
            }
        }
    }
}
