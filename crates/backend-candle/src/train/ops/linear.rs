//! A linear layer whose weights have no gradient, with the products of factors beside it.

use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use tandem_kernels::matrix::Kernels;

use super::{result, values};
use crate::linear::Linear;
use crate::operations::{to_tensor, transposed_product};
use crate::values::{Values, tensor};

/// `x Wᵀ + b`
pub(in crate::train) enum FrozenLinear {
    /// With our kernels.
    Own(Linear),
    /// With candle's product: `[inputs, outputs]` and `[outputs]`. candle computes the gradient of the weights as well.
    Tensors { weights: Tensor, bias: Option<Tensor> },
}

/// `A`, `[rank, inputs]`, `B`, `[outputs, rank]`, and the scale of their product.
pub(in crate::train) type Pair = (Tensor, Tensor, f64);

impl FrozenLinear {
    pub(in crate::train) fn new(linear: Linear, device: &Device, own: bool) -> Result<Self> {
        if own {
            return Ok(Self::Own(linear));
        }
        let bias = match linear.bias {
            Some(bias) => Some(Tensor::from_slice(&bias, bias.len(), device)?),
            None => None,
        };
        let weights = to_tensor(&linear.weights)?.to_dtype(DType::F32)?.to_device(device)?.t()?;
        Ok(Self::Tensors { weights, bias })
    }

    pub(in crate::train) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// The width of what it gives.
    pub(in crate::train) fn outputs(&self) -> usize {
        match self {
            Self::Own(linear) => linear.weights.rows,
            Self::Tensors { weights, .. } => weights.dims()[1],
        }
    }

    /// Applies it to `x`, `[n, inputs]`, with the factors of its `parts`, `(factors, outputs)` each, which stand side by side.
    pub(in crate::train) fn forward(&self, x: &Tensor, parts: &[(&Option<Pair>, usize)]) -> Result<Tensor> {
        match self {
            Self::Own(linear) => own(linear, x, parts),
            Self::Tensors { weights, bias } => {
                let product = match bias {
                    Some(bias) => x.matmul(weights)?.broadcast_add(bias)?,
                    None => x.matmul(weights)?,
                };
                match parts.iter().any(|(factors, _)| factors.is_some()) {
                    true => product + updates(x, parts)?,
                    false => Ok(product),
                }
            }
        }
    }
}

/// The products with the factors, `[n, outputs]`.
fn updates(x: &Tensor, parts: &[(&Option<Pair>, usize)]) -> Result<Tensor> {
    let of = |(factors, outputs): &(&Option<Pair>, usize)| match factors {
        Some((a, b, scale)) => (x.matmul(&a.t()?)? * *scale)?.matmul(&b.t()?),
        None => Tensor::zeros((x.dim(0)?, *outputs), x.dtype(), x.device()),
    };
    Tensor::cat(&parts.iter().map(of).collect::<Result<Vec<_>>>()?, 1)
}

/// One operation of `x` and all factors, so that nothing as wide as the output is computed twice.
fn own(linear: &Linear, x: &Tensor, parts: &[(&Option<Pair>, usize)]) -> Result<Tensor> {
    let mut layout = Vec::with_capacity(parts.len());
    let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
    let mut first = 0;
    for (factors, outputs) in parts {
        if let Some((a, b, scale)) = factors {
            layout.push(Part { first, outputs: *outputs, rank: a.dim(0)?, scale: *scale });
            all_a.push(a.clone());
            all_b.push(b.flatten_all()?);
        }
        first += outputs;
    }
    let device = x.device();
    let (a, b) = match layout.is_empty() {
        true => (Tensor::zeros((0, linear.weights.columns), DType::F32, device)?, Tensor::zeros(0, DType::F32, device)?),
        false => (Tensor::cat(&all_a, 0)?, Tensor::cat(&all_b, 0)?),
    };
    x.contiguous()?.apply_op3(&a, &b, Product { linear: linear.clone(), parts: layout })
}

/// The outputs that one module has, and its factors among those of all.
struct Part {
    /// The first of its outputs.
    first: usize,
    outputs: usize,
    rank: usize,
    scale: f64,
}

/// `x Wᵀ + b`, and `scale * (x Aᵀ) Bᵀ` for each part. The factors `A` of all parts are `[sum of ranks, inputs]`, and their `B`, `[outputs, rank]`
/// each, stand behind one another.
struct Product {
    linear: Linear,
    parts: Vec<Part>,
}

impl Product {
    /// `B` of part `index`.
    fn b(&self, all: &Tensor, index: usize) -> Result<Tensor> {
        let start = self.parts[..index].iter().map(|part| part.outputs * part.rank).sum();
        let Part { outputs, rank, .. } = self.parts[index];
        all.narrow(0, start, outputs * rank)?.reshape((outputs, rank))
    }

    /// The first rank of part `index`.
    fn first_rank(&self, index: usize) -> usize {
        self.parts[..index].iter().map(|part| part.rank).sum()
    }
}

impl CustomOp3 for Product {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (inputs, outputs) = (self.linear.weights.columns, self.linear.weights.rows);
        let (x, a, b) = (values(x, x_layout)?, values(a, a_layout)?, values(b, b_layout)?);
        let mut out = self.linear.product_of(x, Kernels::Fastest);
        if !self.parts.is_empty() {
            out.par_chunks_mut(outputs).zip(x.par_chunks(inputs)).for_each(|(out, x)| {
                let low: Vec<f32> = a.chunks_exact(inputs).map(|a| dot(a, x)).collect();
                let (mut low, mut b) = (low.as_slice(), b);
                for Part { first, outputs, rank, scale } in &self.parts {
                    let (own_low, own_b);
                    (own_low, low) = low.split_at(*rank);
                    (own_b, b) = b.split_at(outputs * rank);
                    let rows = out[*first..first + outputs].iter_mut().zip(own_b.chunks_exact(*rank));
                    rows.for_each(|(out, b)| *out += *scale as f32 * dot(own_low, b));
                }
            });
        }
        Ok(result(out, (x.len() / inputs, outputs)))
    }

    /// With `t = scale * g B`: `g W + t A` by `x`, `tᵀ x` by `A`, `scale * gᵀ (x Aᵀ)` by `B`.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let weights = &self.linear.weights;
        let gradient = gradient.contiguous()?;
        // Of the embedding nothing is trained.
        let goes_on = x.track_op();
        let (x, a, b) = (x.detach(), a.detach(), b.detach());
        let low = x.matmul(&a.t()?)?;
        let (mut backs, mut of_b) = (Vec::new(), Vec::new());
        for (index, Part { first, outputs, rank, scale }) in self.parts.iter().enumerate() {
            let own = gradient.narrow(1, *first, *outputs)?.contiguous()?;
            backs.push((own.matmul(&self.b(&b, index)?)? * *scale)?);
            let low = low.narrow(1, self.first_rank(index), *rank)?.contiguous()?;
            of_b.push((own.t()?.matmul(&low)? * *scale)?.flatten_all()?);
        }
        let of_x = match goes_on {
            true => Some(tensor(transposed_product(weights, &Values::of(&gradient)?)?, (gradient.dim(0)?, weights.columns))?),
            false => None,
        };
        if backs.is_empty() {
            return Ok((of_x, None, None));
        }
        let back = Tensor::cat(&backs, 1)?;
        let of_x = match of_x {
            Some(of_x) => Some((of_x + back.matmul(&a)?)?),
            None => None,
        };
        Ok((of_x, Some(back.t()?.matmul(&x)?), Some(Tensor::cat(&of_b, 0)?)))
    }
}

/// The product of two rows.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
