//! What two sides may differ by: data with reasons, one rule for each pair of dtypes, and the differences that are known.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use tandem_core::backend::Numerics;
use tandem_core::files::{MAX_JSON_BYTES, ModelFile};
use tandem_core::{DType, Error, ModelInfo, Result};

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
    /// Beyond this lead in nats no tie is near.
    pub tie: f64,
    /// Why these limits.
    pub reason: String,
    limits: BTreeMap<Metric, f64>,
    /// In their place where the reference knows nothing, as random weights do.
    limits_of_random: Option<BTreeMap<Metric, f64>>,
}

/// A reference whose perplexity exceeds this share of the vocabulary knows nothing: every token is about as probable to it.
const CHANCE: f64 = 0.25;

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

/// A gate that is known not to be met. When it is met after all, that fails: the entry is to be removed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownDifference {
    /// The last part of the model's name.
    model: String,
    /// Backend and dtype, such as `onnx:int4`.
    candidate: String,
    metric: Metric,
    reason: String,
}

/// What a limit is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Positions with a logit that is no number.
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
        let rules: Self = toml::from_str(text).map_err(|error| Error::bad_file(name, "is no file of thresholds", error))?;
        if rules.version != VERSION {
            return Err(Error::bad_field(name, "version", format!("is `{}`, and this program knows {VERSION}", rules.version)));
        }
        Ok(rules)
    }

    /// The rule for a pair, if there is one.
    pub fn rule(&self, reference: &ModelInfo, candidate: &ModelInfo, numerics: Numerics) -> Option<&PairRule> {
        let numerics = match numerics {
            Numerics::Fast => "fast",
            Numerics::Exact => "exact",
        };
        let backend = candidate.backend.to_string();
        self.pairs.iter().find(|rule| {
            (rule.reference, rule.candidate) == (reference.dtype, candidate.dtype)
                && rule.backend.as_ref().is_none_or(|wanted| *wanted == backend)
                && rule.numerics.as_ref().is_none_or(|wanted| wanted == numerics)
                && rule.most_hidden_size.is_none_or(|most| candidate.hidden_size <= most)
        })
    }

    /// What a candidate may differ by from itself.
    pub(super) fn alone(&self, info: &ModelInfo) -> Option<(f64, f64)> {
        let backend = info.backend.to_string();
        let fits = |rule: &&AloneRule| rule.dtype == info.dtype && rule.backend.as_ref().is_none_or(|wanted| *wanted == backend);
        self.alone.iter().find(fits).map(|rule| (rule.max_abs, rule.relative_l2))
    }

    /// Holds what was measured of `info` against its limits.
    pub(super) fn gates(
        &self,
        rule: &PairRule,
        info: &ModelInfo,
        logits: Option<&LogitsMeasures>,
        generation: Option<&GenerationMeasures>,
        consistency: Option<&ConsistencyMeasures>,
    ) -> Vec<Gate> {
        let perplexity = logits.map_or(0.0, |logits| logits.reference_perplexity);
        let mut gates = Vec::new();
        for (&metric, &limit) in rule.limits(perplexity, info.vocab_size) {
            if let Some(value) = measured(metric, logits, generation) {
                gates.push(self.gate(info, metric, value, limit));
            }
        }
        if let (Some(measures), Some((max_abs, relative_l2))) = (consistency, self.alone(info)) {
            gates.push(self.gate(info, Metric::SelfMaxAbs, measures.noise, max_abs));
            gates.push(self.gate(info, Metric::SelfRelativeL2, measures.relative_l2, relative_l2));
        }
        gates
    }

    fn gate(&self, info: &ModelInfo, metric: Metric, value: f64, limit: f64) -> Gate {
        let met = metric.is_met(value, limit);
        let known = self.known(info, metric);
        let outcome = match (met, known) {
            (true, None) => Outcome::Met,
            (false, None) => Outcome::NotMet,
            (false, Some(_)) => Outcome::Known,
            (true, Some(_)) => Outcome::NoLonger,
        };
        Gate { metric, value, limit, outcome, reason: known.map(str::to_owned) }
    }

    fn known(&self, info: &ModelInfo, metric: Metric) -> Option<&str> {
        let model = info.name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
        let candidate = format!("{}:{}", info.backend, info.dtype);
        let fits = |known: &&KnownDifference| known.metric == metric && known.model == model && known.candidate == candidate;
        self.known.iter().find(fits).map(|known| known.reason.as_str())
    }
}

impl PairRule {
    /// What is judged, by the perplexity of the reference.
    fn limits(&self, perplexity: f64, vocab_size: usize) -> &BTreeMap<Metric, f64> {
        let is_random = self.judges_random(perplexity, vocab_size);
        self.limits_of_random.as_ref().filter(|_| is_random).unwrap_or(&self.limits)
    }

    /// Whether limits for random weights are taken for a reference of this perplexity.
    pub(super) fn judges_random(&self, perplexity: f64, vocab_size: usize) -> bool {
        self.limits_of_random.is_some() && perplexity > CHANCE * vocab_size as f64
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
    use super::*;

    #[test]
    fn every_rule_says_why_and_names_are_their_own() {
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

    #[test]
    fn a_reference_that_knows_nothing_has_limits_of_its_own_where_they_are_given() {
        let rules = "version = 1\n[[pair]]\nname = 'a'\nreference = 'f32'\ncandidate = 'int4'\ntie = 0.1\nreason = 'a test'\n\
                     limits = { top1 = 0.9 }\nlimits_of_random = { kl_mean = 0.1 }";
        let rules = Thresholds::parse("test", rules).unwrap();
        let judged = |perplexity| rules.pairs[0].limits(perplexity, 1000).keys().copied().collect::<Vec<_>>();
        assert_eq!((judged(30.0), judged(800.0)), (vec![Metric::Top1], vec![Metric::KlMean]));
        // The strict gate is the same for all.
        let strict = &Thresholds::embedded().pairs[0];
        assert_eq!(strict.limits(1e9, 1000), &strict.limits);
    }

    #[test]
    fn limits_are_at_most_or_at_least_and_nan_meets_none() {
        assert!(Metric::MaxAbs.is_met(1.0, 1.0) && !Metric::MaxAbs.is_met(1.1, 1.0));
        assert!(Metric::Top1.is_met(1.0, 0.9) && !Metric::Top1.is_met(0.8, 0.9));
        assert!(!Metric::MaxAbs.is_met(f64::NAN, 1.0) && !Metric::Cosine.is_met(f64::NAN, 0.9));
    }
}
