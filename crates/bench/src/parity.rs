//! Are two models the same? Stages with a verdict each, from texts to logits to generated texts, held against limits that are data.
//!
//! 1. `text`: both sides make the same tokens of the same texts.
//! 2. `weights`: they hold the same weights.
//! 3. `consistency`: each agrees with itself, which gives the noise of this machine.
//! 4. `logits`: of the same tokens, position by position.
//! 5. `generation`: greedy and with a seed, up to where the texts part.
//!
//! Embedding models have `vectors` in the place of the last two: cosines, and the nearest texts.
//!
//! It works on `&dyn Model` and knows no engine. What was measured before an error or a cancel is kept.

mod bisect;
mod consistency;
mod corpus;
mod generation;
mod logits;
mod page;
mod report;
mod row;
mod show;
mod text;
mod thresholds;
mod vectors;
mod weights;

use std::sync::Arc;

use tandem_core::adapter::ScaledAdapter;
use tandem_core::backend::Numerics;
use tandem_core::files::ModelFiles;
use tandem_core::template::ChatTemplate;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{CancelToken, DType, Error, Model, Result, TokenId};

pub use self::bisect::{BisectReport, Finding, Method, StageDifference, WhichSide, WorstValue};
pub use self::consistency::{ConsistencyMeasures, Way, WayMeasures};
pub use self::corpus::{Content, Corpus, CorpusPrompt, Message, Pattern, PromptKind};
pub use self::generation::{GenerationMeasures, Runs};
pub use self::logits::{Divergence, LogitsMeasures, Place, PromptMeasures};
pub use self::page::page;
pub use self::report::{PairReport, ParityReport, Problem, RuleReport, SideReport, StageReport, StageVerdict, Verdict};
pub use self::row::{Label, Parted, Taken};
pub use self::show::{Line, Tone, lines};
pub use self::text::{TextDifference, TextMeasures};
pub use self::thresholds::{Gate, Metric, Outcome, PairRule, Thresholds};
pub use self::vectors::{EmbedderSide, VectorMeasures};
pub use self::weights::{HashedFile, Relation, WeightDifference, WeightMeasures};

use self::generation::Plan;
use self::logits::Ties;
use self::text::Prompt;

/// A model that is compared, with what turns text into its tokens.
#[derive(Clone)]
pub struct Side<'m> {
    /// As it was asked for, such as `onnx:int4`.
    pub name: String,
    /// The model.
    pub model: &'m dyn Model,
    /// The files that it was loaded from.
    pub files: &'m ModelFiles,
    /// The adapters that are applied to it.
    pub adapters: &'m [ScaledAdapter],
    /// Its tokenizer.
    pub tokenizer: &'m Tokenizer,
    /// Its chat template, if it has one.
    pub template: Option<&'m ChatTemplate>,
    /// The tokens that end a text.
    pub end_tokens: &'m [TokenId],
    /// In what products with quantised weights are computed.
    pub numerics: Numerics,
    /// Its weights are random, as the checkpoint or the caller declares: some limits are others then.
    pub is_random: bool,
    /// The model as one that makes vectors of texts, where it is compared as that.
    pub embedder: Option<EmbedderSide<'m>>,
    /// Loads the same model with another number of threads.
    pub other_threads: Option<&'m dyn Fn() -> Result<Arc<dyn Model>>>,
}

/// How to compare.
#[derive(Clone, Debug)]
pub struct ParityOptions {
    /// The prompts.
    pub corpus: Corpus,
    /// What sides may differ by.
    pub thresholds: Thresholds,
    /// The most tokens of a prompt that may be cut.
    pub most_tokens: usize,
    /// Tokens that are generated of a prompt; none for 0.
    pub n_generated: usize,
    /// Prompts from which is generated.
    pub n_generation_prompts: usize,
    /// The seed of sampled texts.
    pub seed: u64,
    /// Find the stage at which sides part.
    pub bisect: bool,
    /// Ends the work from another thread.
    pub cancel: CancelToken,
}

impl Default for ParityOptions {
    fn default() -> Self {
        Self {
            corpus: Corpus::embedded(),
            thresholds: Thresholds::embedded(),
            most_tokens: 1024,
            n_generated: 64,
            n_generation_prompts: 12,
            seed: 0,
            bisect: false,
            cancel: CancelToken::new(),
        }
    }
}

impl ParityOptions {
    /// Nothing of the embedded corpus is left out: known differences were measured on this.
    fn is_whole_corpus(&self) -> bool {
        let Self { corpus, most_tokens, .. } = Self::default();
        (&self.corpus, self.most_tokens) == (&corpus, most_tokens)
    }
}

/// Comparisons with one reference.
pub struct Parity<'m> {
    reference: Side<'m>,
    options: ParityOptions,
    /// How far the reference is from itself, once it was measured.
    reference_consistency: Option<ConsistencyMeasures>,
}

impl<'m> Parity<'m> {
    /// Compares with `reference`, whose weights are floats: a quantised candidate is judged against f32 of the same checkpoint, never
    /// against another quantised one.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a reference that is quantised.
    pub fn new(reference: Side<'m>, options: ParityOptions) -> Result<Self> {
        if matches!(reference.model.info().dtype, DType::Int8 | DType::Int4) {
            let problem = "is quantised: candidates are compared with floating-point weights of the same checkpoint; use `:f32`";
            return Err(Error::invalid_option("reference", &reference.name, problem));
        }
        Ok(Self { reference, options, reference_consistency: None })
    }

    /// Measures `candidate` stage by stage; `listen` is told how far it is. What goes wrong stands in the report.
    pub fn compare(&mut self, candidate: &Side<'_>, listen: &mut dyn FnMut(&str)) -> PairReport {
        let mut report = PairReport::new(candidate);
        let info = candidate.model.info();
        let rule = self.options.thresholds.rule(self.reference.model.info(), candidate).cloned();
        match &rule {
            Some(rule) => {
                report.rule = Some(RuleReport { name: rule.name.clone(), reason: rule.reason.trim().replace('\n', " ") })
            }
            None => report.problems.push(self.no_rule(candidate)),
        }
        match vectors::embedders(&self.reference, candidate) {
            Ok(None) => {}
            Ok(Some(sides)) => {
                self.compare_vectors(candidate, sides, rule.as_ref(), &mut report, listen);
                return report;
            }
            Err(error) => {
                report.problems.push(Problem::of_stage("vectors", &error));
                return report;
            }
        }
        listen("texts");
        let most_tokens = self.most_tokens(candidate);
        let sides = (&self.reference, candidate);
        let (text, prompts) = text::compare(&self.options.corpus, sides, most_tokens, &mut report.problems);
        report.text = StageReport::of(text.differences.is_empty(), text);
        listen("weights");
        match weights::compare(&self.reference, candidate, &self.options.cancel) {
            Ok(weights) => report.weights = StageReport::of(weights.relation != Relation::Different, weights),
            Err(error) => report.problems.push(Problem::of_stage("weights", &error)),
        }
        self.measure(candidate, rule.as_ref(), &prompts, &mut report, listen);
        if let Some(rule) = &rule {
            report.gates = self.options.thresholds.gates(
                rule,
                candidate,
                report.logits.measured.as_ref(),
                report.generation.measured.as_ref(),
                report.consistency.measured.as_ref(),
                self.options.is_whole_corpus(),
            );
        }
        if self.options.n_generated == 0 {
            report.generation.verdict = StageVerdict::Absent;
        }
        report.judge(self.reference.model.info().dtype == info.dtype);
        // What it cannot look into does not change what was measured.
        if self.options.bisect {
            listen("bisecting");
            let worst = report.logits.measured.as_ref().and_then(|logits| logits.max_abs_at.as_ref());
            let worst = worst.map(|place| place.prompt.clone());
            let prompts: Vec<_> = prompts.iter().map(|prompt| (prompt.name.as_str(), prompt.tokens.as_slice())).collect();
            self.bisect(candidate, &prompts, worst.as_deref(), &mut report);
        }
        report
    }

    /// Compares two embedding models.
    fn compare_vectors(
        &mut self,
        candidate: &Side<'_>,
        [ours, theirs]: [EmbedderSide<'_>; 2],
        rule: Option<&PairRule>,
        report: &mut PairReport,
        listen: &mut dyn FnMut(&str),
    ) {
        let cancel = self.options.cancel.clone();
        report.embeds();
        listen("texts");
        let sides = (ours.embedder, theirs.embedder);
        let (text, texts) = vectors::texts(&self.options.corpus, sides, &mut report.problems);
        report.text = StageReport::of(text.differences.is_empty(), text);
        listen("weights");
        match weights::compare(&self.reference, candidate, &cancel) {
            Ok(weights) => report.weights = StageReport::of(weights.relation != Relation::Different, weights),
            Err(error) => report.problems.push(Problem::of_stage("weights", &error)),
        }
        listen("self-consistency");
        if self.reference_consistency.is_none() {
            match vectors::consistency(ours, &texts, &cancel) {
                Ok(measures) => self.reference_consistency = Some(measures),
                Err(error) => report.problems.push(Problem::of_stage("consistency of the reference", &error)),
            }
        }
        report.reference_consistency.clone_from(&self.reference_consistency);
        match vectors::consistency(theirs, &texts, &cancel) {
            Ok(measures) => report.consistency = StageReport::of(measures.noise.is_finite(), measures),
            Err(error) => report.problems.push(Problem::of_stage("consistency", &error)),
        }
        listen("vectors");
        match vectors::compare(sides, &texts, &cancel) {
            Ok(measures) => report.vectors = StageReport::of(true, measures),
            Err(error) => report.problems.push(Problem::of_stage("vectors", &error)),
        }
        if let Some(rule) = rule {
            let (vectors, consistency) = (report.vectors.measured.as_ref(), report.consistency.measured.as_ref());
            let is_whole = self.options.is_whole_corpus();
            report.gates = self.options.thresholds.vector_gates(rule, candidate, vectors, consistency, is_whole);
        }
        report.judge(self.reference.model.info().dtype == candidate.model.info().dtype);
        if self.options.bisect {
            listen("bisecting");
            let worst = report.vectors.measured.as_ref().map(|vectors| vectors.cosine_min_at.clone());
            let texts: Vec<_> = texts.iter().map(vectors::Text::named_tokens).filter(|(_, tokens)| !tokens.is_empty()).collect();
            self.bisect(candidate, &texts, worst.as_deref(), report);
        }
    }

    /// Looks for the stage at fault on the prompt that shows the largest difference.
    fn bisect(&self, candidate: &Side<'_>, prompts: &[(&str, &[TokenId])], worst: Option<&str>, report: &mut PairReport) {
        let worst = worst.and_then(|worst| prompts.iter().find(|(name, _)| *name == worst));
        let Some(&prompt) = worst.or(prompts.first()) else { return };
        match bisect::bisect((&self.reference, candidate), prompt, &self.options.cancel) {
            Ok(found) => report.bisect = Some(found),
            Err(error) => report.problems.push(Problem::of_stage("bisect", &error)),
        }
    }

    /// The stages that run the models.
    fn measure(
        &mut self,
        candidate: &Side<'_>,
        rule: Option<&PairRule>,
        prompts: &[Prompt],
        report: &mut PairReport,
        listen: &mut dyn FnMut(&str),
    ) {
        let cancel = self.options.cancel.clone();
        listen("self-consistency");
        if self.reference_consistency.is_none() {
            match consistency::measure(&self.reference, prompts, &cancel) {
                Ok(measures) => self.reference_consistency = Some(measures),
                Err(error) => report.problems.push(Problem::of_stage("consistency of the reference", &error)),
            }
        }
        match consistency::measure(candidate, prompts, &cancel) {
            Ok(measures) => report.consistency = StageReport::of(measures.noise.is_finite(), measures),
            Err(error) => report.problems.push(Problem::of_stage("consistency", &error)),
        }
        report.reference_consistency.clone_from(&self.reference_consistency);
        let noises = [&report.reference_consistency, &report.consistency.measured];
        let noise =
            noises.into_iter().flatten().map(|measures| measures.noise).filter(|noise| noise.is_finite()).fold(0.0, f64::max);
        let ties = Ties { noise, tie: rule.map_or(0.0, |rule| rule.tie) };

        let sides = (&self.reference, candidate);
        let (ours, theirs) = (self.reference.model.info().vocab_size, candidate.model.info().vocab_size);
        if ours != theirs {
            let problem = format!("the reference has {ours} logits and the candidate {theirs}: they cannot be compared");
            report.problems.push(Problem::new("logits", problem));
            return;
        }
        let measures = logits::compare(sides, prompts, ties, &cancel, &mut report.problems, listen);
        report.logits = if measures.n_positions > 0 { StageReport::of(true, measures) } else { StageReport::default() };
        if self.options.n_generated > 0 && !cancel.is_cancelled() {
            let plan = Plan {
                n_prompts: self.options.n_generation_prompts,
                n_tokens: self.options.n_generated,
                seed: self.options.seed,
            };
            let measures = generation::compare(sides, prompts, plan, ties, &cancel, &mut report.problems, listen);
            report.generation =
                if measures.greedy.n_prompts > 0 { StageReport::of(true, measures) } else { StageReport::default() };
        }
    }

    /// The most tokens that both sides can hold and that were asked for.
    fn most_tokens(&self, candidate: &Side<'_>) -> usize {
        let holds = self.reference.model.info().max_context.min(candidate.model.info().max_context);
        if self.options.corpus.may_be_cut { holds.min(self.options.most_tokens) } else { holds }
    }

    fn no_rule(&self, candidate: &Side<'_>) -> Problem {
        let (ours, theirs) = (self.reference.model.info().dtype, candidate.model.info().dtype);
        Problem::new(
            "gates",
            format!("there are no limits for {theirs} against {ours}: the candidate is measured but not judged"),
        )
    }
}
