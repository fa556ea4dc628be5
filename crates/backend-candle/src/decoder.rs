//! The decoder: the forward pass over tokens, layer by layer, for all families. What a family lacks is `None`.
//!
//! Projections of the same input are one matrix. The last layer computes keys and values for every token of a prompt, and everything
//! else only for the tokens whose logits were requested.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use tandem_core::adapter::AdapterSum;
use tandem_core::arena::Arena;
use tandem_core::backend::{KvDType, Stage};
use tandem_core::{CancelToken, TokenId};
use tandem_kernels::attention::{AttentionMask, Scoring};
use tandem_kernels::elementwise::{GateActivation, softcap_all};
use tandem_kernels::matrix::{Kernels, Matrix, RowRun};
use tandem_kernels::mlp::{Between, ScratchPool};
use tandem_kernels::rotary::{Heads, Norms, Rotary};

use crate::kv_layout::KvLayout;
use crate::linear::Linear;
use crate::operations::{self, add, attention, mlp, narrowed, rms_norm, select};
use crate::values::tensor;

/// What sessions need from a decoder: [`Decoder`] on the processor, `DeviceDecoder` on other devices.
pub(crate) trait Decode: Send + Sync {
    /// The shape, dtype and device of the KV cache.
    fn kv_layout(&self) -> KvLayout;

    /// The hidden states of the output rows of all `spans` before the last norm, `[outputs, hidden_size]`; `None` once `cancel` is set.
    fn forward(
        &self,
        tokens: &[TokenId],
        spans: &[Span],
        cancel: &CancelToken,
        hooks: &mut dyn ForwardHooks,
    ) -> Result<Option<Tensor>>;

    /// How scores are computed.
    fn scoring(&self) -> Scoring;

    /// As [`attention`](crate::operations::attention).
    fn attention(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, mask: AttentionMask) -> Result<Tensor>;

    /// The last norm of `states`, `[n, hidden_size]`: f32 on the processor.
    fn normed(&self, states: &Tensor) -> Result<Tensor>;

    /// Writes the logits of `states`, `[n, hidden_size]`, before the last norm, to `out`, `[n, vocab_size]`. `lengths` are the rows of each
    /// sequence.
    fn write_logits(&self, states: &Tensor, lengths: &[usize], out: &mut [f32]) -> Result<()>;

    /// The same with `adapters` applied, all of whose modules it takes that it has.
    ///
    /// # Errors
    /// Those of [`AdapterSum::take_parts`].
    fn adapted(&self, adapters: &mut AdapterSum<'_>) -> tandem_core::Result<Box<dyn Decode>>;

    /// The decoder whose activations can be probed, if this one is.
    fn probed(&self) -> Option<&Decoder> {
        None
    }
}

/// Callbacks of a forward pass: attention, which owns the keys and values, and observation of activations.
pub(crate) trait ForwardHooks {
    /// Computes the attention of one span, `[n, heads * head_dim]`. Implementations decide where keys and values are stored.
    fn attend(&mut self, heads: QkvHeads) -> Result<Tensor>;

    /// Computes the attention of each of several spans, of which none needs the others.
    fn attend_all(&mut self, all: Vec<QkvHeads>) -> Result<Vec<Tensor>> {
        all.into_iter().map(|heads| self.attend(heads)).collect()
    }

    /// How products are computed; the fastest kernels are chosen for each span by itself, so that its rows get the same bits in every
    /// pass.
    fn kernels(&self) -> Kernels {
        Kernels::Fastest
    }

    /// Whether [`on_activation`](Self::on_activation) uses its values; if not, they need not be copied for it.
    fn is_observed(&self) -> bool {
        false
    }

    /// Receives an activation, `[n, width]`.
    fn on_activation(&mut self, _layer: Option<usize>, _what: Activation, _value: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// Which activation a hook receives.
#[derive(Clone, Copy)]
pub(crate) enum Activation {
    /// The output of a stage.
    Stage(Stage),
    /// Queries, keys and values in one, the output of [`Layer::qkv`].
    Qkv,
    /// Gate and up in one, the output of [`Layer::gate_up`].
    GateUp,
}

/// A decoder with its weights. Immutable but for the rotary tables, which grow. Copies share all of it.
#[derive(Clone)]
pub(crate) struct Decoder {
    /// `[vocab_size, hidden_size]`
    pub(crate) embedding: Arc<Matrix>,
    /// Multiplies the embeddings of tokens: Gemma's `√hidden_size`.
    pub(crate) embedding_scale: Option<f32>,
    pub(crate) layers: Vec<Layer>,
    /// The norm after the last layer: `[hidden_size]`.
    pub(crate) norm: NormWeight,
    /// `[vocab_size, hidden_size]`; its weights may be the embedding.
    pub(crate) head: Linear,
    /// Gemma 2's limit of logits: `cap * tanh(logit / cap)`.
    pub(crate) logits_softcap: Option<f32>,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rotary: Arc<Rotary>,
    /// That of layers with a window, if it differs: Gemma 3's.
    pub(crate) window_rotary: Option<Arc<Rotary>>,
    pub(crate) scoring: Scoring,
    pub(crate) activation: GateActivation,
    pub(crate) heads: Heads,
    /// In what sessions hold keys and values.
    pub(crate) kv_dtype: KvDType,
    pub(crate) scratch: Arc<ScratchPool>,
}

/// The weight of a norm, shared by copies.
pub(crate) type NormWeight = Arc<[f32]>;

/// One layer.
#[derive(Clone)]
pub(crate) struct Layer {
    /// `[hidden_size]`
    pub(crate) attention_norm: NormWeight,
    /// Query, key and value in one: `[(heads + 2 * kv_heads) * head_dim, hidden_size]`.
    pub(crate) qkv: Linear,
    /// Norms of queries and of keys before the rotary embedding, `[head_dim]` each: Qwen3's.
    pub(crate) qk_norms: Option<(NormWeight, NormWeight)>,
    pub(crate) attention_out: Linear,
    /// The norm of the output of attention, `[hidden_size]`: Gemma's.
    pub(crate) post_attention_norm: Option<NormWeight>,
    /// `[hidden_size]`
    pub(crate) mlp_norm: NormWeight,
    /// Gate and up in one: `[2 * intermediate_size, hidden_size]`.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    /// The norm of the output of the feed-forward block, `[hidden_size]`: Gemma's.
    pub(crate) post_mlp_norm: Option<NormWeight>,
    /// The sliding window: how many tokens a query attends to, itself included; `None` for all.
    pub(crate) window: Option<usize>,
}

impl Layer {
    fn linears(&mut self) -> [&mut Linear; 4] {
        [&mut self.qkv, &mut self.attention_out, &mut self.gate_up, &mut self.down]
    }
}

/// Consecutive tokens of one sequence among the rows of a pass.
pub(crate) struct Span {
    /// Its rows.
    pub(crate) rows: Range<usize>,
    /// The position of the first within its sequence.
    pub(crate) first_position: usize,
    /// How many of its last tokens have outputs, at least one. For the others the last layer computes keys and values only.
    pub(crate) n_outputs: usize,
    /// The rows that its kernels are chosen for: its own, or more for a part of a prompt.
    pub(crate) chosen_for: usize,
}

impl Span {
    /// The rows that have outputs.
    pub(crate) fn output_rows(&self) -> Range<usize> {
        self.rows.end - self.n_outputs..self.rows.end
    }
}

/// What the layers of a pass share.
struct Pass<'p> {
    spans: &'p [Span],
    /// That of each row within its sequence.
    positions: Vec<usize>,
    /// How products of all rows are computed.
    runs: Vec<RowRun>,
    /// How those of the output rows are, after the attention of the last layer.
    output_runs: Vec<RowRun>,
}

impl<'p> Pass<'p> {
    fn new(spans: &'p [Span], kernels: Kernels) -> Self {
        let positions = spans.iter().flat_map(|span| (0..span.rows.len()).map(|i| span.first_position + i)).collect();
        let runs = |of: &dyn Fn(&Span) -> (usize, usize)| match kernels {
            Kernels::Fastest => RowRun::of_parts(spans.iter().map(of)),
            kernels => vec![RowRun { n_rows: spans.iter().map(|span| of(span).0).sum(), kernels }],
        };
        let runs_of_rows = runs(&|span| (span.rows.len(), span.chosen_for));
        Self { spans, positions, runs: runs_of_rows, output_runs: runs(&|span| (span.n_outputs, span.n_outputs)) }
    }
}

/// The rows of `x`, `[n, width]`, that are output rows of `spans`.
pub(crate) fn select_outputs(x: &Tensor, spans: &[Span]) -> Result<Tensor> {
    if spans.iter().all(|span| span.n_outputs == span.rows.len()) {
        return Ok(x.clone());
    }
    let parts = spans.iter().map(|span| x.narrow(0, span.output_rows().start, span.n_outputs)).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 0)
}

/// The last `n` queries of `queries`, `[heads, all, head_dim]`.
pub(crate) fn last_queries(queries: &Tensor, n: usize) -> Result<Tensor> {
    let all = queries.dim(1)?;
    if n == all { Ok(queries.clone()) } else { queries.narrow(1, all - n, n)?.contiguous() }
}

/// Queries, keys and values of one span in one layer, `[heads, n, head_dim]` each, normed and rotated. In the last layer `queries` has
/// the output rows only.
pub(crate) struct QkvHeads {
    pub(crate) layer: usize,
    /// The number of the span.
    pub(crate) span: usize,
    /// The position of the first query within its sequence.
    pub(crate) first_query: usize,
    pub(crate) window: Option<usize>,
    /// How their attention to a cache is computed.
    pub(crate) kernels: Kernels,
    pub(crate) queries: Tensor,
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

impl Decode for Decoder {
    fn kv_layout(&self) -> KvLayout {
        let dtype = match self.kv_dtype {
            KvDType::F32 => DType::F32,
            KvDType::F16 => DType::F16,
        };
        KvLayout { kv_heads: self.heads.keys, head_dim: self.heads.head_dim, dtype, device: Device::Cpu, for_kernels: true }
    }

    fn forward(
        &self,
        tokens: &[TokenId],
        spans: &[Span],
        cancel: &CancelToken,
        hooks: &mut dyn ForwardHooks,
    ) -> Result<Option<Tensor>> {
        let pass = Pass::new(spans, hooks.kernels());
        let mut x = select(&self.embedding, tokens)?;
        if let Some(scale) = self.embedding_scale {
            x = x.affine(scale.into(), 0.0)?;
        }
        hooks.on_activation(None, Activation::Stage(Stage::Embedding), &x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let normed = rms_norm(&x, &layer.attention_norm, self.rms_norm_eps)?;
            hooks.on_activation(Some(index), Activation::Stage(Stage::AttentionNorm), &normed)?;
            let attended = self.attention_block(index, &normed, &pass, hooks)?;
            x = add(&self.residual(index, &x, spans)?, &attended)?;
            hooks.on_activation(Some(index), Activation::Stage(Stage::AttentionResidual), &x)?;
            x = add(&x, &self.mlp_block(index, &x, &pass, hooks)?)?;
            hooks.on_activation(Some(index), Activation::Stage(Stage::MlpResidual), &x)?;
        }
        Ok(if cancel.is_cancelled() { None } else { Some(x) })
    }

    fn scoring(&self) -> Scoring {
        self.scoring
    }

    fn attention(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, mask: AttentionMask) -> Result<Tensor> {
        attention(queries, keys, values, mask, self.scoring)
    }

    fn normed(&self, states: &Tensor) -> Result<Tensor> {
        rms_norm(states, &self.norm, self.rms_norm_eps)
    }

    fn write_logits(&self, states: &Tensor, lengths: &[usize], out: &mut [f32]) -> Result<()> {
        self.head.write(&self.normed(states)?, &RowRun::of_sequences(lengths.iter().copied()), out)?;
        if let Some(cap) = self.logits_softcap {
            softcap_all(out, cap);
        }
        Ok(())
    }

    fn adapted(&self, adapters: &mut AdapterSum<'_>) -> tandem_core::Result<Box<dyn Decode>> {
        let mut adapted = self.clone();
        let linears = adapted.layers.iter_mut().flat_map(Layer::linears).chain([&mut adapted.head]);
        let linears: Vec<&mut Linear> = linears.collect();
        let parts = linears.iter().map(|linear| linear.take_parts(adapters)).collect::<tandem_core::Result<Vec<_>>>()?;
        let arena = Arena::default();
        linears.into_par_iter().zip(&parts).try_for_each(|(linear, parts)| linear.adapt(parts, &arena))?;
        Ok(Box::new(adapted))
    }

    fn probed(&self) -> Option<&Decoder> {
        Some(self)
    }
}

impl Decoder {
    /// The dtype in memory of the largest weight matrices.
    pub(crate) fn memory_dtype(&self) -> tandem_core::DType {
        self.layers.first().map_or(&self.embedding, |layer| &layer.gate_up.weights).dtype()
    }

    /// Keys or values as sessions hold them.
    pub(crate) fn held(&self, x: &Tensor) -> Result<Tensor> {
        match self.kv_dtype {
            KvDType::F32 => Ok(x.clone()),
            KvDType::F16 => narrowed(x),
        }
    }

    /// The output of the attention block for `normed`, to be added to the residual.
    fn attention_block(&self, index: usize, normed: &Tensor, pass: &Pass<'_>, hooks: &mut dyn ForwardHooks) -> Result<Tensor> {
        let (layer, Pass { spans, positions, .. }) = (&self.layers[index], pass);
        let projected = layer.qkv.forward(normed, &pass.runs)?;
        hooks.on_activation(Some(index), Activation::Qkv, &projected)?;
        let n_positions = positions.iter().max().map_or(0, |last| last + 1);
        let table = self.rotary_of(layer).table(n_positions);
        let norms = layer.qk_norms.as_ref().map(|(queries, keys)| Norms { queries, keys, eps: self.rms_norm_eps });
        let of_span = |number: usize, span: &Span| {
            let own = projected.narrow(0, span.rows.start, span.rows.len())?;
            let heads = operations::heads(&table, &own, &self.heads, norms, &positions[span.rows.clone()])?;
            let (queries, keys) = (self.heads.queries, self.heads.keys);
            let (n_queries, chosen_for) =
                if self.is_last(index) { (span.n_outputs, span.n_outputs) } else { (span.rows.len(), span.chosen_for) };
            Ok(QkvHeads {
                layer: index,
                span: number,
                first_query: span.first_position + span.rows.len() - n_queries,
                window: layer.window,
                kernels: Kernels::of_sequence(chosen_for),
                queries: last_queries(&heads.narrow(0, 0, queries)?, n_queries)?,
                keys: heads.narrow(0, queries, keys)?,
                values: heads.narrow(0, queries + keys, keys)?,
            })
        };
        let all = spans.par_iter().enumerate().map(|(number, span)| of_span(number, span)).collect::<Result<Vec<_>>>()?;
        let mut parts = hooks.attend_all(all)?;
        let context = match parts.len() {
            1 => parts.swap_remove(0),
            _ => Tensor::cat(&parts, 0)?,
        };
        hooks.on_activation(Some(index), Activation::Stage(Stage::AttentionContext), &context)?;
        let output = layer.attention_out.forward(&context, self.runs_after_attention(index, pass))?;
        hooks.on_activation(Some(index), Activation::Stage(Stage::AttentionOutput), &output)?;
        self.optional_norm(output, layer.post_attention_norm.as_deref())
    }

    /// How the products of layer `index` are computed after its attention.
    fn runs_after_attention<'p>(&self, index: usize, pass: &'p Pass<'_>) -> &'p [RowRun] {
        if self.is_last(index) { &pass.output_runs } else { &pass.runs }
    }

    fn is_last(&self, index: usize) -> bool {
        index + 1 == self.layers.len()
    }

    /// The rows of `x` that layer `index` continues with after its attention.
    fn residual(&self, index: usize, x: &Tensor, spans: &[Span]) -> Result<Tensor> {
        if self.is_last(index) { select_outputs(x, spans) } else { Ok(x.clone()) }
    }

    /// The output of the feed-forward block for `x`, to be added to it.
    fn mlp_block(&self, index: usize, x: &Tensor, pass: &Pass<'_>, hooks: &mut dyn ForwardHooks) -> Result<Tensor> {
        let layer = &self.layers[index];
        let normed = rms_norm(x, &layer.mlp_norm, self.rms_norm_eps)?;
        hooks.on_activation(Some(index), Activation::Stage(Stage::MlpNorm), &normed)?;
        let mut observe = |between, values: &[f32], width| {
            if !hooks.is_observed() {
                return Ok(());
            }
            let what = match between {
                Between::GateUp => Activation::GateUp,
                Between::Activation => Activation::Stage(Stage::Activation),
            };
            hooks.on_activation(Some(index), what, &tensor(values.to_vec(), (values.len() / width, width))?)
        };
        let parts = (&layer.gate_up, self.activation, &layer.down);
        let output = mlp(&self.scratch, parts, &normed, self.runs_after_attention(index, pass), &mut observe)?;
        hooks.on_activation(Some(index), Activation::Stage(Stage::Down), &output)?;
        self.optional_norm(output, layer.post_mlp_norm.as_deref())
    }

    fn rotary_of(&self, layer: &Layer) -> &Rotary {
        self.window_rotary.as_ref().filter(|_| layer.window.is_some()).unwrap_or(&self.rotary)
    }

    fn optional_norm(&self, x: Tensor, weight: Option<&[f32]>) -> Result<Tensor> {
        match weight {
            Some(weight) => rms_norm(&x, weight, self.rms_norm_eps),
            None => Ok(x),
        }
    }
}
