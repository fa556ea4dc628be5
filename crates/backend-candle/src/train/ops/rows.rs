//! What is done with each row: norms, rotation, the gated activation.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use candle_nn::ops::rms_norm_slow;
use candle_nn::rotary_emb::rope_slow;
use tandem_kernels::elementwise::{GateActivation, gated, norm_in_place, rows, silu_gradients};
use tandem_kernels::rotary::Table;
use tandem_kernels::zeros;

use super::{apply, result, values};
use crate::values::{Values, tensor};

/// Root mean square norm of the last dimension.
pub(in crate::train) enum Norm {
    Own { weight: Arc<[f32]>, eps: f32 },
    Tensor { weight: Tensor, eps: f32 },
}

impl Norm {
    pub(in crate::train) fn new(weight: Arc<[f32]>, eps: f32, device: &Device, own: bool) -> Result<Self> {
        Ok(match own {
            true => Self::Own { weight, eps },
            false => Self::Tensor { weight: Tensor::from_slice(&weight, weight.len(), device)?, eps },
        })
    }

    pub(in crate::train) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own { weight, eps } => apply(x, RmsNorm { weight: Arc::clone(weight), eps: *eps }),
            Self::Tensor { weight, eps } => rms_norm_slow(x, weight, *eps),
        }
    }
}

struct RmsNorm {
    weight: Arc<[f32]>,
    eps: f32,
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm-with-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = values(storage, layout)?.to_vec();
        rows(&mut out, self.weight.len(), |_, row| norm_in_place(row, &self.weight, self.eps));
        Ok(result(out, layout.shape()))
    }

    /// With `s = 1 / √(mean(x²) + eps)`: `s (w g) - x s³ mean(x w g)`.
    fn bwd(&self, x: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (x_values, gradients) = (Values::of(x)?, Values::of(&gradient)?);
        let width = self.weight.len();
        let mut out = zeros(x_values.len());
        rows(&mut out, width, |i, out| {
            let own = i * width..(i + 1) * width;
            let (x, gradient) = (&x_values[own.clone()], &gradients[own]);
            let squares: f32 = x.iter().map(|x| x * x).sum();
            let scale = 1.0 / (squares / width as f32 + self.eps).sqrt();
            let along: f32 = x.iter().zip(&*self.weight).zip(gradient).map(|((x, weight), g)| x * weight * g).sum();
            let share = along * scale * scale * scale / width as f32;
            for ((out, x), (weight, g)) in out.iter_mut().zip(x).zip(self.weight.iter().zip(gradient)) {
                *out = scale * weight * g - x * share;
            }
        });
        tensor(out, x.shape()).map(Some)
    }
}

/// The rotation of the rows of one text, from position 0 on.
pub(in crate::train) enum RotaryRows {
    Own(Arc<[(f32, f32)]>),
    /// `[n, head_dim / 2]` each.
    Tensors(Tensor, Tensor),
}

impl RotaryRows {
    pub(in crate::train) fn new(table: &Table, n: usize, device: &Device, own: bool) -> Result<Self> {
        let (cosines, sines) = table.at(&(0..n).collect::<Vec<_>>());
        Ok(match own {
            true => Self::Own(cosines.into_iter().zip(sines).collect()),
            false => {
                let half = cosines.len() / n;
                let on_device = |values| Tensor::from_vec(values, (n, half), &Device::Cpu)?.to_device(device);
                Self::Tensors(on_device(cosines)?, on_device(sines)?)
            }
        })
    }

    /// Rotates `x`, `[heads, n, head_dim]`.
    pub(in crate::train) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Own(turns) => apply(x, Rotation { turns: Arc::clone(turns), sign: 1.0 }),
            Self::Tensors(cosines, sines) => rope_slow(&x.unsqueeze(0)?, cosines, sines)?.squeeze(0),
        }
    }
}

struct Rotation {
    /// The cosine and the sine of each pair of each row.
    turns: Arc<[(f32, f32)]>,
    /// Of the sines.
    sign: f32,
}

impl Rotation {
    fn rotated(&self, x: &[f32], head_dim: usize) -> Vec<f32> {
        let half = head_dim / 2;
        let n = self.turns.len() / half;
        let mut out = x.to_vec();
        rows(&mut out, n * head_dim, |_, head| {
            for (row, turns) in head.chunks_exact_mut(head_dim).zip(self.turns.chunks_exact(half)) {
                let (first, second) = row.split_at_mut(half);
                for ((first, second), (cosine, sine)) in first.iter_mut().zip(second).zip(turns) {
                    let sine = self.sign * sine;
                    (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
                }
            }
        });
        out
    }
}

impl CustomOp1 for Rotation {
    fn name(&self) -> &'static str {
        "rotation-with-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let head_dim = layout.dims()[2];
        Ok(result(self.rotated(values(storage, layout)?, head_dim), layout.shape()))
    }

    /// The rotation back.
    fn bwd(&self, x: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let back = Rotation { turns: Arc::clone(&self.turns), sign: -self.sign };
        tensor(back.rotated(&Values::of(&gradient)?, x.dim(2)?), x.shape()).map(Some)
    }
}

/// `silu(gate) * up` of `gate_up`, `[n, 2 * width]`, whose first half is the gate.
pub(in crate::train) fn silu_product(gate_up: &Tensor, own: bool) -> Result<Tensor> {
    if own {
        return apply(gate_up, SiluProduct);
    }
    let width = gate_up.dim(1)? / 2;
    gate_up.narrow(1, 0, width)?.silu()? * gate_up.narrow(1, width, width)?
}

struct SiluProduct;

impl CustomOp1 for SiluProduct {
    fn name(&self) -> &'static str {
        "silu-product-with-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, both) = layout.shape().dims2()?;
        let mut out = zeros(n * both / 2);
        gated(GateActivation::Silu, values(storage, layout)?, both / 2, &mut out);
        Ok(result(out, (n, both / 2)))
    }

    fn bwd(&self, gate_up: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (both, gradients) = (Values::of(gate_up)?, Values::of(&gradient)?);
        let width = gradient.dim(1)?;
        let mut out = zeros(both.len());
        rows(&mut out, 2 * width, |i, out| {
            silu_gradients(&both[2 * i * width..2 * (i + 1) * width], &gradients[i * width..(i + 1) * width], out);
        });
        tensor(out, gate_up.shape()).map(Some)
    }
}
