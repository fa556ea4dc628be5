//! A pass that is watched: the values between the steps of the decoder, as the contract names them.

use candle_core::{Result, Tensor};
use tandem_core::backend::{Probe, ProbePoint, Stage};
use tandem_core::{CancelToken, TokenId};

use crate::attention::{Sight, attention};
use crate::decoder::{Attended, Decode, Decoder, Pass, Seen, Span};
use crate::elementwise::norm_in_place;
use crate::values::Values;

/// What one pass over `tokens` computes at `points`, in the order of computation.
pub(crate) fn probe(decoder: &Decoder, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
    let mut watch = Watch { decoder, tokens, points, probes: Vec::new() };
    let spans = [Span { rows: 0..tokens.len(), first_position: 0, n_wanted: tokens.len() }];
    if let Some(states) = decoder.forward(tokens, &spans, &CancelToken::new(), &mut watch)? {
        watch.keep(ProbePoint { layer: None, stage: Stage::FinalNorm }, &decoder.normed(&states)?)?;
        if watch.wants(ProbePoint { layer: None, stage: Stage::Logits }) {
            watch.keep(ProbePoint { layer: None, stage: Stage::Logits }, &decoder.logits(&states)?)?;
        }
    }
    Ok(watch.probes)
}

struct Watch<'p> {
    decoder: &'p Decoder,
    tokens: &'p [TokenId],
    points: &'p [ProbePoint],
    probes: Vec<Probe>,
}

impl Watch<'_> {
    fn wants(&self, point: ProbePoint) -> bool {
        self.points.contains(&point)
    }

    /// Keeps `value`, `[n, width]`.
    fn keep(&mut self, point: ProbePoint, value: &Tensor) -> Result<()> {
        if self.wants(point) {
            let values = Values::of(value)?.to_vec();
            self.probes.push(Probe::new(point, values, self.tokens));
        }
        Ok(())
    }

    /// Keeps the columns `from..from + width` of `value`, `[n, more]`.
    fn keep_columns(&mut self, point: ProbePoint, value: &Tensor, from: usize, width: usize) -> Result<()> {
        if self.wants(point) {
            self.keep(point, &value.narrow(1, from, width)?.contiguous()?)?;
        }
        Ok(())
    }

    /// Queries, keys and values of the fused product, and their norms, which the decoder computes together with the turn.
    fn projected(&mut self, layer: usize, value: &Tensor) -> Result<()> {
        let heads = &self.decoder.heads;
        let (queries, keys) = (heads.queries * heads.head_dim, heads.keys * heads.head_dim);
        let at = |stage| ProbePoint { layer: Some(layer), stage };
        self.keep_columns(at(Stage::Query), value, 0, queries)?;
        self.keep_columns(at(Stage::Key), value, queries, keys)?;
        self.keep_columns(at(Stage::Value), value, queries + keys, keys)?;
        let Some((query_norm, key_norm)) = &self.decoder.layers[layer].qk_norms else { return Ok(()) };
        for (stage, weight, from, width) in
            [(Stage::QueryNorm, query_norm, 0, queries), (Stage::KeyNorm, key_norm, queries, keys)]
        {
            if self.wants(at(stage)) {
                let mut values = Values::of(&value.narrow(1, from, width)?.contiguous()?)?.to_vec();
                let eps = self.decoder.rms_norm_eps;
                values.chunks_exact_mut(weight.len()).for_each(|head| norm_in_place(head, weight, eps));
                self.probes.push(Probe::new(at(stage), values, self.tokens));
            }
        }
        Ok(())
    }
}

impl Pass for Watch<'_> {
    fn attend(&mut self, attended: Attended) -> Result<Tensor> {
        let at = |stage| ProbePoint { layer: Some(attended.layer), stage };
        for (stage, value) in [(Stage::QueryRope, &attended.queries), (Stage::KeyRope, &attended.keys)] {
            if self.wants(at(stage)) {
                // `[heads, n, head_dim]` to `[n, heads * head_dim]`
                self.keep(at(stage), &value.transpose(0, 1)?.contiguous()?.flatten_from(1)?)?;
            }
        }
        let sight = Sight { n_past: 0, window: attended.window };
        attention(&attended.queries, &attended.keys, &attended.values, sight)
    }

    fn watches(&self) -> bool {
        true
    }

    fn see(&mut self, layer: Option<usize>, what: Seen, value: &Tensor) -> Result<()> {
        let stage = match what {
            Seen::Is(stage) => stage,
            Seen::Projected => return layer.map_or(Ok(()), |layer| self.projected(layer, value)),
            Seen::GateUp => {
                let width = value.dim(1)? / 2;
                self.keep_columns(ProbePoint { layer, stage: Stage::Gate }, value, 0, width)?;
                return self.keep_columns(ProbePoint { layer, stage: Stage::Up }, value, width, width);
            }
        };
        self.keep(ProbePoint { layer, stage }, value)
    }
}
