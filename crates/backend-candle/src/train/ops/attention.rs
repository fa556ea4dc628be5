//! Causal attention of one text to itself, whose weights are computed again for the gradient instead of being kept.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use candle_nn::ops::softmax;
use tandem_kernels::attention::{AttentionMask, CacheLayout, CacheView, Scoring, attention};
use tandem_kernels::matrix::Kernels;
use tandem_kernels::zeros;

use super::{result, values};

/// How scores are made and which are seen.
#[derive(Clone, Copy)]
pub(in crate::train) struct Attention {
    pub(in crate::train) mask: AttentionMask,
    pub(in crate::train) scoring: Scoring,
}

impl Attention {
    /// `q` is `[heads, n, head_dim]`, `k` and `v` are `[kv_heads, n, head_dim]`; the result is `[n, heads * head_dim]`.
    pub(in crate::train) fn forward(self, q: &Tensor, k: &Tensor, v: &Tensor, own: bool) -> Result<Tensor> {
        if own {
            return q.apply_op3(k, v, self);
        }
        let (heads, n, head_dim) = q.dims3()?;
        let out = self.weights(q, k)?.matmul(v)?;
        out.reshape((heads, n, head_dim))?.transpose(0, 1)?.contiguous()?.reshape((n, heads * head_dim))
    }

    /// The weights of positions, `[kv_heads, heads / kv_heads * n, n]`: the rows of the heads that share keys stand together.
    fn weights(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let (heads, n, head_dim) = q.dims3()?;
        let kv_heads = k.dim(0)?;
        let rows = q.reshape((kv_heads, heads / kv_heads * n, head_dim))?;
        let scores = (rows.matmul(&k.t()?)? * f64::from(self.scoring.scale))?;
        let hidden = |row: usize| {
            let visible = self.mask.visible(row);
            (0..n).map(move |position| if visible.contains(&position) { 0.0 } else { f32::NEG_INFINITY })
        };
        let mask = Tensor::from_vec((0..n).flat_map(hidden).collect::<Vec<f32>>(), (n, n), q.device())?;
        let scores = scores.reshape((kv_heads, heads / kv_heads, n, n))?.broadcast_add(&mask)?;
        softmax(&scores, 3)?.reshape((kv_heads, heads / kv_heads * n, n))
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention-with-gradient"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (heads, n, head_dim) = q_layout.shape().dims3()?;
        let layout = CacheLayout::contiguous(<[usize; 3]>::from(k_layout.shape().dims3()?));
        let (q, k, v) = (values(q, q_layout)?, values(k, k_layout)?, values(v, v_layout)?);
        let mut out = zeros(n * heads * head_dim);
        let caches = [k, v].map(|values| CacheView { values, layout });
        attention(q, caches, [heads, n], self.mask, self.scoring, Kernels::Fastest, &mut out);
        Ok(result(out, (n, heads * head_dim)))
    }

    /// With weights `p` and scores `s`: `dv = pᵀ g`, `dp = g vᵀ`, `ds = p (dp - Σ p dp)`, `dq = ds k`, `dk = dsᵀ q`, the last two times the
    /// scale of the scores.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (heads, n, head_dim) = q.dims3()?;
        let kv_heads = k.dim(0)?;
        let scale = f64::from(self.scoring.scale);
        // Nothing of it is differentiated again.
        let (q, k, v) = (q.detach(), k.detach(), v.detach());
        let by_heads = |x: &Tensor| x.reshape((kv_heads, heads / kv_heads * n, head_dim));
        let gradient = by_heads(&gradient.reshape((n, heads, head_dim))?.transpose(0, 1)?.contiguous()?)?;
        let weights = self.weights(&q, &k)?;
        let of_weights = gradient.matmul(&v.t()?)?;
        let of_values = weights.t()?.matmul(&gradient)?;
        let along = (&weights * &of_weights)?.sum_keepdim(2)?;
        let of_scores = ((weights * of_weights.broadcast_sub(&along)?)? * scale)?;
        let of_queries = of_scores.matmul(&k)?.reshape((heads, n, head_dim))?;
        let of_keys = of_scores.t()?.matmul(&by_heads(&q)?)?;
        Ok((Some(of_queries), Some(of_keys), Some(of_values)))
    }
}
