//! Where two sides part: the first stage of the first layer whose own arithmetic is at fault, not what it was given.
//!
//! Both sides are probed in one pass over the same tokens. Each side's own inputs of a stage are then fed through that stage alone, in
//! double precision and with the weights of the reference's checkpoint: what a stage inherits from those before it is in its inputs, and
//! what remains is its own. Adapters are part of the weights, so that a stage at fault is a module. Without a checkpoint, and for encoders, the growth from a stage's inputs to its result stands in for it.

mod adapted;
mod replay;
mod values;

use std::collections::HashMap;

use serde::Serialize;
use tandem_core::backend::{Probe, ProbePoint, Stage};
use tandem_core::{CancelToken, DType, Error, LogitsRequest, Result, TokenId};

use self::replay::Replay;
use self::values::Values;
use super::Side;
use super::logits::session;

/// A stage is at fault when its own error exceeds that of the same stage on the reference so many times, and the floor of its dtype.
const EXCESS: f64 = 10.0;

/// Places that are shown of a stage at fault.
const N_WORST: usize = 5;

/// Tokens that are probed of a small model, and of one whose replay takes long.
const N_TOKENS: usize = 256;
const N_TOKENS_OF_LARGE: usize = 32;
const LARGE: u64 = 50_000_000;

/// Where two sides part.
#[derive(Clone, Debug, Serialize)]
pub struct BisectReport {
    /// What it was found on.
    pub prompt: String,
    /// Tokens of it.
    pub n_tokens: usize,
    /// How own and inherited errors were told apart.
    pub method: Method,
    /// What is at fault.
    pub finding: Finding,
    /// Every stage that both sides show.
    pub stages: Vec<StageDifference>,
}

/// How own and inherited errors were told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Each stage was computed anew from its side's own inputs.
    Replay,
    /// By how much the difference grows from a stage's inputs to its result.
    Growth,
}

/// What is at fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Finding {
    /// The first stage that does not compute what the reference's checkpoint says.
    Stage {
        /// The layer, where it is in one.
        layer: Option<usize>,
        /// The stage, by its name.
        stage: &'static str,
        /// The module whose product the stage is, where an adapter of a side changes it: `layers.0.self_attn.q_proj`.
        #[serde(skip_serializing_if = "Option::is_none")]
        module: Option<String>,
        /// Whose.
        side: WhichSide,
        /// Where it is farthest off.
        worst: Vec<WorstValue>,
    },
    /// Every stage of one pass is as it should be, and a session gives other logits: what it keeps between passes is wrong, the cache or
    /// the positions.
    Cache {
        /// Whose.
        side: WhichSide,
    },
    /// Nothing.
    Nothing,
}

/// One of two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhichSide {
    /// The reference.
    Reference,
    /// The candidate.
    Candidate,
}

/// How far two sides are from each other at one stage: Euclidean norms of differences over those of the values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageDifference {
    /// The layer, where it is in one.
    pub layer: Option<usize>,
    /// The stage, by its name.
    pub stage: &'static str,
    /// Between the two sides.
    pub difference: f64,
    /// The largest difference between the sides' inputs of this stage.
    pub inherited: f64,
    /// Of the candidate from what its own inputs give.
    pub own: Option<f64>,
    /// Of the reference from what its own inputs give.
    pub own_of_reference: Option<f64>,
    /// Who is at fault here.
    pub fault: Option<WhichSide>,
}

/// A value at a stage at fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorstValue {
    /// The token, counted from the first.
    pub position: usize,
    /// The column.
    pub column: usize,
    /// The value of the reference.
    pub reference: f32,
    /// That of the candidate.
    pub candidate: f32,
}

/// Finds where `candidate` parts from `reference` on `tokens`.
///
/// # Errors
/// [`Error::Unsupported`] when a side shows no inner values; those of the engines.
pub(super) fn bisect(
    (reference, candidate): (&Side<'_>, &Side<'_>),
    (prompt, tokens): (&str, &[TokenId]),
    cancel: &CancelToken,
) -> Result<BisectReport> {
    let replay = Replay::open(reference.files, reference.adapters)?;
    let config = reference.files.model_config()?;
    let adapters = [reference.adapters, candidate.adapters].concat();
    let most = if replay.as_ref().is_some_and(|replay| replay.n_parameters() > LARGE) { N_TOKENS_OF_LARGE } else { N_TOKENS };
    let tokens = &tokens[..tokens.len().min(most)];
    let n_layers = reference.model.info().n_layers.min(candidate.model.info().n_layers);
    // Whether an engine would give logits too is of no account where vectors are compared.
    let embeds = reference.embedder.is_some();
    let points: Vec<ProbePoint> =
        ProbePoint::all(n_layers).into_iter().filter(|point| !embeds || point.stage != Stage::Logits).collect();
    let probe = |side: &Side<'_>| {
        let prober = side.model.prober().ok_or_else(|| side.model.info().unsupported("probing"))?;
        Ok::<_, Error>(Values::new(prober.probe(tokens, &points)?, &points))
    };
    let (ours, theirs) = (probe(reference)?, probe(candidate)?);
    let floor = floor(candidate.model.info().dtype);
    let mut stages = Vec::new();
    let mut finding = Finding::Nothing;
    // By how much the sides differ at each point; where one of them does not show it, what it was given counts.
    let mut differences: HashMap<ProbePoint, f64> = HashMap::new();
    for &point in &points {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let inputs = values::inputs(point, n_layers);
        let inherited = inputs.iter().filter_map(|input| differences.get(input).copied()).fold(0.0, f64::max);
        let here = theirs.get(point).zip(ours.get(point)).map(|(theirs, ours)| relative(theirs, ours));
        differences.insert(point, here.unwrap_or(inherited));
        let (Some(a), Some(b)) = (ours.shown(point), theirs.shown(point)) else { continue };
        let mut difference = StageDifference {
            layer: point.layer,
            stage: point.stage.name(),
            difference: relative(&b.values, &a.values),
            inherited,
            own: None,
            own_of_reference: None,
            fault: None,
        };
        if let Some(replay) = &replay {
            let expected = replay.stage(point, tokens, [&ours, &theirs])?;
            difference.own_of_reference = expected[0].as_ref().map(|expected| relative(&a.values, expected));
            difference.own = expected[1].as_ref().map(|expected| relative(&b.values, expected));
        }
        difference.fault = difference.fault(floor);
        if let (Finding::Nothing, Some(side)) = (&finding, difference.fault) {
            let module = adapted::module(point, &config, &adapters);
            finding = Finding::Stage { layer: point.layer, stage: point.stage.name(), module, side, worst: worst(a, b) };
        }
        stages.push(difference);
    }
    if finding == Finding::Nothing {
        finding = of_sessions([(reference, &ours), (candidate, &theirs)], tokens, floor, cancel)?;
    }
    let method = if replay.is_some() { Method::Replay } else { Method::Growth };
    Ok(BisectReport { prompt: prompt.into(), n_tokens: tokens.len(), method, finding, stages })
}

impl StageDifference {
    /// Who is at fault: the candidate where its own error is beyond what rounding and the reference's own explain.
    fn fault(&self, floor: f64) -> Option<WhichSide> {
        match (self.own, self.own_of_reference) {
            (Some(own), Some(of_reference)) if own > floor.max(EXCESS * of_reference) => Some(WhichSide::Candidate),
            (Some(_), Some(of_reference)) if of_reference > floor => Some(WhichSide::Reference),
            (Some(_), Some(_)) => None,
            _ => (self.difference > floor.max(EXCESS * self.inherited)).then_some(WhichSide::Candidate),
        }
    }
}

/// Holds the logits of a session that was given the tokens one at a time against those of the one pass that was probed.
fn of_sessions(sides: [(&Side<'_>, &Values); 2], tokens: &[TokenId], floor: f64, cancel: &CancelToken) -> Result<Finding> {
    let logits = ProbePoint { layer: None, stage: Stage::Logits };
    for (which, (side, values)) in [WhichSide::Reference, WhichSide::Candidate].into_iter().zip(sides) {
        let Some(probed) = values.shown(logits) else { continue };
        let mut session = session(side, tokens.len(), cancel)?;
        for (i, &token) in tokens.iter().enumerate() {
            let stepped = session.append(&[token], LogitsRequest::Last(1))?;
            if stepped.last().is_some_and(|row| relative(row, probed.row(i)) > floor) {
                return Ok(Finding::Cache { side: which });
            }
        }
    }
    Ok(Finding::Nothing)
}

/// What the arithmetic of a dtype explains by itself in one stage: rounding for floats; for small integers the rounding of weights, which
/// a product has not averaged away, and of activations.
fn floor(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 3e-5,
        DType::F16 => 1e-2,
        DType::Bf16 => 5e-2,
        DType::Int8 => 5e-2,
        DType::Int4 => 0.25,
    }
}

/// The Euclidean norm of the difference over that of `expected`; NaN, or a vector of another size, is infinitely far.
fn relative(values: &[f32], expected: &[f32]) -> f64 {
    if values.len() != expected.len() {
        return f64::INFINITY;
    }
    let (mut square, mut total) = (0.0, 0.0);
    for (&value, &expected) in values.iter().zip(expected) {
        let (value, expected) = (f64::from(value), f64::from(expected));
        square += (value - expected).powi(2);
        total += expected * expected;
    }
    let relative = if square == 0.0 { 0.0 } else { (square / total).sqrt() };
    if relative.is_nan() { f64::INFINITY } else { relative }
}

/// The values that are farthest from each other.
fn worst(a: &Probe, b: &Probe) -> Vec<WorstValue> {
    let far = |&i: &usize| f64::from((a.values[i] - b.values[i]).abs());
    let mut places: Vec<usize> = (0..a.values.len().min(b.values.len())).collect();
    places.sort_by(|left, right| far(right).total_cmp(&far(left)));
    places.truncate(N_WORST);
    let of = |i: usize| WorstValue { position: i / a.width, column: i % a.width, reference: a.values[i], candidate: b.values[i] };
    places.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_differences_are_of_norms() {
        assert_eq!(relative(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert!((relative(&[3.0, 5.0], &[3.0, 4.0]) - 0.2).abs() < 1e-12);
        for far in [relative(&[f32::NAN], &[1.0]), relative(&[1.0], &[0.0]), relative(&[1.0, 2.0], &[1.0])] {
            assert_eq!(far, f64::INFINITY);
        }
    }

    #[test]
    fn worst_values_are_sorted_by_difference() {
        let point = ProbePoint { layer: None, stage: Stage::Logits };
        let probe = |values: &[f32]| Probe::new(point, values.to_vec(), &[0, 1]);
        let worst = worst(&probe(&[1.0, 2.0, 3.0, 4.0]), &probe(&[1.0, 2.5, 3.0, 6.0]));
        assert_eq!((worst[0].position, worst[0].column, worst[0].candidate), (1, 1, 6.0));
        assert_eq!((worst[1].position, worst[1].column), (0, 1));
    }
}
