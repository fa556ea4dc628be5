//! The decoder for CUDA (feature `candle-cuda`), in candle's own operations instead of our kernels.
//!
//! Norms, rotary tables and softmax are computed in f32 whatever the dtype of the weights, as in transformers. candle's operations also
//! exist on the processor, where the conformance suite and the goldens test this decoder. They were run on an H100 by hand
//! (`TANDEM_TEST_DEVICE`).

mod update;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::{rms_norm, softmax_last_dim};
use candle_nn::rotary_emb::rope;
use tandem_core::adapter::AdapterSum;
use tandem_core::{CancelToken, TokenId};
use tandem_kernels::attention::{AttentionMask, Scoring};
use tandem_kernels::elementwise::GateActivation;
use tandem_kernels::matrix::{Kernels, Matrix};
use tandem_kernels::rotary::{Heads, Rotary};

use self::update::DeviceUpdate;
use crate::decoder::{Decode, Decoder, ForwardHooks, Layer, QkvHeads, Span, last_queries, select_outputs};
use crate::kv_layout::KvLayout;
use crate::linear::{Linear, Modules};
use crate::operations::to_tensor;
use crate::values::Values;

/// A decoder with its weights on `device`, in `dtype`. Copies share them.
#[derive(Clone)]
pub(crate) struct DeviceDecoder {
    /// `[vocab_size, hidden_size]`
    embedding: Tensor,
    embedding_scale: Option<f32>,
    layers: Vec<DeviceLayer>,
    /// `[hidden_size]`
    norm: Tensor,
    head: Projection,
    logits_softcap: Option<f32>,
    eps: f32,
    rotary: Arc<Rotary>,
    window_rotary: Option<Arc<Rotary>>,
    scoring: Scoring,
    activation: GateActivation,
    heads: Heads,
    dtype: DType,
    device: Device,
}

/// One layer; see [`Layer`].
#[derive(Clone)]
struct DeviceLayer {
    attention_norm: Tensor,
    qkv: Projection,
    qk_norms: Option<(Tensor, Tensor)>,
    attention_out: Projection,
    post_attention_norm: Option<Tensor>,
    mlp_norm: Tensor,
    gate_up: Projection,
    down: Projection,
    post_mlp_norm: Option<Tensor>,
    window: Option<usize>,
}

/// `x W + b`
#[derive(Clone)]
struct Projection {
    /// `[inputs, outputs]`
    weights: Tensor,
    /// `[outputs]`
    bias: Option<Tensor>,
    modules: Modules,
    /// That of the adapters.
    update: Option<Arc<DeviceUpdate>>,
}

/// The dtype and device of the weights.
struct Target<'d> {
    dtype: DType,
    device: &'d Device,
}

impl DeviceDecoder {
    /// Moves the weights of `decoder`, which are floats, to `device`, one after the other.
    pub(crate) fn new(decoder: Decoder, dtype: DType, device: &Device) -> Result<Self> {
        let target = Target { dtype, device };
        let layers = decoder.layers.into_iter().map(|layer| target.layer(layer)).collect::<Result<_>>()?;
        let embedding = target.matrix(&decoder.embedding)?;
        let head = match Arc::ptr_eq(&decoder.head.weights, &decoder.embedding) {
            true => embedding.clone(),
            false => target.matrix(&decoder.head.weights)?,
        };
        Ok(Self {
            head: Projection { weights: head.t()?, bias: None, modules: decoder.head.modules, update: None },
            embedding,
            embedding_scale: decoder.embedding_scale,
            layers,
            norm: target.vector(&decoder.norm)?,
            logits_softcap: decoder.logits_softcap,
            eps: decoder.rms_norm_eps,
            rotary: decoder.rotary,
            window_rotary: decoder.window_rotary,
            scoring: decoder.scoring,
            activation: decoder.activation,
            heads: decoder.heads,
            dtype,
            device: device.clone(),
        })
    }

    /// Queries, keys and values of `projected`, `[n, (queries + 2 * keys) * head_dim]`: `[heads, n, head_dim]` each, normed and rotated.
    fn heads(&self, projected: &Tensor, norms: Option<&(Tensor, Tensor)>, rotation: &Rotation) -> Result<[Tensor; 3]> {
        let n = projected.dim(0)?;
        let Heads { queries, keys, head_dim } = self.heads;
        let part = |first: usize, heads: usize| {
            projected.narrow(1, first * head_dim, heads * head_dim)?.reshape((n, heads, head_dim))?.contiguous()
        };
        let rotated = |x: Tensor| {
            let x = x.transpose(0, 1)?.contiguous()?.unsqueeze(0)?;
            rope(&x, &rotation.cosines, &rotation.sines)?.squeeze(0)
        };
        Ok([
            rotated(self.optional_norm(part(0, queries)?, norms.map(|norms| &norms.0))?)?,
            rotated(self.optional_norm(part(queries, keys)?, norms.map(|norms| &norms.1))?)?,
            part(queries + keys, keys)?.transpose(0, 1)?.contiguous()?,
        ])
    }

    fn attention_block(
        &self,
        index: usize,
        normed: &Tensor,
        spans: &[Span],
        rotations: &[Rotation],
        hooks: &mut dyn ForwardHooks,
    ) -> Result<Tensor> {
        let layer = &self.layers[index];
        let projected = layer.qkv.forward(normed)?;
        let mut parts = Vec::with_capacity(spans.len());
        for (number, (span, rotation)) in spans.iter().zip(rotations).enumerate() {
            let own = projected.narrow(0, span.rows.start, span.rows.len())?;
            let [queries, keys, values] = self.heads(&own, layer.qk_norms.as_ref(), rotation)?;
            let n_queries = if index + 1 == self.layers.len() { span.n_outputs } else { span.rows.len() };
            parts.push(hooks.attend(QkvHeads {
                layer: index,
                span: number,
                first_query: span.first_position + span.rows.len() - n_queries,
                window: layer.window,
                kernels: Kernels::Fastest,
                queries: last_queries(&queries, n_queries)?,
                keys,
                values,
            })?);
        }
        let output = layer.attention_out.forward(&Tensor::cat(&parts, 0)?)?;
        self.optional_norm(output, layer.post_attention_norm.as_ref())
    }

    /// The output of the feed-forward block for `x`, to be added to it.
    fn mlp_block(&self, layer: &DeviceLayer, x: &Tensor) -> Result<Tensor> {
        let gate_up = layer.gate_up.forward(&rms_norm(x, &layer.mlp_norm, self.eps)?)?;
        let inner = gate_up.dim(1)? / 2;
        let (gate, up) = (gate_up.narrow(1, 0, inner)?, gate_up.narrow(1, inner, inner)?);
        let gate = match self.activation {
            GateActivation::Silu => gate.silu()?,
            GateActivation::GeluTanh => gate.gelu()?,
        };
        self.optional_norm(layer.down.forward(&(gate * up)?)?, layer.post_mlp_norm.as_ref())
    }

    fn optional_norm(&self, x: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            Some(weight) => rms_norm(&x, weight, self.eps),
            None => Ok(x),
        }
    }

    fn rotation(&self, rotary: &Rotary, span: &Span) -> Result<Rotation> {
        let positions: Vec<usize> = (span.first_position..span.first_position + span.rows.len()).collect();
        let n_positions = span.first_position + span.rows.len();
        let (cosines, sines) = rotary.table(n_positions).at(&positions);
        let shape = (positions.len(), self.heads.head_dim / 2);
        let tensor = |values| Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device);
        Ok(Rotation { cosines: tensor(cosines)?, sines: tensor(sines)? })
    }

    fn on_processor(&self, x: &Tensor) -> Result<Tensor> {
        x.to_dtype(DType::F32)?.to_device(&Device::Cpu)
    }
}

/// The cosines and sines of the rows of a span: `[n, head_dim / 2]` each.
struct Rotation {
    cosines: Tensor,
    sines: Tensor,
}

impl Decode for DeviceDecoder {
    fn kv_layout(&self) -> KvLayout {
        KvLayout {
            kv_heads: self.heads.keys,
            head_dim: self.heads.head_dim,
            dtype: self.dtype,
            device: self.device.clone(),
            for_kernels: false,
        }
    }

    fn forward(
        &self,
        tokens: &[TokenId],
        spans: &[Span],
        cancel: &CancelToken,
        hooks: &mut dyn ForwardHooks,
    ) -> Result<Option<Tensor>> {
        let rotations = |rotary: &Arc<Rotary>| spans.iter().map(|span| self.rotation(rotary, span)).collect::<Result<Vec<_>>>();
        let all_rotations = rotations(&self.rotary)?;
        let window_rotations = self.window_rotary.as_ref().map(rotations).transpose()?;
        let mut x = self.embedding.index_select(&Tensor::new(tokens, &self.device)?, 0)?;
        if let Some(scale) = self.embedding_scale {
            x = (x * f64::from(scale))?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let normed = rms_norm(&x, &layer.attention_norm, self.eps)?;
            let rotations = window_rotations.as_ref().filter(|_| layer.window.is_some()).unwrap_or(&all_rotations);
            let attended = self.attention_block(index, &normed, spans, rotations, hooks)?;
            if index + 1 == self.layers.len() {
                x = select_outputs(&x, spans)?;
            }
            x = (x + attended)?;
            x = (&x + self.mlp_block(layer, &x)?)?;
        }
        Ok(if cancel.is_cancelled() { None } else { Some(x) })
    }

    fn scoring(&self) -> Scoring {
        self.scoring
    }

    /// Heads that share keys are rows of one product, so that keys and values are not repeated.
    fn attention(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, mask: AttentionMask) -> Result<Tensor> {
        let (n_heads, n, head_dim) = queries.dims3()?;
        let kv_heads = keys.dim(0)?;
        let (start, end) = (mask.visible(0).start, mask.visible(n - 1).end);
        let visible = |cache: &Tensor| cache.narrow(1, start, end - start);
        let queries = (queries.reshape((kv_heads, n_heads / kv_heads * n, head_dim))? * f64::from(self.scoring.scale))?;
        let scores = queries.matmul(&visible(keys)?.transpose(1, 2)?)?.to_dtype(DType::F32)?;
        let scores = softcapped(scores, self.scoring.softcap)?;
        let scores = match n {
            1 => scores,
            _ => {
                let by_head = scores.reshape((n_heads, n, end - start))?;
                by_head.broadcast_add(&self.mask_tensor(start, n, mask)?)?.reshape(scores.shape())?
            }
        };
        let weights = softmax_last_dim(&scores)?.to_dtype(self.dtype)?;
        let out = weights.matmul(&visible(values)?)?;
        out.reshape((n_heads, n, head_dim))?.transpose(0, 1)?.contiguous()?.reshape((n, n_heads * head_dim))
    }

    fn normed(&self, states: &Tensor) -> Result<Tensor> {
        self.on_processor(&rms_norm(&states.contiguous()?, &self.norm, self.eps)?)
    }

    fn write_logits(&self, states: &Tensor, _lengths: &[usize], out: &mut [f32]) -> Result<()> {
        let logits = self.head.forward(&rms_norm(&states.contiguous()?, &self.norm, self.eps)?)?;
        let logits = softcapped(self.on_processor(&logits)?, self.logits_softcap)?;
        out.copy_from_slice(&Values::of(&logits)?);
        Ok(())
    }

    fn adapted(&self, adapters: &mut AdapterSum<'_>) -> tandem_core::Result<Box<dyn Decode>> {
        let mut adapted = self.clone();
        for layer in &mut adapted.layers {
            for projection in [&mut layer.qkv, &mut layer.attention_out, &mut layer.gate_up, &mut layer.down] {
                projection.adapt(adapters)?;
            }
        }
        adapted.head.adapt(adapters)?;
        Ok(Box::new(adapted))
    }
}

impl DeviceDecoder {
    /// 0 where a query attends to a position from `start` on and negative infinity elsewhere: `[n, positions]`.
    fn mask_tensor(&self, start: usize, n: usize, mask: AttentionMask) -> Result<Tensor> {
        let bounds = |bound: fn(std::ops::Range<usize>) -> usize| {
            let bounds: Vec<i64> = (0..n).map(|row| bound(mask.visible(row)) as i64).collect();
            Tensor::from_vec(bounds, (n, 1), &self.device)
        };
        let keys = Tensor::arange(start as i64, mask.visible(n - 1).end as i64, &self.device)?.unsqueeze(0)?;
        let (after, before) =
            (keys.broadcast_ge(&bounds(|visible| visible.start)?)?, keys.broadcast_lt(&bounds(|visible| visible.end)?)?);
        let visible = (after * before)?;
        let zeros = Tensor::zeros(visible.shape(), DType::F32, &self.device)?;
        let hidden = Tensor::full(f32::NEG_INFINITY, visible.shape(), &self.device)?;
        visible.where_cond(&zeros, &hidden)
    }
}

/// `cap * tanh(x / cap)`, or `x` without a cap.
fn softcapped(x: Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap.map(f64::from) {
        Some(cap) => (x / cap)?.tanh()? * cap,
        None => Ok(x),
    }
}

impl Projection {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut product = x.matmul(&self.weights)?;
        if let Some(update) = &self.update {
            product = update.apply(x, &product)?;
        }
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

impl Target<'_> {
    fn layer(&self, layer: Layer) -> Result<DeviceLayer> {
        Ok(DeviceLayer {
            attention_norm: self.vector(&layer.attention_norm)?,
            qkv: self.projection(layer.qkv)?,
            qk_norms: match layer.qk_norms {
                Some((queries, keys)) => Some((self.vector(&queries)?, self.vector(&keys)?)),
                None => None,
            },
            attention_out: self.projection(layer.attention_out)?,
            post_attention_norm: layer.post_attention_norm.map(|norm| self.vector(&norm)).transpose()?,
            mlp_norm: self.vector(&layer.mlp_norm)?,
            gate_up: self.projection(layer.gate_up)?,
            down: self.projection(layer.down)?,
            post_mlp_norm: layer.post_mlp_norm.map(|norm| self.vector(&norm)).transpose()?,
            window: layer.window,
        })
    }

    fn projection(&self, linear: Linear) -> Result<Projection> {
        let bias = linear.bias.as_ref().map(|bias| self.vector(bias)).transpose()?;
        Ok(Projection { weights: self.matrix(&linear.weights)?.t()?, bias, modules: linear.modules, update: None })
    }

    fn matrix(&self, matrix: &Matrix) -> Result<Tensor> {
        self.tensor(to_tensor(matrix)?)
    }

    fn vector(&self, values: &[f32]) -> Result<Tensor> {
        self.tensor(Tensor::from_slice(values, values.len(), &Device::Cpu)?)
    }

    /// Converts before the transfer, which halves what goes over the bus.
    fn tensor(&self, tensor: Tensor) -> Result<Tensor> {
        tensor.to_dtype(self.dtype)?.to_device(self.device)
    }
}

#[cfg(test)]
mod tests;
