//! What two sides may differ by: data with reasons, one rule for each pair of dtypes, and the differences that are known.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tandem_core::backend::Numerics;
use tandem_core::files::{MAX_JSON_BYTES, ModelFile};
use tandem_core::{BackendKind, DType, Error, ModelInfo, Result};

use super::Side;
use super::consistency::ConsistencyMeasures;
use super::generation::GenerationMeasures;
use super::logits::LogitsMeasures;
use super::vectors::VectorMeasures;

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
    /// Of embedding models.
    #[serde(default)]
    vectors: Vec<PairRule>,
    #[serde(default)]
    self_consistency: Vec<SelfConsistencyRule>,
    #[serde(default)]
    known: Vec<KnownDifference>,
}

/// What a pair may differ by.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRule {
    /// What it is called in reports.
    pub name: String,
    reference: DType,
    candidate: DType,
    /// That of the candidate's keys and values.
    kv_dtype: Option<DType>,
    backend: Option<BackendKind>,
    numerics: Option<Numerics>,
    most_hidden_size: Option<usize>,
    /// For models whose weights are declared random, or for all others; for both where it is absent.
    random: Option<bool>,
    /// Beyond this lead in nats no tie is near; vectors have no ties.
    #[serde(default)]
    pub tie: f64,
    /// Why these limits.
    pub reason: String,
    limits: BTreeMap<Metric, f64>,
}

/// What one side may differ by from itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelfConsistencyRule {
    dtype: DType,
    kv_dtype: Option<DType>,
    backend: Option<BackendKind>,
    max_abs: f64,
    relative_l2: f64,
    #[serde(rename = "reason")]
    _reason: String,
}

/// Limits that a model is known not to meet, and how far it may miss them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownDifference {
    /// The last part of the model's name.
    model: String,
    dtype: DType,
    backend: Option<BackendKind>,
    numerics: Option<Numerics>,
    /// The limits are met on some machines. Otherwise one that is met on the whole corpus fails: the entry is out of date.
    #[serde(default)]
    may_be_met: bool,
    reason: String,
    /// The worst value of each metric that is known; anything worse fails.
    metrics: BTreeMap<Metric, f64>,
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
    /// The minimum cosine of two rows, or of two vectors.
    Cosine,
    /// The mean cosine of two vectors.
    CosineMean,
    /// The share of the texts nearest to each that stay among them.
    Nearest,
    /// The mean KL divergence of the candidate from the reference, in nats.
    KlMean,
    /// The 99th percentile of the KL divergence.
    KlP99,
    /// The mean KL divergence of the reference from the candidate.
    KlBackwardMean,
    /// Top-1 agreement: the share of positions with the same most probable token.
    Top1,
    /// Top-1 agreement with near ties counted as equal.
    Top1WithTies,
    /// The overlap of the five most probable tokens.
    Top5,
    /// The change of the perplexity, as a share of it, in either direction.
    PerplexityChange,
    /// The share of greedy texts that diverge, near ties aside.
    GreedyReal,
    /// The share of sampled texts that diverge, near ties aside.
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
    /// What is allowed of a known difference, in the same direction.
    pub known_limit: Option<f64>,
    /// The outcome.
    pub outcome: Outcome,
    /// The reason for a known difference.
    pub reason: Option<String>,
}

/// The outcome of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Within the limit.
    Met,
    /// Outside of it.
    NotMet,
    /// Outside of it, and within that of a known difference.
    Known,
    /// Within it on the whole corpus, although a difference is known: the entry is out of date.
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

    /// The rule for a pair, if there is one: of embedding models where the candidate is one.
    pub(super) fn rule(&self, reference: &ModelInfo, side: &Side<'_>) -> Option<&PairRule> {
        let rules = if side.embedder.is_some() { &self.vectors } else { &self.pairs };
        rule_of(rules, reference.dtype, side.model.info(), side.numerics, side.is_random)
    }

    /// What a candidate may differ by from itself.
    fn self_consistency(&self, info: &ModelInfo) -> Option<(f64, f64)> {
        let fits = |rule: &&SelfConsistencyRule| {
            rule.dtype == info.dtype
                && rule.kv_dtype.is_none_or(|dtype| Some(dtype) == info.kv_dtype)
                && rule.backend.is_none_or(|backend| backend == info.backend)
        };
        self.self_consistency.iter().find(fits).map(|rule| (rule.max_abs, rule.relative_l2))
    }

    /// Holds what was measured of `side` against its limits. On the whole of the embedded corpus a known difference must show.
    pub(super) fn gates(
        &self,
        rule: &PairRule,
        side: &Side<'_>,
        logits: Option<&LogitsMeasures>,
        generation: Option<&GenerationMeasures>,
        consistency: Option<&ConsistencyMeasures>,
        is_whole_corpus: bool,
    ) -> Vec<Gate> {
        let values = rule.limits.iter().filter_map(|(&metric, &limit)| {
            let value = measured(metric, logits, generation)?;
            Some((metric, value, limit))
        });
        let own = consistency.zip(self.self_consistency(side.model.info())).map(|(measures, (max_abs, relative_l2))| {
            [(Metric::SelfMaxAbs, measures.noise, max_abs), (Metric::SelfRelativeL2, measures.relative_l2, relative_l2)]
        });
        let gate = |(metric, value, limit)| {
            let known = self.known(side.model.info(), side.numerics, metric);
            gate(metric, value, limit, known, is_whole_corpus)
        };
        values.chain(own.into_iter().flatten()).map(gate).collect()
    }

    /// Holds what was measured of the vectors of `side` against its limits.
    pub(super) fn vector_gates(
        &self,
        rule: &PairRule,
        side: &Side<'_>,
        vectors: Option<&VectorMeasures>,
        consistency: Option<&ConsistencyMeasures>,
        is_whole_corpus: bool,
    ) -> Vec<Gate> {
        let gate = |(&metric, &limit): (&Metric, &f64)| {
            let value = match metric {
                Metric::Cosine => vectors?.cosine_min,
                Metric::CosineMean => vectors?.cosine_mean,
                Metric::Nearest => vectors?.nearest,
                Metric::MaxAbs => vectors?.max_abs,
                Metric::SelfMaxAbs => consistency?.noise,
                Metric::SelfRelativeL2 => consistency?.relative_l2,
                _ => return None,
            };
            let known = self.known(side.model.info(), side.numerics, metric);
            Some(gate(metric, value, limit, known, is_whole_corpus))
        };
        rule.limits.iter().filter_map(gate).collect()
    }

    fn known(&self, info: &ModelInfo, numerics: Numerics, metric: Metric) -> Option<&KnownDifference> {
        let model = info.name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
        self.known.iter().find(|known| {
            known.model == model
                && known.dtype == info.dtype
                && known.backend.is_none_or(|backend| backend == info.backend)
                && known.numerics.is_none_or(|of_entry| of_entry == numerics)
                && known.metrics.contains_key(&metric)
        })
    }
}

impl Metric {
    /// Whether more is better.
    pub fn is_at_least(self) -> bool {
        matches!(self, Self::Cosine | Self::CosineMean | Self::Nearest | Self::Top1 | Self::Top1WithTies | Self::Top5)
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

/// The first of `rules` that fits.
fn rule_of<'r>(
    rules: &'r [PairRule],
    reference: DType,
    candidate: &ModelInfo,
    numerics: Numerics,
    is_random: bool,
) -> Option<&'r PairRule> {
    rules.iter().find(|rule| {
        (rule.reference, rule.candidate) == (reference, candidate.dtype)
            && rule.kv_dtype.is_none_or(|dtype| Some(dtype) == candidate.kv_dtype)
            && rule.backend.is_none_or(|backend| backend == candidate.backend)
            && rule.numerics.is_none_or(|of_rule| of_rule == numerics)
            && rule.most_hidden_size.is_none_or(|most| candidate.hidden_size <= most)
            && rule.random.is_none_or(|random| random == is_random)
    })
}

fn gate(metric: Metric, value: f64, limit: f64, known: Option<&KnownDifference>, is_whole_corpus: bool) -> Gate {
    let known_limit = known.and_then(|known| known.metrics.get(&metric).copied());
    let outcome = if metric.is_met(value, limit) {
        let is_out_of_date = is_whole_corpus && known.is_some_and(|known| !known.may_be_met);
        if is_out_of_date { Outcome::NoLonger } else { Outcome::Met }
    } else if known_limit.is_some_and(|limit| metric.is_met(value, limit)) {
        Outcome::Known
    } else {
        Outcome::NotMet
    };
    Gate { metric, value, limit, known_limit, outcome, reason: known.map(|known| known.reason.trim().replace('\n', " ")) }
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
        Metric::CosineMean | Metric::Nearest => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_rules_have_reasons_and_unique_names() {
        let rules = Thresholds::embedded();
        let mut names: Vec<&str> = rules.pairs.iter().map(|rule| rule.name.as_str()).collect();
        assert!(rules.pairs.iter().all(|rule| rule.reason.trim().len() > 20 && !rule.limits.is_empty()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rules.pairs.len());
        let strict = rules.pairs.iter().find(|rule| rule.name == "f32 against f32").expect("there is a rule of f32");
        assert_eq!((strict.reference, strict.candidate), (DType::F32, DType::F32));
        assert_eq!((strict.limits[&Metric::MaxAbs], strict.limits[&Metric::Cosine]), (5e-3, 0.999_999));
        assert_eq!(strict.limits[&Metric::GreedyReal], 0.0);
        for &dtype in <DType as tandem_core::named::Named>::ALL {
            assert!(rules.pairs.iter().any(|rule| rule.candidate == dtype), "{dtype}");
        }
    }

    #[test]
    fn vectors_of_the_same_dtype_are_held_to_rounding_and_those_of_int8_to_less() {
        let rules = Thresholds::embedded();
        let limits = |dtype| {
            let mut info = ModelInfo::new("model", BackendKind::Candle, "0");
            (info.dtype, info.hidden_size) = (dtype, 384);
            rule_of(&rules.vectors, DType::F32, &info, Numerics::Fast, false).unwrap().limits.clone()
        };
        assert_eq!(limits(DType::F32)[&Metric::Cosine], 0.999_999);
        let int8 = limits(DType::Int8);
        assert_eq!((int8[&Metric::Cosine], int8[&Metric::CosineMean]), (0.998, 0.9995));
        for &dtype in <DType as tandem_core::named::Named>::ALL {
            assert!(limits(dtype).contains_key(&Metric::SelfRelativeL2), "{dtype}");
        }
    }

    /// The rule for `dtype` against f32 on a model of this width.
    fn rule(dtype: DType, numerics: Numerics, hidden_size: usize, is_random: bool) -> PairRule {
        let mut info = ModelInfo::new("model", BackendKind::Candle, "0");
        (info.dtype, info.hidden_size) = (dtype, hidden_size);
        rule_of(&Thresholds::embedded().pairs, DType::F32, &info, numerics, is_random).unwrap().clone()
    }

    #[test]
    fn a_trained_model_is_held_to_the_table_whatever_its_width() {
        for (dtype, numerics, expected) in [
            (DType::Int8, Numerics::Exact, (0.999, 5e-3, 0.97)),
            (DType::Int8, Numerics::Fast, (0.99, 0.05, 0.90)),
            (DType::Int4, Numerics::Exact, (0.98, 0.15, 0.83)),
            (DType::Int4, Numerics::Fast, (0.98, 0.15, 0.83)),
        ] {
            for width in [32, 128, 896, 2048] {
                let limits = rule(dtype, numerics, width, false).limits;
                let found = (limits[&Metric::Cosine], limits[&Metric::KlMean], limits[&Metric::Top1]);
                assert_eq!(found, expected, "{dtype} of width {width}, {numerics}");
            }
        }
    }

    #[test]
    fn a_cache_of_f16_has_limits_of_its_own() {
        let rules = Thresholds::embedded();
        let limits = |kv_dtype| {
            let mut info = ModelInfo::new("model", BackendKind::Candle, "0");
            (info.dtype, info.kv_dtype) = (DType::F32, Some(kv_dtype));
            let rule = rule_of(&rules.pairs, DType::F32, &info, Numerics::Fast, false).unwrap();
            (rule.limits[&Metric::KlMean], rules.self_consistency(&info).unwrap())
        };
        assert_eq!(limits(DType::F32), (1e-6, (2e-3, 5e-5)), "those of f32 are as strict as ever");
        let rounded = limits(DType::F16);
        assert!(rounded.0 > 1e-6 && rounded.1.0 > 2e-3, "{rounded:?}");
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
            assert!(rules.self_consistency.iter().any(|rule| rule.dtype == dtype && rule.backend.is_none()), "{dtype}");
        }
    }

    #[test]
    fn a_known_difference_has_a_limit_of_its_own_and_must_show_on_the_whole_corpus() {
        let rules = Thresholds::embedded();
        let known = |name: &str, dtype| {
            let mut info = ModelInfo::new(name, BackendKind::Candle, "0");
            info.dtype = dtype;
            rules.known(&info, Numerics::Fast, Metric::Cosine)
        };
        assert!(known("demo", DType::Int8).is_none() && known("another", DType::Int4).is_none());
        let int4 = known("models/demo/", DType::Int4).unwrap();
        let worst = int4.metrics[&Metric::Cosine];
        let check = |known: Option<&KnownDifference>, value, is_whole, expected| {
            assert_eq!(gate(Metric::Cosine, value, 0.98, known, is_whole).outcome, expected, "{value}");
        };
        check(Some(int4), worst, true, Outcome::Known);
        check(Some(int4), worst - 0.01, true, Outcome::NotMet);
        check(Some(int4), f64::NAN, true, Outcome::NotMet);
        check(Some(int4), 0.99, true, Outcome::NoLonger);
        check(Some(int4), 0.99, false, Outcome::Met);
        let varying = KnownDifference { may_be_met: true, ..int4.clone() };
        check(Some(&varying), 0.99, true, Outcome::Met);
        check(None, 0.99, true, Outcome::Met);
        check(None, worst, true, Outcome::NotMet);
    }

    #[test]
    fn limits_have_a_direction_and_nan_fails_them() {
        assert!(Metric::MaxAbs.is_met(1.0, 1.0) && !Metric::MaxAbs.is_met(1.1, 1.0));
        assert!(Metric::Top1.is_met(1.0, 0.9) && !Metric::Top1.is_met(0.8, 0.9));
        assert!(!Metric::MaxAbs.is_met(f64::NAN, 1.0) && !Metric::Cosine.is_met(f64::NAN, 0.9));
    }
}
