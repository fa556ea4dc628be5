//! What one side showed, and what follows from it by an addition.

use std::collections::HashMap;

use tandem_core::backend::{Probe, ProbePoint, Stage};

/// The values of one side.
pub(super) struct Values {
    shown: HashMap<ProbePoint, Probe>,
    /// Sums that the side did not show.
    derived: HashMap<ProbePoint, Vec<f32>>,
}

impl Values {
    /// Takes what was shown of `points`, which are in the order of computation.
    pub(super) fn new(probes: Vec<Probe>, points: &[ProbePoint]) -> Self {
        let shown = probes.into_iter().map(|probe| (probe.point, probe)).collect();
        let mut values = Self { shown, derived: HashMap::new() };
        for &point in points {
            if let (None, Some((left, right))) = (values.get(point), terms(point)) {
                let sum = |left: &[f32], right: &[f32]| left.iter().zip(right).map(|(left, right)| left + right).collect();
                if let Some(sum) = values.get(left).zip(values.get(right)).map(|(left, right)| sum(left, right)) {
                    values.derived.insert(point, sum);
                }
            }
        }
        values
    }

    /// What the side showed at `point`.
    pub(super) fn shown(&self, point: ProbePoint) -> Option<&Probe> {
        self.shown.get(&point)
    }

    /// The values at `point`, shown or derived.
    pub(super) fn get(&self, point: ProbePoint) -> Option<&[f32]> {
        let shown = self.shown.get(&point).map(|probe| probe.values.as_slice());
        shown.or_else(|| self.derived.get(&point).map(Vec::as_slice))
    }

    /// The first of `points` that there is.
    pub(super) fn first(&self, points: &[ProbePoint]) -> Option<&[f32]> {
        points.iter().find_map(|&point| self.get(point))
    }
}

/// What `point` is computed from in a decoder of `n_layers`. Of several that are the same value before and after a step, all are named: not every side has all.
pub(super) fn inputs(point: ProbePoint, n_layers: usize) -> Vec<ProbePoint> {
    let ProbePoint { layer, stage } = point;
    let at = |stage| ProbePoint { layer, stage };
    match stage {
        Stage::AttentionNorm => vec![layer_input(layer.unwrap_or(0))],
        Stage::Query | Stage::Key | Stage::Value => vec![at(Stage::AttentionNorm)],
        Stage::QueryNorm => vec![at(Stage::Query)],
        Stage::KeyNorm => vec![at(Stage::Key)],
        Stage::QueryRope => vec![at(Stage::QueryNorm), at(Stage::Query)],
        Stage::KeyRope => vec![at(Stage::KeyNorm), at(Stage::Key)],
        Stage::AttentionContext => {
            vec![at(Stage::QueryRope), at(Stage::QueryNorm), at(Stage::Query), at(Stage::KeyRope), at(Stage::Value)]
        }
        Stage::AttentionOutput => vec![at(Stage::AttentionContext)],
        Stage::AttentionResidual => vec![layer_input(layer.unwrap_or(0)), at(Stage::AttentionOutput)],
        Stage::MlpNorm => vec![at(Stage::AttentionResidual)],
        Stage::Gate | Stage::Up => vec![at(Stage::MlpNorm)],
        Stage::Activation => vec![at(Stage::Gate), at(Stage::Up)],
        Stage::Down => vec![at(Stage::Activation)],
        Stage::MlpResidual => vec![at(Stage::AttentionResidual), at(Stage::Down)],
        Stage::Logits => vec![at(Stage::FinalNorm)],
        Stage::FinalNorm => vec![layer_input(n_layers)],
        _ => Vec::new(),
    }
}

/// What layer `layer` is given.
pub(super) fn layer_input(layer: usize) -> ProbePoint {
    match layer.checked_sub(1) {
        None => ProbePoint { layer: None, stage: Stage::Embedding },
        Some(before) => ProbePoint { layer: Some(before), stage: Stage::MlpResidual },
    }
}

/// The terms of a sum.
fn terms(point: ProbePoint) -> Option<(ProbePoint, ProbePoint)> {
    let at = |stage| ProbePoint { layer: point.layer, stage };
    match point.stage {
        Stage::AttentionResidual => Some((layer_input(point.layer?), at(Stage::AttentionOutput))),
        Stage::MlpResidual => Some((at(Stage::AttentionResidual), at(Stage::Down))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bisect_computes_sums_that_were_not_probed() {
        let at = |layer, stage| ProbePoint { layer, stage };
        let probe = |point, values: &[f32]| Probe::new(point, values.to_vec(), &[0]);
        let values = Values::new(
            vec![
                probe(at(None, Stage::Embedding), &[1.0, 2.0]),
                probe(at(Some(0), Stage::AttentionOutput), &[0.5, 0.5]),
                probe(at(Some(0), Stage::Down), &[10.0, 20.0]),
            ],
            &ProbePoint::all(1),
        );
        assert_eq!(values.get(at(Some(0), Stage::AttentionResidual)), Some([1.5, 2.5].as_slice()));
        assert_eq!(values.get(at(Some(0), Stage::MlpResidual)), Some([11.5, 22.5].as_slice()));
        assert!(values.shown(at(Some(0), Stage::MlpResidual)).is_none(), "nobody showed it");
        assert_eq!(layer_input(1), at(Some(0), Stage::MlpResidual));
    }
}
