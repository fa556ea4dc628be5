//! The decoder: what a pass over tokens computes, layer by layer. One form for Qwen2, Qwen3, Llama and Mistral.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use tandem_core::backend::{Probe, ProbePoint, Stage};
use tandem_core::{CancelToken, TokenId};

use crate::attention::{Sight, attention};
use crate::cache::Kept;
use crate::elementwise::{add, rms_norm};
use crate::linear::{Linear, Matrix, Rooms};
use crate::probe::probe;
use crate::rotary::{Heads, Norms, Rotary};
use crate::values::tensor;

/// What sessions ask of a decoder: ours on the processor, or that of another device.
pub(crate) trait Decode: Send + Sync {
    /// What a cache keeps of a token.
    fn kept(&self) -> Kept;

    /// The hidden states of what is wanted of `tokens` before the last norm, `[wanted, hidden_size]`; `None` when `cancel` was set
    /// meanwhile.
    fn forward(&self, tokens: &[TokenId], spans: &[Span], cancel: &CancelToken, pass: &mut dyn Pass) -> Result<Option<Tensor>>;

    /// As [`attention`](crate::attention::attention).
    fn attention(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, sight: Sight) -> Result<Tensor>;

    /// The last norm of `states`, `[n, hidden_size]`: f32 on the processor.
    fn normed(&self, states: &Tensor) -> Result<Tensor>;

    /// The logits of `states`, `[n, hidden_size]`, before the last norm: `[n, vocab_size]`, f32 on the processor.
    fn logits(&self, states: &Tensor) -> Result<Tensor>;

    /// What one pass over `tokens` computes at `points`; `None` where that is not shown.
    fn probe(&self, _tokens: &[TokenId], _points: &[ProbePoint]) -> Result<Option<Vec<Probe>>> {
        Ok(None)
    }
}

/// What goes with a pass: who computes attention, and who looks at what lies between.
pub(crate) trait Pass {
    /// The attention of one span, `[n, heads * head_dim]`; who implements it decides where keys and values are kept.
    fn attend(&mut self, attended: Attended) -> Result<Tensor>;

    /// Whether it looks at what it is shown.
    fn watches(&self) -> bool {
        false
    }

    /// Is shown a value, `[n, width]`. Nobody looks unless a probe does.
    fn see(&mut self, _layer: Option<usize>, _what: Seen, _value: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// What a value is that a pass is shown.
#[derive(Clone, Copy)]
pub(crate) enum Seen {
    /// The values of a stage.
    Is(Stage),
    /// Query, key and value in one, as [`Layer::qkv`] gives them.
    Projected,
    /// Gate and up in one.
    GateUp,
}

/// A decoder with its weights. Immutable but for the rotary tables, which grow.
pub(crate) struct Decoder {
    /// `[vocab_size, hidden_size]`
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    /// The norm after the last layer: `[hidden_size]`.
    pub(crate) norm: Vec<f32>,
    /// `[vocab_size, hidden_size]`; `None` where it is the embedding.
    pub(crate) head: Option<Matrix>,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rotary: Rotary,
    pub(crate) heads: Heads,
    /// Used by every pass, and of no other meaning.
    pub(crate) rooms: Rooms,
}

/// One layer.
pub(crate) struct Layer {
    /// `[hidden_size]`
    pub(crate) attention_norm: Vec<f32>,
    /// Query, key and value in one: `[(heads + 2 * kv_heads) * head_dim, hidden_size]`.
    pub(crate) qkv: Linear,
    /// Norms of queries and of keys before they are turned, `[head_dim]` each: Qwen3's.
    pub(crate) qk_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) attention_out: Linear,
    /// `[hidden_size]`
    pub(crate) mlp_norm: Vec<f32>,
    /// Gate and up in one: `[2 * intermediate_size, hidden_size]`.
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    /// How many tokens back it sees; `None` sees all.
    pub(crate) window: Option<usize>,
}

/// Consecutive tokens of one sequence among the rows of a pass.
pub(crate) struct Span {
    /// Its rows.
    pub(crate) rows: Range<usize>,
    /// The position of the first within its sequence.
    pub(crate) first_position: usize,
    /// How many of its last tokens are wanted, at least one. Of the others the last layer computes keys and values alone, as nothing
    /// else of it is ever read.
    pub(crate) n_wanted: usize,
}

impl Span {
    /// Of all its tokens the last ones, of which alone the last layer makes something.
    pub(crate) fn wanted(&self) -> Range<usize> {
        self.rows.end - self.n_wanted..self.rows.end
    }
}

/// Of the rows of `x`, `[n, width]`, those that are wanted of `spans`.
pub(crate) fn wanted_rows(x: &Tensor, spans: &[Span]) -> Result<Tensor> {
    if spans.iter().all(|span| span.n_wanted == span.rows.len()) {
        return Ok(x.clone());
    }
    let parts = spans.iter().map(|span| x.narrow(0, span.wanted().start, span.n_wanted)).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 0)
}

/// The last `n` queries of `queries`, `[heads, all, head_dim]`.
pub(crate) fn last_queries(queries: &Tensor, n: usize) -> Result<Tensor> {
    let all = queries.dim(1)?;
    if n == all { Ok(queries.clone()) } else { queries.narrow(1, all - n, n)?.contiguous() }
}

/// Queries, keys and values of one span in one layer, `[heads, n, head_dim]` each, normed and turned; in the last layer only the
/// queries that are wanted.
pub(crate) struct Attended {
    pub(crate) layer: usize,
    /// The position of the first query within its sequence.
    pub(crate) first_query: usize,
    pub(crate) window: Option<usize>,
    pub(crate) queries: Tensor,
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

impl<F: FnMut(Attended) -> Result<Tensor>> Pass for F {
    fn attend(&mut self, attended: Attended) -> Result<Tensor> {
        self(attended)
    }
}

impl Decode for Decoder {
    fn kept(&self) -> Kept {
        Kept { kv_heads: self.heads.keys, head_dim: self.heads.head_dim, dtype: DType::F32, device: Device::Cpu }
    }

    fn forward(&self, tokens: &[TokenId], spans: &[Span], cancel: &CancelToken, pass: &mut dyn Pass) -> Result<Option<Tensor>> {
        let positions: Vec<usize> = spans.iter().flat_map(|span| (0..span.rows.len()).map(|i| span.first_position + i)).collect();
        let mut x = self.embedding.select(tokens)?;
        pass.see(None, Seen::Is(Stage::Embedding), &x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let normed = rms_norm(&x, &layer.attention_norm, self.rms_norm_eps)?;
            pass.see(Some(index), Seen::Is(Stage::AttentionNorm), &normed)?;
            let attended = self.attended(index, layer, &normed, spans, &positions, pass)?;
            x = add(&self.left(index, &x, spans)?, &attended)?;
            pass.see(Some(index), Seen::Is(Stage::AttentionResidual), &x)?;
            x = add(&x, &self.fed_forward(index, layer, &x, pass)?)?;
            pass.see(Some(index), Seen::Is(Stage::MlpResidual), &x)?;
        }
        Ok(if cancel.is_cancelled() { None } else { Some(x) })
    }

    fn attention(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, sight: Sight) -> Result<Tensor> {
        attention(queries, keys, values, sight)
    }

    fn normed(&self, states: &Tensor) -> Result<Tensor> {
        rms_norm(states, &self.norm, self.rms_norm_eps)
    }

    fn logits(&self, states: &Tensor) -> Result<Tensor> {
        self.head.as_ref().unwrap_or(&self.embedding).product(&self.normed(states)?, None)
    }

    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Option<Vec<Probe>>> {
        probe(self, tokens, points).map(Some)
    }
}

impl Decoder {
    /// In what the largest matrices of weights lie in memory.
    pub(crate) fn memory_dtype(&self) -> tandem_core::DType {
        self.layers.first().map_or(&self.embedding, |layer| &layer.gate_up.weights).dtype()
    }

    /// What attention adds to the states whose norm is `normed`.
    fn attended(
        &self,
        index: usize,
        layer: &Layer,
        normed: &Tensor,
        spans: &[Span],
        positions: &[usize],
        pass: &mut dyn Pass,
    ) -> Result<Tensor> {
        let projected = layer.qkv.forward(normed)?;
        pass.see(Some(index), Seen::Projected, &projected)?;
        let n_positions = positions.iter().max().map_or(0, |last| last + 1);
        let table = self.rotary.table(n_positions);
        let norms = layer.qk_norms.as_ref().map(|(queries, keys)| Norms { queries, keys, eps: self.rms_norm_eps });
        let mut parts = Vec::with_capacity(spans.len());
        for span in spans {
            let own = projected.narrow(0, span.rows.start, span.rows.len())?;
            let heads = table.heads(&own, &self.heads, norms, &positions[span.rows.clone()])?;
            let (queries, keys) = (self.heads.queries, self.heads.keys);
            let n_queries = if self.is_last(index) { span.n_wanted } else { span.rows.len() };
            parts.push(pass.attend(Attended {
                layer: index,
                first_query: span.first_position + span.rows.len() - n_queries,
                window: layer.window,
                queries: last_queries(&heads.narrow(0, 0, queries)?, n_queries)?,
                keys: heads.narrow(0, queries, keys)?,
                values: heads.narrow(0, queries + keys, keys)?,
            })?);
        }
        let context = match parts.len() {
            1 => parts.swap_remove(0),
            _ => Tensor::cat(&parts, 0)?,
        };
        pass.see(Some(index), Seen::Is(Stage::AttentionContext), &context)?;
        let output = layer.attention_out.forward(&context)?;
        pass.see(Some(index), Seen::Is(Stage::AttentionOutput), &output)?;
        Ok(output)
    }

    fn is_last(&self, index: usize) -> bool {
        index + 1 == self.layers.len()
    }

    /// What a layer goes on with after its attention.
    fn left(&self, index: usize, x: &Tensor, spans: &[Span]) -> Result<Tensor> {
        if self.is_last(index) { wanted_rows(x, spans) } else { Ok(x.clone()) }
    }

    /// What the feed-forward block adds to `x`.
    fn fed_forward(&self, index: usize, layer: &Layer, x: &Tensor, pass: &mut dyn Pass) -> Result<Tensor> {
        let normed = rms_norm(x, &layer.mlp_norm, self.rms_norm_eps)?;
        pass.see(Some(index), Seen::Is(Stage::MlpNorm), &normed)?;
        let mut see = |seen, values: &[f32], width| match pass.watches() {
            true => pass.see(Some(index), seen, &tensor(values.to_vec(), (values.len() / width, width))?),
            false => Ok(()),
        };
        let output = self.rooms.mlp(&layer.gate_up, &layer.down, &normed, &mut see)?;
        pass.see(Some(index), Seen::Is(Stage::Down), &output)?;
        Ok(output)
    }
}
