//! The encoder for CUDA (feature `candle-cuda`), in candle's own operations instead of our kernels. Never run on a GPU.
//!
//! As in [`Encoder`](super::Encoder), linear layers run over the tokens of several texts, and attention over each text alone. Norms and
//! softmax are computed in f32 whatever the dtype of the weights. candle's operations also exist on the processor, where the goldens test
//! this encoder.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};
use candle_nn::rotary_emb::rope;
use tandem_core::backend::{Capability, HiddenStates, TokenBatch};
use tandem_core::config::{Activation, ModelConfig};
use tandem_core::{CancelToken, Error, Model, ModelInfo, Session, SessionOptions, TokenId};
use tandem_kernels::Threads;
use tandem_kernels::encoder::{LayerNorm, RelativeBias};
use tandem_kernels::rotary::Rotary;

use super::weights::{RawLayer, RawLinear, Reader};
use super::{Embedding, Sequence, sequences};
use crate::error::Doing;
use crate::operations::to_tensor;
use crate::weights::CheckpointSource;

/// Tokens of texts that are computed together, but for a text that is longer.
const TOKENS_TOGETHER: usize = 4096;

/// Queries whose scores are there at a time.
const QUERIES: usize = 1024;

/// An encoder on another device than the processor.
pub(crate) struct DeviceEncoder {
    embedding: DeviceEmbedding,
    layers: Vec<DeviceLayer>,
    final_norm: Option<Norm>,
    activation: Activation,
    is_gated: bool,
    norm_first: bool,
    relative: Option<RelativeBias>,
    /// Of layers that see all, and of those with a window.
    rotary: Option<[Rotary; 2]>,
    n_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
}

/// See [`Embedding`].
struct DeviceEmbedding {
    words: Tensor,
    positions: Option<Tensor>,
    first_position: usize,
    types: Option<Tensor>,
    norm: Norm,
}

/// See [`Layer`](super::Layer).
struct DeviceLayer {
    qkv: Projection,
    attention_out: Projection,
    attention_norm: Option<Norm>,
    up: Projection,
    down: Projection,
    mlp_norm: Norm,
    window: Option<usize>,
}

/// A layer norm.
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

/// `x W + b`
struct Projection {
    /// `[inputs, outputs]`
    weights: Tensor,
    bias: Option<Tensor>,
}

/// Cosines and sines of one text: `[n, head_dim / 2]` each.
type Rotation = (Tensor, Tensor);

impl DeviceEncoder {
    /// Reads the weights that `config` describes, each onto `device` in `dtype`.
    ///
    /// # Errors
    /// As [`encoder`](super::encoder), and those of the device.
    pub(crate) fn load(
        source: &CheckpointSource<'_>,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
    ) -> tandem_core::Result<Self> {
        const DOING: &str = "to move the weights to the device";
        let reader = Reader::new(source, config)?;
        let target = Target { dtype, device };
        let layer = |index| Ok(target.layer(reader.layer(index)?).doing(DOING)?);
        Ok(Self {
            embedding: target.embedding(reader.embedding()?, config.hidden_size).doing(DOING)?,
            layers: (0..config.n_layers).map(layer).collect::<tandem_core::Result<_>>()?,
            final_norm: reader.final_norm()?.map(|norm| target.norm(norm)).transpose().doing(DOING)?,
            activation: reader.encoder.activation,
            is_gated: reader.encoder.is_gated,
            norm_first: reader.encoder.norm_first,
            relative: reader.relative()?,
            rotary: reader.rotary(),
            n_heads: config.n_heads,
            head_dim: config.head_dim(),
            dtype,
            device: device.clone(),
        })
    }

    /// The states of the tokens of texts of `lengths` after the last norm, `[tokens, hidden_size]` in f32; `None` once `cancel` is set.
    fn forward(
        &self,
        ids: &[TokenId],
        types: Option<&[u32]>,
        lengths: &[usize],
        cancel: &CancelToken,
    ) -> Result<Option<Vec<f32>>> {
        let sequences = sequences(lengths);
        let mut x = self.embed(ids, types, &sequences)?;
        let rotations = self.rotations(&sequences)?;
        for layer in &self.layers {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let rotations = rotations.as_ref().map(|[all, window]| if layer.window.is_some() { window } else { all });
            let attended =
                self.attention_block(layer, &self.before(layer.attention_norm.as_ref(), &x)?, &sequences, rotations)?;
            x = self.behind(layer.attention_norm.as_ref(), (x + attended)?)?;
            let inner = self.mlp_block(layer, &self.before(Some(&layer.mlp_norm), &x)?)?;
            x = self.behind(Some(&layer.mlp_norm), (x + inner)?)?;
        }
        if let Some(norm) = &self.final_norm {
            x = norm.forward(&x)?;
        }
        Ok(Some(x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?))
    }

    fn embed(&self, ids: &[TokenId], types: Option<&[u32]>, sequences: &[Sequence]) -> Result<Tensor> {
        let embedding = &self.embedding;
        let rows = |table: &Tensor, rows: &[u32]| table.index_select(&Tensor::new(rows, &self.device)?, 0);
        let mut x = rows(&embedding.words, ids)?;
        if let Some(table) = &embedding.types {
            x = (x + rows(table, types.unwrap_or(&vec![0; ids.len()]))?)?;
        }
        if let Some(table) = &embedding.positions {
            let first = embedding.first_position;
            let of = |sequence: &Sequence| (first..first + sequence.n_tokens).map(|position| position as u32);
            x = (x + rows(table, &sequences.iter().flat_map(of).collect::<Vec<_>>())?)?;
        }
        embedding.norm.forward(&x)
    }

    /// What goes into a block with `norm`.
    fn before(&self, norm: Option<&Norm>, x: &Tensor) -> Result<Tensor> {
        norm.filter(|_| self.norm_first).map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))
    }

    /// What becomes of the sum of a block with `norm` and its residual.
    fn behind(&self, norm: Option<&Norm>, sum: Tensor) -> Result<Tensor> {
        norm.filter(|_| !self.norm_first).map_or_else(|| Ok(sum.clone()), |norm| norm.forward(&sum))
    }

    fn attention_block(
        &self,
        layer: &DeviceLayer,
        x: &Tensor,
        sequences: &[Sequence],
        rotations: Option<&Vec<Rotation>>,
    ) -> Result<Tensor> {
        let projected = layer.qkv.forward(x)?;
        let mut parts = Vec::with_capacity(sequences.len());
        for (index, sequence) in sequences.iter().enumerate() {
            let own = projected.narrow(0, sequence.start, sequence.n_tokens)?;
            let own = own.reshape((sequence.n_tokens, 3, self.n_heads, self.head_dim))?;
            // `[heads, n, head_dim]`
            let heads = |part: usize| own.narrow(1, part, 1)?.squeeze(1)?.transpose(0, 1)?.contiguous();
            let (mut queries, mut keys) = (heads(0)?, heads(1)?);
            if let Some((cosines, sines)) = rotations.map(|rotations| &rotations[index]) {
                let rotated = |x: &Tensor| rope(&x.unsqueeze(0)?, cosines, sines)?.squeeze(0);
                (queries, keys) = (rotated(&queries)?, rotated(&keys)?);
            }
            parts.push(self.attention(&queries, &keys, &heads(2)?, layer.window)?);
        }
        layer.attention_out.forward(&Tensor::cat(&parts, 0)?)
    }

    /// Attention of one text, `[heads, n, head_dim]` each: `[n, heads * head_dim]`.
    fn attention(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, window: Option<usize>) -> Result<Tensor> {
        let n = queries.dim(1)?;
        let queries = (queries * (1.0 / (self.head_dim as f64).sqrt()))?;
        let keys = keys.transpose(1, 2)?;
        let mut parts = Vec::new();
        for first in (0..n).step_by(QUERIES) {
            let n_queries = QUERIES.min(n - first);
            let own = queries.narrow(1, first, n_queries)?.contiguous()?;
            let mut scores = own.matmul(&keys)?.to_dtype(DType::F32)?;
            if let Some(bias) = self.score_bias(first..first + n_queries, n, window)? {
                scores = scores.broadcast_add(&bias)?;
            }
            parts.push(softmax_last_dim(&scores)?.to_dtype(self.dtype)?.matmul(values)?);
        }
        Tensor::cat(&parts, 1)?.transpose(0, 1)?.contiguous()?.reshape((n, self.n_heads * self.head_dim))
    }

    /// What is added to the scores of `queries` among `n` tokens for where they stand: `[heads or 1, queries, n]`.
    fn score_bias(&self, queries: std::ops::Range<usize>, n: usize, window: Option<usize>) -> Result<Option<Tensor>> {
        if window.is_none() && self.relative.is_none() {
            return Ok(None);
        }
        let n_heads = if self.relative.is_some() { self.n_heads } else { 1 };
        let mut bias = Vec::with_capacity(n_heads * queries.len() * n);
        for head in 0..n_heads {
            for query in queries.clone() {
                bias.extend((0..n).map(|key| match window {
                    Some(window) if query.abs_diff(key) >= window => f32::NEG_INFINITY,
                    _ => self.relative.as_ref().map_or(0.0, |relative| relative.of(head, query, key)[0]),
                }));
            }
        }
        Tensor::from_vec(bias, (n_heads, queries.len(), n), &self.device).map(Some)
    }

    /// The output of the feed-forward block for `x`.
    fn mlp_block(&self, layer: &DeviceLayer, x: &Tensor) -> Result<Tensor> {
        let up = layer.up.forward(x)?;
        if !self.is_gated {
            return layer.down.forward(&self.activated(&up)?);
        }
        let inner = up.dim(1)? / 2;
        let (gate, other) = (up.narrow(1, 0, inner)?.contiguous()?, up.narrow(1, inner, inner)?);
        layer.down.forward(&(self.activated(&gate)? * other)?)
    }

    fn activated(&self, x: &Tensor) -> Result<Tensor> {
        match self.activation {
            Activation::Gelu => x.gelu_erf(),
            Activation::GeluTanh => x.gelu(),
            Activation::Relu => x.relu(),
            Activation::Silu => x.silu(),
        }
    }

    /// The rotations of each text in layers that see all, and in those with a window.
    fn rotations(&self, sequences: &[Sequence]) -> Result<Option<[Vec<Rotation>; 2]>> {
        let Some([all, window]) = &self.rotary else { return Ok(None) };
        let of = |rotary: &Rotary, n: usize| {
            let (cosines, sines) = rotary.table(n).at(&(0..n).collect::<Vec<_>>());
            let tensor = |values| {
                Tensor::from_vec(values, (n, self.head_dim / 2), &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
            };
            Ok((tensor(cosines)?, tensor(sines)?))
        };
        let each = |rotary| sequences.iter().map(|sequence| of(rotary, sequence.n_tokens)).collect::<Result<Vec<_>>>();
        Ok(Some([each(all)?, each(window)?]))
    }
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps)
    }
}

impl Projection {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.matmul(&self.weights)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// The dtype and device of the weights.
struct Target<'d> {
    dtype: DType,
    device: &'d Device,
}

impl Target<'_> {
    fn embedding(&self, embedding: Embedding, hidden_size: usize) -> Result<DeviceEmbedding> {
        let table = |values: Vec<f32>| self.tensor(Tensor::from_vec(values, ((), hidden_size), &Device::Cpu)?);
        Ok(DeviceEmbedding {
            words: self.tensor(to_tensor(&embedding.words)?)?,
            positions: embedding.positions.map(table).transpose()?,
            first_position: embedding.first_position,
            types: embedding.types.map(table).transpose()?,
            norm: self.norm(embedding.norm)?,
        })
    }

    fn layer(&self, layer: RawLayer) -> Result<DeviceLayer> {
        Ok(DeviceLayer {
            qkv: self.projection(layer.qkv)?,
            attention_out: self.projection(layer.attention_out)?,
            attention_norm: layer.attention_norm.map(|norm| self.norm(norm)).transpose()?,
            up: self.projection(layer.up)?,
            down: self.projection(layer.down)?,
            mlp_norm: self.norm(layer.mlp_norm)?,
            window: layer.window,
        })
    }

    fn projection(&self, linear: RawLinear) -> Result<Projection> {
        let weights = self.tensor(Tensor::from_vec(linear.weights, ((), linear.inputs), &Device::Cpu)?)?;
        Ok(Projection { weights: weights.t()?, bias: linear.bias.map(|bias| self.vector(bias)).transpose()? })
    }

    fn norm(&self, norm: LayerNorm) -> Result<Norm> {
        let bias = norm.bias.unwrap_or_else(|| vec![0.0; norm.weight.len()]);
        Ok(Norm { weight: self.vector(norm.weight)?, bias: self.vector(bias)?, eps: norm.eps })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        let n = values.len();
        self.tensor(Tensor::from_vec(values, n, &Device::Cpu)?)
    }

    /// Converts before the transfer, which halves what goes over the bus.
    fn tensor(&self, tensor: Tensor) -> Result<Tensor> {
        tensor.to_dtype(self.dtype)?.to_device(self.device)
    }
}

/// A loaded encoder on another device than the processor.
pub(crate) struct DeviceEncoderModel {
    pub(crate) encoder: DeviceEncoder,
    pub(crate) threads: Arc<Threads>,
    pub(crate) info: ModelInfo,
}

impl Model for DeviceEncoderModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_session(&self, _options: &SessionOptions) -> tandem_core::Result<Box<dyn Session>> {
        Err(self.info.unsupported(Capability::Generation.description()))
    }

    fn encode(&self, batch: &TokenBatch, cancel: &CancelToken) -> tandem_core::Result<HiddenStates> {
        let (mut ids, mut types, mut lengths) = (batch.ids(), batch.types(), batch.lengths());
        let mut values = Vec::with_capacity(ids.len() * self.info.hidden_size);
        while !lengths.is_empty() {
            let ends = lengths.iter().scan(0, |n, length| {
                *n += length;
                Some(*n)
            });
            let n_texts = ends.take_while(|n| *n <= TOKENS_TOGETHER).count().max(1);
            let together = &lengths[..n_texts];
            let n: usize = together.iter().sum();
            let own_types = types.map(|types| &types[..n]);
            let states = self.threads.install(|| self.encoder.forward(&ids[..n], own_types, together, cancel));
            values.extend(states.doing("to encode")?.ok_or(Error::Cancelled)?);
            (ids, types, lengths) = (&ids[n..], types.map(|types| &types[n..]), &lengths[n_texts..]);
        }
        Ok(HiddenStates { values, hidden_size: self.info.hidden_size, lengths: batch.lengths().to_vec() })
    }
}

#[cfg(test)]
mod tests;
