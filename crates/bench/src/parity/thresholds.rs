//! What two sides may differ by: data with reasons, one rule for each pair of dtypes, and the differences that are known.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use tandem_core::backend::Numerics;
use tandem_core::files::{MAX_JSON_BYTES, ModelFile};
use tandem_core::{DType, Error, ModelInfo, Result};

use super::Side;
use super::consistency::ConsistencyMeasures;
use super::generation::GenerationMeasures;
use super::logits::LogitsMeasures;

/// The rules that are part of this crate.
const EMBEDDED: &str = include_str!("thresholds.toml");

/// The version of the file's form.
const VERSION: u32 = 1;

/// Rules for every pair of dtypes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    version: u32,
    #[serde(rename = "pair", default)]
    pairs: Vec<PairRule>,
    #[serde(default)]
    alone: Vec<AloneRule>,
    #[serde(default)]
    known: Vec<KnownDifference>,
}

/// What a pair may differ by.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRule {
    /// What it is called in reports.
    pub name: String,
    #[serde(deserialize_with = "dtype")]
    reference: DType,
    #[serde(deserialize_with = "dtype")]
    candidate: DType,
    backend: Option<String>,
    numerics: Option<String>,
    most_hidden_size: Option<usize>,
    /// For models whose weights are declared random, or for all others; for both where it is absent.
    random: Option<bool>,
    /// Beyond this lead in nats no tie is near.
    pub tie: f64,
    /// Why these limits.
    pub reason: String,
    limits: BTreeMap<Metric, f64>,
}

/// What one side may differ by from itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AloneRule {
    #[serde(deserialize_with = "dtype")]
    dtype: DType,
    backend: Option<String>,
    max_abs: f64,
    relative_l2: f64,
    #[serde(rename = "reason")]
    _reason: String,
}

/// Gates that are known not to be met. When one is met after all, that fails: the entry is to be changed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownDifference {
    /// The last part of the model's name.
    model: String,
    /// Backend and dtype of each, such as `onnx:int4`.
    candidates: Vec<String>,
    /// Numerics, where it is known of one kind alone.
    numerics: Option<String>,
    metrics: Vec<Metric>,
    reason: String,
}

/// What a limit is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Positions with a logit that is not finite.
    NotFinite,
    /// The largest difference of a logit.
    MaxAbs,
    /// All differences over all logits, as Euclidean norms.
    RelativeL2,
    /// The least cosine of two rows.
    Cosine,
    /// The mean divergence of the candidate from the reference, in nats.
    KlMean,
    /// Its 99th percentile.
    KlP99,
    /// The mean divergence of the reference from the candidate.
    KlBackwardMean,
    /// The share of positions with the same first token.
    Top1,
    /// The same, near ties counted as equal.
    Top1WithTies,
    /// The overlap of the five first tokens.
    Top5,
    /// The change of the perplexity, as a share of it, in either direction.
    PerplexityChange,
    /// The share of greedy texts that part in earnest.
    GreedyReal,
    /// The share of sampled texts that part in earnest.
    SampledReal,
    /// The largest difference of the candidate from itself.
    SelfMaxAbs,
    /// The relative difference of the candidate from itself.
    SelfRelativeL2,
}

/// A limit and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// On what.
    pub metric: Metric,
    /// What was measured.
    pub value: f64,
    /// What is allowed: at most, or at least where more is better.
    pub limit: f64,
    /// How it came out.
    pub outcome: Outcome,
    /// Why a difference is known.
    pub reason: Option<String>,
}

/// How a gate came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Within the limit.
    Met,
    /// Outside of it.
    NotMet,
    /// Outside of it, which is known.
    Known,
    /// Within it, though it is known to be outside: the entry is out of date.
    NoLonger,
}

impl Thresholds {
    /// The rules that are part of this crate.
    pub fn embedded() -> Self {
        Self::parse("thresholds.toml", EMBEDDED).expect("the embedded rules are well formed: a test reads them")
    }

    /// Reads rules from a file of the form of this crate's `thresholds.toml`.
    ///
    /// # Errors
    /// [`Error::BadFile`] with what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let file = ModelFile::Path(path.to_owned());
        Self::parse(&file.name(), &file.read_text(MAX_JSON_BYTES)?)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let rules: Self =
            toml::from_str(text).map_err(|error| Error::bad_file(name, "is not a valid file of thresholds", error))?;
        if rules.version != VERSION {
            return Err(Error::bad_field(name, "version", format!("is `{}`, and this program knows {VERSION}", rules.version)));
        }
        Ok(rules)
    }

    /// The rule for a pair, if there is one.
    pub(super) fn rule(&self, reference: &ModelInfo, side: &Side<'_>) -> Option<&PairRule> {
        self.rule_of(reference.dtype, side.model.info(), side.numerics, side.is_random)
    }

    fn rule_of(&self, reference: DType, candidate: &ModelInfo, numerics: Numerics, is_random: bool) -> Option<&PairRule> {
        let numerics = numerics.to_string();
        let backend = candidate.backend.to_string();
        self.pairs.iter().find(|rule| {
            (rule.reference, rule.candidate) == (reference, candidate.dtype)
                && rule.backend.as_ref().is_none_or(|wanted| *wanted == backend)
                && rule.numerics.as_ref().is_none_or(|wanted| *wanted == numerics)
                && rule.most_hidden_size.is_none_or(|most| candidate.hidden_size <= most)
                && rule.random.is_none_or(|random| random == is_random)
        })
    }

    /// What a candidate may differ by from itself.
    pub(super) fn alone(&self, info: &ModelInfo) -> Option<(f64, f64)> {
        let backend = info.backend.to_string();
        let fits = |rule: &&AloneRule| rule.dtype == info.dtype && rule.backend.as_ref().is_none_or(|wanted| *wanted == backend);
        self.alone.iter().find(fits).map(|rule| (rule.max_abs, rule.relative_l2))
    }

    /// Holds what was measured of `side` against its limits.
    pub(super) fn gates(
        &self,
        rule: &PairRule,
        side: &Side<'_>,
        logits: Option<&LogitsMeasures>,
        generation: Option<&GenerationMeasures>,
        consistency: Option<&ConsistencyMeasures>,
    ) -> Vec<Gate> {
        let mut gates = Vec::new();
        for (&metric, &limit) in &rule.limits {
            if let Some(value) = measured(metric, logits, generation) {
                gates.push(self.gate(side, metric, value, limit));
            }
        }
        if let (Some(measures), Some((max_abs, relative_l2))) = (consistency, self.alone(side.model.info())) {
            gates.push(self.gate(side, Metric::SelfMaxAbs, measures.noise, max_abs));
            gates.push(self.gate(side, Metric::SelfRelativeL2, measures.relative_l2, relative_l2));
        }
        gates
    }

    fn gate(&self, side: &Side<'_>, metric: Metric, value: f64, limit: f64) -> Gate {
        let met = metric.is_met(value, limit);
        let known = self.known(side, metric);
        let outcome = match (met, known) {
            (true, None) => Outcome::Met,
            (false, None) => Outcome::NotMet,
            (false, Some(_)) => Outcome::Known,
            (true, Some(_)) => Outcome::NoLonger,
        };
        Gate { metric, value, limit, outcome, reason: known.map(str::to_owned) }
    }

    fn known(&self, side: &Side<'_>, metric: Metric) -> Option<&str> {
        let info = side.model.info();
        let model = info.name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
        let candidate = format!("{}:{}", info.backend, info.dtype);
        let fits = |known: &&KnownDifference| {
            known.model == model
                && known.candidates.contains(&candidate)
                && known.metrics.contains(&metric)
                && known.numerics.as_ref().is_none_or(|numerics| *numerics == side.numerics.to_string())
        };
        self.known.iter().find(fits).map(|known| known.reason.as_str())
    }
}

impl Metric {
    /// Whether more is better.
    pub fn is_at_least(self) -> bool {
        matches!(self, Self::Cosine | Self::Top1 | Self::Top1WithTies | Self::Top5)
    }

    /// NaN meets no limit.
    fn is_met(self, value: f64, limit: f64) -> bool {
        if self.is_at_least() { value >= limit } else { value <= limit }
    }
}

impl Outcome {
    /// Whether the pair fails by it.
    pub fn fails(self) -> bool {
        matches!(self, Self::NotMet | Self::NoLonger)
    }
}

fn measured(metric: Metric, logits: Option<&LogitsMeasures>, generation: Option<&GenerationMeasures>) -> Option<f64> {
    match metric {
        Metric::GreedyReal => return generation.map(|generation| generation.greedy.real_share()),
        Metric::SampledReal => return generation.map(|generation| generation.sampled.real_share()),
        _ => {}
    }
    let logits = logits?;
    Some(match metric {
        Metric::NotFinite => logits.n_not_finite as f64,
        Metric::MaxAbs => logits.max_abs,
        Metric::RelativeL2 => logits.relative_l2,
        Metric::Cosine => logits.cosine_min,
        Metric::KlMean => logits.kl_mean,
        Metric::KlP99 => logits.kl_p99,
        Metric::KlBackwardMean => logits.kl_backward_mean,
        Metric::Top1 => logits.top1,
        Metric::Top1WithTies => logits.top1_with_ties,
        Metric::Top5 => logits.top5,
        Metric::PerplexityChange => logits.perplexity_change.abs(),
        Metric::GreedyReal | Metric::SampledReal | Metric::SelfMaxAbs | Metric::SelfRelativeL2 => return None,
    })
}

fn dtype<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<DType, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use tandem_core::BackendKind;

    use super::*;

    #[test]
    fn threshold_rules_have_reasons_and_unique_names() {
        let rules = Thresholds::embedded();
        let mut names: Vec<&str> = rules.pairs.iter().map(|rule| rule.name.as_str()).collect();
        assert!(rules.pairs.iter().all(|rule| rule.reason.trim().len() > 20 && !rule.limits.is_empty()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rules.pairs.len());
        let strict = &rules.pairs[0];
        assert_eq!((strict.reference, strict.candidate), (DType::F32, DType::F32));
        assert_eq!((strict.limits[&Metric::MaxAbs], strict.limits[&Metric::Cosine]), (5e-3, 0.999_999));
        assert_eq!(strict.limits[&Metric::GreedyReal], 0.0);
        for &dtype in <DType as tandem_core::named::Named>::ALL {
            assert!(rules.pairs.iter().any(|rule| rule.candidate == dtype), "{dtype}");
        }
    }

    /// The rule for `dtype` against f32 on a model of this width.
    fn rule(dtype: DType, numerics: Numerics, hidden_size: usize, is_random: bool) -> PairRule {
        let mut info = ModelInfo::new("model", BackendKind::Candle, "0");
        (info.dtype, info.hidden_size) = (dtype, hidden_size);
        Thresholds::embedded().rule_of(DType::F32, &info, numerics, is_random).unwrap().clone()
    }

    #[test]
    fn a_trained_model_is_held_to_the_table_whatever_its_width() {
        for (dtype, cosine, kl_mean, top1) in [(DType::Int8, 0.999, 5e-3, 0.97), (DType::Int4, 0.98, 0.15, 0.83)] {
            for width in [32, 128, 896, 2048] {
                let limits = rule(dtype, Numerics::Exact, width, false).limits;
                let found = (limits[&Metric::Cosine], limits[&Metric::KlMean], limits[&Metric::Top1]);
                assert_eq!(found, (cosine, kl_mean, top1), "{dtype} of width {width}");
            }
        }
    }

    #[test]
    fn random_weights_have_limits_of_their_own_because_they_are_declared() {
        let limits = |width, is_random| rule(DType::Int4, Numerics::Fast, width, is_random).limits;
        assert_ne!(limits(896, true), limits(896, false));
        assert_ne!(limits(32, true), limits(32, false));
        // The strict gate is the same for all.
        let strict = |is_random| rule(DType::F32, Numerics::Fast, 32, is_random).limits;
        assert_eq!(strict(true), strict(false));
    }

    #[test]
    fn every_dtype_has_limits_of_self_consistency() {
        let rules = Thresholds::embedded();
        for &dtype in <DType as tandem_core::named::Named>::ALL {
            assert!(rules.alone.iter().any(|rule| rule.dtype == dtype && rule.backend.is_none()), "{dtype}");
        }
    }

    #[test]
    fn limits_have_a_direction_and_nan_fails_them() {
        assert!(Metric::MaxAbs.is_met(1.0, 1.0) && !Metric::MaxAbs.is_met(1.1, 1.0));
        assert!(Metric::Top1.is_met(1.0, 0.9) && !Metric::Top1.is_met(0.8, 0.9));
        assert!(!Metric::MaxAbs.is_met(f64::NAN, 1.0) && !Metric::Cosine.is_met(f64::NAN, 0.9));
    }
}
