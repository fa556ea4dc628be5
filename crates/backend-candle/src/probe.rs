//! Probing: a forward pass whose hooks record activations under the names of the contract.

use candle_core::{Result, Tensor};
use tandem_core::backend::{Probe, ProbePoint, Stage};
use tandem_core::{CancelToken, TokenId};
use tandem_kernels::attention::AttentionMask;
use tandem_kernels::elementwise::norm_in_place;
use tandem_kernels::matrix::Kernels;
use tandem_kernels::zeros;

use crate::decoder::{Activation, Decode, Decoder, ForwardHooks, QkvHeads, Span};
use crate::values::Values;

/// What one forward pass over `tokens` computes at `points`, in the order of computation.
pub(crate) fn probe(decoder: &Decoder, tokens: &[TokenId], points: &[ProbePoint], is_causal: bool) -> Result<Vec<Probe>> {
    let mut hooks = RecordingHooks { decoder, tokens, points, is_causal, probes: Vec::new() };
    let spans = [Span { rows: 0..tokens.len(), first_position: 0, n_outputs: tokens.len(), chosen_for: tokens.len() }];
    if let Some(states) = decoder.forward(tokens, &spans, &CancelToken::new(), &mut hooks)? {
        hooks.record(ProbePoint { layer: None, stage: Stage::FinalNorm }, &decoder.normed(&states)?)?;
        let point = ProbePoint { layer: None, stage: Stage::Logits };
        if hooks.is_requested(point) {
            let mut logits = zeros(tokens.len() * decoder.head.weights.rows);
            decoder.write_logits(&states, &[tokens.len()], &mut logits)?;
            hooks.probes.push(Probe::new(point, logits, tokens));
        }
    }
    Ok(hooks.probes)
}

struct RecordingHooks<'p> {
    decoder: &'p Decoder,
    tokens: &'p [TokenId],
    points: &'p [ProbePoint],
    /// Tokens see those before them only.
    is_causal: bool,
    probes: Vec<Probe>,
}

impl RecordingHooks<'_> {
    fn is_requested(&self, point: ProbePoint) -> bool {
        self.points.contains(&point)
    }

    /// Records `value`, `[n, width]`, if `point` is requested.
    fn record(&mut self, point: ProbePoint, value: &Tensor) -> Result<()> {
        if self.is_requested(point) {
            let values = Values::of(value)?.to_vec();
            self.probes.push(Probe::new(point, values, self.tokens));
        }
        Ok(())
    }

    /// Records the columns `from..from + width` of `value`.
    fn record_columns(&mut self, point: ProbePoint, value: &Tensor, from: usize, width: usize) -> Result<()> {
        if self.is_requested(point) {
            self.record(point, &value.narrow(1, from, width)?.contiguous()?)?;
        }
        Ok(())
    }

    /// Records queries, keys and values of the fused projection, and their norms, which the decoder computes together with the rotation.
    fn record_qkv(&mut self, layer: usize, value: &Tensor) -> Result<()> {
        let heads = &self.decoder.heads;
        let (queries, keys) = (heads.queries * heads.head_dim, heads.keys * heads.head_dim);
        let at = |stage| ProbePoint { layer: Some(layer), stage };
        self.record_columns(at(Stage::Query), value, 0, queries)?;
        self.record_columns(at(Stage::Key), value, queries, keys)?;
        self.record_columns(at(Stage::Value), value, queries + keys, keys)?;
        let Some((query_norm, key_norm)) = &self.decoder.layers[layer].qk_norms else { return Ok(()) };
        for (stage, weight, from, width) in
            [(Stage::QueryNorm, query_norm, 0, queries), (Stage::KeyNorm, key_norm, queries, keys)]
        {
            if self.is_requested(at(stage)) {
                let mut values = Values::of(&value.narrow(1, from, width)?.contiguous()?)?.to_vec();
                let eps = self.decoder.rms_norm_eps;
                values.chunks_exact_mut(weight.len()).for_each(|head| norm_in_place(head, weight, eps));
                self.probes.push(Probe::new(at(stage), values, self.tokens));
            }
        }
        Ok(())
    }
}

impl ForwardHooks for RecordingHooks<'_> {
    fn attend(&mut self, heads: QkvHeads) -> Result<Tensor> {
        let at = |stage| ProbePoint { layer: Some(heads.layer), stage };
        for (stage, value) in [(Stage::QueryRope, &heads.queries), (Stage::KeyRope, &heads.keys)] {
            if self.is_requested(at(stage)) {
                // `[heads, n, head_dim]` to `[n, heads * head_dim]`
                self.record(at(stage), &value.transpose(0, 1)?.contiguous()?.flatten_from(1)?)?;
            }
        }
        let mask = AttentionMask { n_past: 0, window: heads.window, ahead: (!self.is_causal).then_some(self.tokens.len()) };
        let (keys, values) = (self.decoder.held(&heads.keys)?, self.decoder.held(&heads.values)?);
        self.decoder.attention(&heads.queries, &keys, &values, mask)
    }

    /// Those of the passes that are shown: a model whose tokens see both ways only encodes.
    fn kernels(&self) -> Kernels {
        if self.is_causal { Kernels::Fastest } else { Kernels::ByShape }
    }

    fn is_observed(&self) -> bool {
        true
    }

    fn on_activation(&mut self, layer: Option<usize>, what: Activation, value: &Tensor) -> Result<()> {
        let stage = match what {
            Activation::Stage(stage) => stage,
            Activation::Qkv => return layer.map_or(Ok(()), |layer| self.record_qkv(layer, value)),
            Activation::GateUp => {
                let width = value.dim(1)? / 2;
                self.record_columns(ProbePoint { layer, stage: Stage::Gate }, value, 0, width)?;
                return self.record_columns(ProbePoint { layer, stage: Stage::Up }, value, width, width);
            }
        };
        self.record(ProbePoint { layer, stage }, value)
    }
}
