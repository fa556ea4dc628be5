//! What a comparison found, as it is written to JSON. The form has a version: fields are added, and none changes its meaning within one.

use serde::Serialize;
use tandem_core::backend::Numerics;
use tandem_core::{Error, ModelInfo};

use super::Side;
use super::bisect::BisectReport;
use super::consistency::ConsistencyMeasures;
use super::generation::GenerationMeasures;
use super::logits::LogitsMeasures;
use super::text::TextMeasures;
use super::thresholds::{Gate, Metric, Outcome};
use super::vectors::VectorMeasures;
use super::weights::WeightMeasures;

/// The form of the report.
pub(super) const SCHEMA: &str = "tandem.parity/2";

/// One reference and every candidate.
#[derive(Clone, Debug, Serialize)]
pub struct ParityReport {
    /// The version of the schema.
    pub schema: &'static str,
    /// The version of this crate.
    pub version: &'static str,
    /// The model that was asked for.
    pub model: String,
    /// The corpus.
    pub corpus: String,
    /// The reference.
    pub reference: SideReport,
    /// Each candidate in turn.
    pub pairs: Vec<PairReport>,
    /// What went wrong with all of it, such as a candidate that cannot be loaded.
    pub problems: Vec<Problem>,
    /// The whole in one word.
    pub verdict: Verdict,
}

/// A side as it was resolved.
#[derive(Clone, Debug, Serialize)]
pub struct SideReport {
    /// As it was asked for.
    pub name: String,
    /// The engine.
    pub backend: String,
    /// Its version.
    pub engine_version: String,
    /// Where it ran.
    pub device: String,
    /// The dtype of the weights.
    pub dtype: String,
    /// In what products with quantised weights are computed.
    pub numerics: &'static str,
    /// In what keys and values are held; absent of a model that does not generate.
    pub kv_dtype: Option<String>,
    /// Threads.
    pub threads: usize,
    /// The family.
    pub architecture: String,
    /// Decoder layers.
    pub n_layers: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Rows of the logits.
    pub vocab_size: usize,
}

/// One candidate against the reference.
#[derive(Clone, Debug, Serialize)]
pub struct PairReport {
    /// The candidate.
    pub candidate: SideReport,
    /// The rule that it is judged by.
    pub rule: Option<RuleReport>,
    /// Tokens and rendered texts.
    pub text: StageReport<TextMeasures>,
    /// Weights.
    pub weights: StageReport<WeightMeasures>,
    /// The reference against itself.
    pub reference_consistency: Option<ConsistencyMeasures>,
    /// The candidate against itself.
    pub consistency: StageReport<ConsistencyMeasures>,
    /// Logits of the same tokens.
    pub logits: StageReport<LogitsMeasures>,
    /// Generated texts.
    pub generation: StageReport<GenerationMeasures>,
    /// Vectors of the same texts.
    pub vectors: StageReport<VectorMeasures>,
    /// Every limit and what was measured.
    pub gates: Vec<Gate>,
    /// Where the sides part, when it was asked for.
    pub bisect: Option<BisectReport>,
    /// What went wrong; what was measured besides is kept.
    pub problems: Vec<Problem>,
    /// The whole in one word.
    pub verdict: Verdict,
}

/// The rule of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// What it is called.
    pub name: String,
    /// Why its limits are what they are.
    pub reason: String,
}

/// A stage with its own verdict.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport<M> {
    /// Whether it passes.
    pub verdict: StageVerdict,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Option<M>,
}

/// How a stage came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageVerdict {
    /// Everything was measured and is within its limits.
    Pass,
    /// Something is not within its limits.
    Fail,
    /// Not everything could be measured; what was is within its limits.
    #[default]
    Incomplete,
    /// It is not part of this comparison.
    Absent,
}

/// What a candidate is to its reference, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Equal within rounding: weights of the same dtype, and everything within the limits for that.
    Same,
    /// Weights of another dtype, within the limits for it: what that costs is in the figures.
    Close,
    /// Outside of a limit, which is known of this model.
    KnownDifferent,
    /// Not everything could be measured; what was is within its limits.
    Incomplete,
    /// Outside of a limit.
    Different,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The stage or the prompt that it belongs to.
    pub at: String,
    /// What it is, with its causes.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ParityReport {
    /// A report without candidates.
    pub fn new(model: impl Into<String>, corpus: impl Into<String>, reference: &Side<'_>) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            model: model.into(),
            corpus: corpus.into(),
            reference: SideReport::new(reference),
            pairs: Vec::new(),
            problems: Vec::new(),
            verdict: Verdict::Incomplete,
        }
    }

    /// Sums up what the pairs came to.
    pub fn judge(&mut self) {
        let worst = self.pairs.iter().map(|pair| pair.verdict).max().unwrap_or(Verdict::Incomplete);
        self.verdict = if self.problems.is_empty() { worst } else { worst.max(Verdict::Incomplete) };
    }
}

impl SideReport {
    pub(super) fn new(side: &Side<'_>) -> Self {
        let info: &ModelInfo = side.model.info();
        Self {
            name: side.name.clone(),
            backend: info.backend.to_string(),
            engine_version: info.engine_version.clone(),
            device: info.device.to_string(),
            dtype: info.dtype.to_string(),
            numerics: match side.numerics {
                Numerics::Fast => "fast",
                Numerics::Exact => "exact",
            },
            kv_dtype: info.kv_dtype.map(|dtype| dtype.to_string()),
            threads: info.threads,
            architecture: info.architecture.clone(),
            n_layers: info.n_layers,
            hidden_size: info.hidden_size,
            vocab_size: info.vocab_size,
        }
    }
}

impl PairReport {
    pub(super) fn new(candidate: &Side<'_>) -> Self {
        Self {
            candidate: SideReport::new(candidate),
            rule: None,
            text: StageReport::default(),
            weights: StageReport::default(),
            reference_consistency: None,
            consistency: StageReport::default(),
            logits: StageReport::default(),
            generation: StageReport::default(),
            vectors: StageReport::absent(),
            gates: Vec::new(),
            bisect: None,
            problems: Vec::new(),
            verdict: Verdict::Incomplete,
        }
    }

    /// It is of embedding models: vectors stand in the place of logits and texts.
    pub(super) fn embeds(&mut self) {
        (self.logits, self.generation) = (StageReport::absent(), StageReport::absent());
        self.vectors = StageReport::default();
    }

    /// Gives every stage the verdict of its gates, and the pair that of its stages. `has_same_dtype` when its weights are of the
    /// reference's dtype.
    pub(super) fn judge(&mut self, has_same_dtype: bool) {
        for gate in self.gates.iter().filter(|gate| gate.outcome.fails()) {
            match gate.metric {
                Metric::GreedyReal | Metric::SampledReal => self.generation.verdict = StageVerdict::Fail,
                Metric::SelfMaxAbs | Metric::SelfRelativeL2 => self.consistency.verdict = StageVerdict::Fail,
                _ if self.logits.verdict == StageVerdict::Absent => self.vectors.verdict = StageVerdict::Fail,
                _ => self.logits.verdict = StageVerdict::Fail,
            }
        }
        let of_model = [self.text.verdict, self.weights.verdict, self.consistency.verdict];
        let of_output = [self.logits.verdict, self.generation.verdict, self.vectors.verdict];
        let stages = [of_model, of_output].concat();
        self.verdict = if stages.contains(&StageVerdict::Fail) {
            Verdict::Different
        } else if stages.contains(&StageVerdict::Incomplete) || !self.problems.is_empty() {
            Verdict::Incomplete
        } else if self.gates.iter().any(|gate| gate.outcome == Outcome::Known) {
            Verdict::KnownDifferent
        } else if has_same_dtype {
            Verdict::Same
        } else {
            Verdict::Close
        };
    }
}

impl<M> StageReport<M> {
    pub(super) fn of(passes: bool, measured: M) -> Self {
        Self { verdict: if passes { StageVerdict::Pass } else { StageVerdict::Fail }, measured: Some(measured) }
    }

    pub(super) fn absent() -> Self {
        Self { verdict: StageVerdict::Absent, measured: None }
    }
}

impl<M> Default for StageReport<M> {
    fn default() -> Self {
        Self { verdict: StageVerdict::Incomplete, measured: None }
    }
}

impl Problem {
    /// A problem of our own.
    pub fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: at.into(), message: message.into(), hint: None }
    }

    /// An error, with its causes and its hint.
    pub fn of(at: impl Into<String>, error: &Error) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message += &format!(": {cause}");
            source = cause.source();
        }
        Self { at: at.into(), message, hint: error.hint().map(|hint| hint.to_string()) }
    }

    pub(super) fn of_stage(stage: &str, error: &Error) -> Self {
        Self::of(stage, error)
    }

    pub(super) fn of_prompt(prompt: &str, error: &Error) -> Self {
        Self::of(format!("prompt `{prompt}`"), error)
    }
}
