//! The forward pass of training: texts side by side without padding, each attending to itself, and the loss of their targets.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use tandem_core::CancelToken;
use tandem_core::training::TrainingText;
use tandem_kernels::attention::{AttentionMask, Scoring};
use tandem_kernels::matrix::Matrix;
use tandem_kernels::rotary::{Heads, Rotary};

use super::ops::{Attention, FrozenHead, FrozenLinear, Norm, Pair, RotaryRows, silu_product};
use crate::decoder::{Decoder, Layer};
use crate::operations::{select, to_tensor};

/// The linear layers of a layer, in the order in which [`Factors`] holds them.
pub(super) const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The factors of each module of each layer.
pub(super) struct Factors(Vec<[Option<Pair>; MODULES.len()]>);

impl Factors {
    pub(super) fn new(n_layers: usize) -> Self {
        Self(std::iter::repeat_with(|| [const { None }; MODULES.len()]).take(n_layers).collect())
    }

    /// Puts `pair` where `module` is; one of another model is left out.
    pub(super) fn insert(&mut self, module: &str, pair: Pair) {
        let found = module.split_once("layers.").and_then(|(_, rest)| rest.split_once('.'));
        let place =
            found.and_then(|(layer, name)| Some((layer.parse::<usize>().ok()?, MODULES.iter().position(|m| *m == name)?)));
        if let Some((layer, index)) = place
            && let Some(layer) = self.0.get_mut(layer)
        {
            layer[index] = Some(pair);
        }
    }

    /// The same without a way back to the variables.
    pub(super) fn detached(self) -> Self {
        let detached = |pair: Option<Pair>| pair.map(|(a, b, scale)| (a.detach(), b.detach(), scale));
        Self(self.0.into_iter().map(|layer| layer.map(detached)).collect())
    }
}

/// A decoder whose weights stay as they are.
pub(super) struct TrainableDecoder {
    embedding: Embedding,
    layers: Vec<TrainableLayer>,
    norm: Norm,
    head: FrozenHead,
    rotary: Arc<Rotary>,
    scoring: Scoring,
    heads: Heads,
    device: Device,
}

enum Embedding {
    Own(Arc<Matrix>),
    Tensor(Tensor),
}

struct TrainableLayer {
    attention_norm: Norm,
    qkv: FrozenLinear,
    /// Of queries and keys: Qwen3's.
    qk_norms: Option<(Norm, Norm)>,
    attention_out: FrozenLinear,
    mlp_norm: Norm,
    gate_up: FrozenLinear,
    down: FrozenLinear,
    window: Option<usize>,
}

/// Where a text's rows lie, and which of them its targets follow.
struct Rows {
    start: usize,
    n: usize,
}

impl TrainableDecoder {
    /// Of `decoder`, on `device`.
    pub(super) fn new(decoder: Decoder, device: &Device) -> Result<Self> {
        Self::with_own_kernels(decoder, device, device.is_cpu())
    }

    /// As [`new`](Self::new), with our kernels or with candle's operations.
    pub(super) fn with_own_kernels(decoder: Decoder, device: &Device, own: bool) -> Result<Self> {
        let eps = decoder.rms_norm_eps;
        let norm = |weight: Arc<[f32]>| Norm::new(weight, eps, device, own);
        let layer = |layer: Layer| -> Result<TrainableLayer> {
            let linear = |linear| FrozenLinear::new(linear, device, own);
            Ok(TrainableLayer {
                attention_norm: norm(layer.attention_norm)?,
                qkv: linear(layer.qkv)?,
                qk_norms: match layer.qk_norms {
                    Some((queries, keys)) => Some((norm(queries)?, norm(keys)?)),
                    None => None,
                },
                attention_out: linear(layer.attention_out)?,
                mlp_norm: norm(layer.mlp_norm)?,
                gate_up: linear(layer.gate_up)?,
                down: linear(layer.down)?,
                window: layer.window,
            })
        };
        let layers = decoder.layers.into_iter().map(layer).collect::<Result<_>>()?;
        let (embedding, head) = match own {
            true => (Embedding::Own(decoder.embedding), FrozenHead::Own(decoder.head)),
            false => {
                let on_device = |matrix: &Matrix| to_tensor(matrix)?.to_dtype(DType::F32)?.to_device(device);
                let embedding = on_device(&decoder.embedding)?;
                let head = match Arc::ptr_eq(&decoder.head.weights, &decoder.embedding) {
                    true => embedding.clone(),
                    false => on_device(&decoder.head.weights)?,
                };
                (Embedding::Tensor(embedding), FrozenHead::Tensor(head))
            }
        };
        Ok(Self {
            embedding,
            layers,
            norm: norm(decoder.norm)?,
            head,
            rotary: decoder.rotary,
            scoring: decoder.scoring,
            heads: decoder.heads,
            device: device.clone(),
        })
    }

    pub(super) fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// The sum of the losses of all targets of `texts`, a scalar; `None` once `cancel` is set.
    pub(super) fn loss(&self, factors: &Factors, texts: &[&TrainingText], cancel: &CancelToken) -> Result<Option<Tensor>> {
        let ids: Vec<u32> = texts.iter().flat_map(|text| &text.ids).copied().collect();
        let mut rows: Vec<Rows> = Vec::with_capacity(texts.len());
        let (mut before_targets, mut targets) = (Vec::new(), Vec::new());
        for text in texts {
            let start = rows.last().map_or(0, |rows| rows.start + rows.n);
            rows.push(Rows { start, n: text.ids.len() });
            for (i, _) in text.is_target.iter().enumerate().skip(1).filter(|(_, is)| **is) {
                before_targets.push((start + i - 1) as u32);
                targets.push(text.ids[i]);
            }
        }
        let mut x = self.embed(&ids)?;
        for (layer, factors) in self.layers.iter().zip(&factors.0) {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            x = self.layer(layer, factors, x, &rows)?;
        }
        if targets.is_empty() {
            return Tensor::zeros((), DType::F32, &self.device).map(Some);
        }
        let n = before_targets.len();
        let selected = x.index_select(&Tensor::from_vec(before_targets, n, &self.device)?, 0)?;
        self.head.loss(&self.norm.forward(&selected)?, targets).map(Some)
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        match &self.embedding {
            Embedding::Own(matrix) => select(matrix, ids),
            Embedding::Tensor(tensor) => tensor.index_select(&Tensor::new(ids, &self.device)?, 0),
        }
    }

    fn layer(&self, layer: &TrainableLayer, factors: &[Option<Pair>; MODULES.len()], x: Tensor, rows: &[Rows]) -> Result<Tensor> {
        let [q, k, v, o, gate, up, down] = factors;
        let normed = layer.attention_norm.forward(&x)?;
        let (queries, keys) = (self.width(self.heads.queries), self.width(self.heads.keys));
        let qkv = layer.qkv.forward(&normed, &[(q, queries), (k, keys), (v, keys)])?;
        let mut contexts = Vec::with_capacity(rows.len());
        for rows in rows {
            contexts.push(self.attend(layer, &qkv.narrow(0, rows.start, rows.n)?)?);
        }
        let context = if contexts.len() == 1 { contexts.swap_remove(0) } else { Tensor::cat(&contexts, 0)? };
        let hidden = layer.attention_out.outputs();
        let x = (x + layer.attention_out.forward(&context, &[(o, hidden)])?)?;
        let normed = layer.mlp_norm.forward(&x)?;
        let inner = layer.gate_up.outputs() / 2;
        let gate_up = layer.gate_up.forward(&normed, &[(gate, inner), (up, inner)])?;
        let gated = silu_product(&gate_up, layer.gate_up.is_own())?;
        x + layer.down.forward(&gated, &[(down, hidden)])?
    }

    fn width(&self, heads: usize) -> usize {
        heads * self.heads.head_dim
    }

    /// The attention of one text to itself: `qkv` is `[n, (queries + 2 * keys) * head_dim]`, the result `[n, queries * head_dim]`.
    fn attend(&self, layer: &TrainableLayer, qkv: &Tensor) -> Result<Tensor> {
        let n = qkv.dim(0)?;
        let Heads { queries, keys, head_dim } = self.heads;
        let part = |first: usize, heads: usize| {
            qkv.narrow(1, first * head_dim, heads * head_dim)?.reshape((n, heads, head_dim))?.transpose(0, 1)?.contiguous()
        };
        let rotary = RotaryRows::new(&self.rotary.table(n), n, &self.device, layer.qkv.is_own())?;
        let rotated = |x: Tensor, norm: Option<&Norm>| -> Result<Tensor> {
            let normed = match norm {
                Some(norm) => norm.forward(&x)?,
                None => x,
            };
            rotary.forward(&normed)
        };
        let norms = layer.qk_norms.as_ref();
        let q = rotated(part(0, queries)?, norms.map(|norms| &norms.0))?;
        let k = rotated(part(queries, keys)?, norms.map(|norms| &norms.1))?;
        let v = part(queries + keys, keys)?;
        let mask = AttentionMask { n_past: 0, window: layer.window, ahead: None };
        Attention { mask, scoring: self.scoring }.forward(&q, &k, &v, layer.qkv.is_own())
    }
}
