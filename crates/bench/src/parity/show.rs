//! A comparison as lines for people.

use super::bisect::{BisectReport, Finding, Method, WhichSide};
use super::logits::Divergence;
use super::report::{PairReport, ParityReport, Problem, StageReport, StageVerdict, Verdict};
use super::thresholds::{Gate, Metric, Outcome};
use super::weights::Relation;
use super::{ConsistencyMeasures, GenerationMeasures, LogitsMeasures, TextMeasures, VectorMeasures, WeightMeasures};

/// Divergences and differences that are shown; a report in JSON has more.
const N_SHOWN: usize = 5;

/// One line, and how to colour it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it says.
    pub text: String,
    /// How.
    pub tone: Tone,
}

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A heading.
    Heading,
    /// Something that is well.
    Good,
    /// Something that is not.
    Bad,
    /// A remark.
    Aside,
    /// All else.
    Plain,
}

/// The report as lines.
pub fn lines(report: &ParityReport) -> Vec<Line> {
    let reference = &report.reference;
    let mut out = vec![line(
        Tone::Heading,
        format!(
            "{}: {} ({} {}, {}, {}) is the reference",
            report.model, reference.name, reference.backend, reference.engine_version, reference.dtype, reference.device
        ),
    )];
    for pair in &report.pairs {
        out.push(line(Tone::Plain, String::new()));
        show_pair(pair, &mut out);
    }
    if !report.problems.is_empty() {
        out.push(line(Tone::Plain, String::new()));
    }
    report.problems.iter().for_each(|problem| show_problem(problem, &mut out));
    out
}

fn show_pair(pair: &PairReport, out: &mut Vec<Line>) {
    let side = &pair.candidate;
    out.push(line(
        Tone::Heading,
        format!(
            "{} ({} {}, {}{}, {}, {} numerics): {}",
            side.name,
            side.backend,
            side.engine_version,
            side.dtype,
            side.kv_dtype.as_ref().map_or_else(String::new, |dtype| format!(", KV cache {dtype}")),
            side.device,
            side.numerics,
            headline(pair)
        ),
    ));
    if let Some(rule) = &pair.rule {
        out.push(line(Tone::Plain, format!("  limits: {}", rule.name)));
    }
    for (name, verdict, said) in stages(pair) {
        out.push(line(tone(verdict), format!("  {name:<12} {:<10} {said}", stage_word(verdict))));
    }
    out.extend(pair.gates.iter().map(show_gate));
    let mut reasons: Vec<&String> = pair.gates.iter().filter_map(|gate| gate.reason.as_ref()).collect();
    reasons.dedup();
    out.extend(reasons.into_iter().map(|reason| line(Tone::Aside, format!("    known difference: {reason}"))));
    if let Some(measures) = &pair.weights.measured {
        for difference in measures.differences.iter().take(N_SHOWN) {
            out.push(line(Tone::Bad, format!("  weight `{}` {}", difference.name, difference.problem)));
        }
    }
    let logits = pair.logits.measured.iter().flat_map(|measures| &measures.real);
    logits.take(N_SHOWN).for_each(|divergence| show_divergence("teacher-forced", divergence, out));
    if let Some(measures) = &pair.generation.measured {
        for (what, runs) in [("greedy", &measures.greedy), ("sampled", &measures.sampled)] {
            let real = runs.divergences.iter().filter(|divergence| divergence.label == super::Label::Real);
            real.take(N_SHOWN).for_each(|divergence| show_divergence(what, divergence, out));
        }
    }
    if let Some(found) = &pair.bisect {
        show_bisect(found, out);
    }
    pair.problems.iter().for_each(|problem| show_problem(problem, out));
}

/// Every stage that is part of the comparison, with its verdict and what was found.
pub(super) fn stages(pair: &PairReport) -> Vec<(&'static str, StageVerdict, String)> {
    let mut stages = vec![
        stage("text", &pair.text, text),
        stage("weights", &pair.weights, weights),
        stage("consistency", &pair.consistency, consistency),
        stage("logits", &pair.logits, logits),
        stage("generation", &pair.generation, generation),
        stage("vectors", &pair.vectors, vectors),
    ];
    stages.retain(|(_, verdict, _)| *verdict != StageVerdict::Absent);
    stages
}

fn stage<M>(name: &'static str, stage: &StageReport<M>, describe: impl Fn(&M) -> String) -> (&'static str, StageVerdict, String) {
    (name, stage.verdict, stage.measured.as_ref().map_or_else(|| "not measured".into(), describe))
}

fn text(measures: &TextMeasures) -> String {
    let TextMeasures { n_prompts, n_tokens, n_cut, differences } = measures;
    match differences.first() {
        None => format!("{n_prompts} prompts, {n_tokens} tokens, equal on both sides ({n_cut} prompts cut to fit)"),
        Some(first) => format!(
            "{} prompts differ; the first is `{}`: {} differ from place {} on",
            differences.len(),
            first.prompt,
            first.what,
            first.at
        ),
    }
}

fn weights(measures: &WeightMeasures) -> String {
    let relation = match measures.relation {
        Relation::Same => "the same weights",
        Relation::Different => "not the same weights",
        Relation::Unknown => "not known",
    };
    format!("{relation}: {}", measures.because)
}

fn consistency(measures: &ConsistencyMeasures) -> String {
    if measures.noise == 0.0 {
        return format!("{} ways, equal to the bit", measures.ways.len());
    }
    let worst = measures.ways.iter().max_by(|left, right| left.max_abs.total_cmp(&right.max_abs));
    let worst = worst.map(|worst| format!(", {:?}", worst.way).to_lowercase()).unwrap_or_default();
    format!("{} ways, off by at most {}{worst}", measures.ways.len(), figure(measures.noise))
}

fn logits(measures: &LogitsMeasures) -> String {
    format!(
        "{} positions; max |d| {}, mean KL {} nats, top-1 agreement {:.2}%, perplexity {:.4} to {:.4}; {} near ties, {} real",
        measures.n_positions,
        figure(measures.max_abs),
        figure(measures.kl_mean),
        measures.top1 * 100.0,
        measures.reference_perplexity,
        measures.candidate_perplexity,
        measures.n_near_ties,
        measures.n_real
    )
}

fn generation(measures: &GenerationMeasures) -> String {
    let runs = |what: &str, runs: &super::Runs| {
        format!(
            "{what} {} of {} texts identical, {} diverge at a near tie, {} for real, {:.1} tokens in common",
            runs.n_identical, runs.n_prompts, runs.n_near_ties, runs.n_real, runs.mean_common
        )
    };
    format!("{}; {}", runs("greedy", &measures.greedy), runs("sampled", &measures.sampled))
}

fn vectors(measures: &VectorMeasures) -> String {
    format!(
        "{} texts, {} dimensions; cosine {:.7} on average, {:.7} at least (`{}`), max |d| {}, {:.2}% of the {} nearest texts kept",
        measures.n_texts,
        measures.dimensions,
        measures.cosine_mean,
        measures.cosine_min,
        measures.cosine_min_at,
        figure(measures.max_abs),
        measures.nearest * 100.0,
        measures.n_nearest
    )
}

fn show_gate(gate: &Gate) -> Line {
    let (tone, said) = match gate.outcome {
        Outcome::Met => (Tone::Good, "met"),
        Outcome::NotMet => (Tone::Bad, "not met"),
        Outcome::Known => (Tone::Aside, "known difference"),
        Outcome::NoLonger => (Tone::Bad, "known difference is gone: remove its entry"),
    };
    let sign = if gate.metric.is_at_least() { "≥" } else { "≤" };
    let known = gate.known_limit.map(|limit| format!(", {sign} {}", figure_of(gate.metric, limit))).unwrap_or_default();
    let text = format!(
        "    {:<24} {:>12} {sign} {:<10} {said}{known}",
        metric_name(gate.metric),
        figure_of(gate.metric, gate.value),
        figure_of(gate.metric, gate.limit)
    );
    line(tone, text)
}

fn show_divergence(what: &str, divergence: &Divergence, out: &mut Vec<Line>) {
    let parted = &divergence.parted;
    let place = &divergence.place;
    out.push(line(Tone::Bad, format!("  {what}: `{}`, position {}", place.prompt, place.position)));
    for (side, text, taken) in
        [("reference", &divergence.reference_text, parted.reference), ("candidate", &divergence.candidate_text, parted.candidate)]
    {
        out.push(line(
            Tone::Plain,
            format!(
                "    {side} takes {} {text:?}: log-probability {:.4} for the reference, {:.4} for the candidate",
                taken.token, taken.reference_logprob, taken.candidate_logprob
            ),
        ));
    }
    let margins = format!(
        "    the reference leads by {:.4} nats, the candidate by {:.4}; max |d| here {}",
        parted.reference_margin,
        parted.candidate_margin,
        figure(parted.max_abs)
    );
    out.push(line(Tone::Plain, margins));
}

fn show_bisect(found: &BisectReport, out: &mut Vec<Line>) {
    let BisectReport { prompt, n_tokens, method, finding, stages } = found;
    let how = match method {
        Method::Replay => "each from its own inputs",
        Method::Growth => "by the growth of differences",
    };
    let tone = if *finding == Finding::Nothing { Tone::Good } else { Tone::Bad };
    let said = self::finding(finding);
    out.push(line(tone, format!("  bisect: {said} ({} stages, {how}, {n_tokens} tokens of `{prompt}`)", stages.len())));
    for stage in stages.iter().filter(|stage| stage.fault.is_some()).take(N_SHOWN) {
        let own = stage.own.map(|own| format!(", own error {}", figure(own))).unwrap_or_default();
        let text = format!(
            "    {}: the sides differ by {}, inherited {}{own}",
            stage_name(stage.layer, stage.stage),
            figure(stage.difference),
            figure(stage.inherited)
        );
        out.push(line(Tone::Plain, text));
    }
    if let Finding::Stage { worst, .. } = finding {
        for value in worst {
            let text = format!(
                "    position {}, column {}: {} for the reference, {} for the candidate",
                value.position, value.column, value.reference, value.candidate
            );
            out.push(line(Tone::Aside, text));
        }
    }
}

/// What was found, in a sentence.
pub(super) fn finding(finding: &Finding) -> String {
    let of = |side: WhichSide| match side {
        WhichSide::Reference => "the reference",
        WhichSide::Candidate => "the candidate",
    };
    match finding {
        Finding::Stage { layer, stage, module, side, .. } => {
            let module = module.as_ref().map(|module| format!(": the module `{module}`, which an adapter changes"));
            let stage = stage_name(*layer, stage);
            format!("{stage} of {} is the first stage at fault{}", of(*side), module.unwrap_or_default())
        }
        Finding::Cache { side } => format!("the cache, or the positions between passes, of {} are at fault", of(*side)),
        Finding::Nothing => "no stage is at fault".into(),
    }
}

/// A stage with its layer.
pub(super) fn stage_name(layer: Option<usize>, stage: &str) -> String {
    layer.map_or_else(|| stage.into(), |layer| format!("layer {layer}, {stage}"))
}

fn show_problem(problem: &Problem, out: &mut Vec<Line>) {
    out.push(line(Tone::Bad, format!("  {}: {}", problem.at, problem.message)));
    if let Some(hint) = &problem.hint {
        out.push(line(Tone::Aside, format!("    hint: {hint}")));
    }
}

/// The verdict, and what the candidate costs where it is not the same.
fn headline(pair: &PairReport) -> String {
    let said = word(pair.verdict);
    if let (Some(vectors), Verdict::Close | Verdict::KnownDifferent | Verdict::Different) = (&pair.vectors.measured, pair.verdict)
    {
        return format!(
            "{said}: cosine {:.6} on average, {:.6} at least, {:.1}% of the nearest texts kept",
            vectors.cosine_mean,
            vectors.cosine_min,
            vectors.nearest * 100.0
        );
    }
    match (&pair.logits.measured, pair.verdict) {
        (Some(logits), Verdict::Close | Verdict::KnownDifferent | Verdict::Different) => format!(
            "{said}: {:.1}% of tokens change, KL {} nats, perplexity {:+.2}%",
            (1.0 - logits.top1) * 100.0,
            figure(logits.kl_mean),
            logits.perplexity_change * 100.0
        ),
        _ => said.into(),
    }
}

/// A verdict as people say it.
pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "same",
        Verdict::Close => "close",
        Verdict::KnownDifferent => "known difference",
        Verdict::Incomplete => "incomplete",
        Verdict::Different => "DIFFERENT",
    }
}

/// The verdict of a stage as people say it.
pub(super) fn stage_word(verdict: StageVerdict) -> &'static str {
    match verdict {
        StageVerdict::Pass => "pass",
        StageVerdict::Fail => "FAIL",
        StageVerdict::Incomplete => "incomplete",
        StageVerdict::Absent => "absent",
    }
}

fn tone(verdict: StageVerdict) -> Tone {
    match verdict {
        StageVerdict::Pass => Tone::Good,
        StageVerdict::Fail => Tone::Bad,
        StageVerdict::Incomplete | StageVerdict::Absent => Tone::Aside,
    }
}

/// What a metric is called in a table.
pub(super) fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::NotFinite => "logits not finite",
        Metric::MaxAbs => "max |d|",
        Metric::RelativeL2 => "relative L2",
        Metric::Cosine => "minimum cosine",
        Metric::CosineMean => "mean cosine",
        Metric::Nearest => "nearest texts kept",
        Metric::KlMean => "mean KL",
        Metric::KlP99 => "KL p99",
        Metric::KlBackwardMean => "mean KL backward",
        Metric::Top1 => "top-1 agreement",
        Metric::Top1WithTies => "… near ties excused",
        Metric::Top5 => "top-5 overlap",
        Metric::PerplexityChange => "perplexity change",
        Metric::GreedyReal => "greedy texts diverge",
        Metric::SampledReal => "sampled texts diverge",
        Metric::SelfMaxAbs => "max |d| to itself",
        Metric::SelfRelativeL2 => "L2 to itself",
    }
}

pub(super) fn figure_of(metric: Metric, value: f64) -> String {
    match metric {
        Metric::NotFinite => format!("{value}"),
        Metric::Cosine | Metric::CosineMean => format!("{value:.7}"),
        Metric::Nearest | Metric::Top1 | Metric::Top1WithTies | Metric::Top5 | Metric::GreedyReal | Metric::SampledReal => {
            format!("{:.2}%", value * 100.0)
        }
        _ => figure(value),
    }
}

pub(super) fn figure(value: f64) -> String {
    if value == 0.0 { "0".into() } else { format!("{value:.2e}") }
}

fn line(tone: Tone, text: String) -> Line {
    Line { text, tone }
}
