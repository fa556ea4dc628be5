//! The head and the cross entropy in one: logits of all targets at once would be the largest tensor of the pass.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;
use tandem_core::divergence::LogSoftmax;
use tandem_kernels::matrix::Kernels;

use super::{apply, result, values};
use crate::linear::Linear;
use crate::operations::transposed_product;
use crate::values::tensor;

/// Targets whose logits are there at a time.
const TOGETHER: usize = 64;

/// The head, `[vocab_size, hidden_size]`.
pub(in crate::train) enum FrozenHead {
    Own(Linear),
    Tensor(Tensor),
}

impl FrozenHead {
    /// The sum of the negative log-probabilities of `targets`, by `states`, `[targets, hidden_size]`, after the last norm.
    pub(in crate::train) fn loss(&self, states: &Tensor, targets: Vec<u32>) -> Result<Tensor> {
        match self {
            Self::Own(head) => {
                apply(states, Loss { head: head.clone(), targets, wants_gradient: states.track_op(), gradient: Mutex::default() })
            }
            Self::Tensor(head) => {
                let n = targets.len();
                let targets = Tensor::from_vec(targets, (n, 1), states.device())?;
                log_softmax(&states.matmul(&head.t()?)?, 1)?.gather(&targets, 1)?.sum_all()?.neg()
            }
        }
    }
}

struct Loss {
    head: Linear,
    targets: Vec<u32>,
    wants_gradient: bool,
    /// By the states, which is cheapest to compute where the logits are.
    gradient: Mutex<Vec<f32>>,
}

impl CustomOp1 for Loss {
    fn name(&self) -> &'static str {
        "frozen-head-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let states = values(storage, layout)?;
        let (width, vocab_size) = (self.head.weights.columns, self.head.weights.rows);
        let mut gradient = Vec::new();
        let mut loss = 0.0;
        for (states, targets) in states.chunks(TOGETHER * width).zip(self.targets.chunks(TOGETHER)) {
            let mut logits = self.head.product_of(states, Kernels::Fastest);
            let losses: Vec<f64> = logits
                .par_chunks_mut(vocab_size)
                .zip(targets)
                .map(|(logits, &target)| {
                    let shares = LogSoftmax::new(logits);
                    let loss = -shares.of(logits[target as usize]);
                    if self.wants_gradient {
                        logits.iter_mut().for_each(|logit| *logit = shares.of(*logit).exp() as f32);
                        logits[target as usize] -= 1.0;
                    }
                    loss
                })
                .collect();
            loss += losses.iter().sum::<f64>();
            if self.wants_gradient {
                gradient.extend(transposed_product(&self.head.weights, &logits)?);
            }
        }
        *self.gradient.lock().unwrap_or_else(PoisonError::into_inner) = gradient;
        Ok(result(vec![loss as f32], ()))
    }

    fn bwd(&self, states: &Tensor, _loss: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let own = std::mem::take(&mut *self.gradient.lock().unwrap_or_else(PoisonError::into_inner));
        (tensor(own, states.shape())? * f64::from(gradient.to_scalar::<f32>()?)).map(Some)
    }
}
