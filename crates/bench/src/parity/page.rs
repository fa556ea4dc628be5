//! A comparison as a page: the answer first, then each candidate with its stages, limits and charts, then how it was measured.

use super::bisect::{BisectReport, Finding};
use super::logits::Divergence;
use super::report::{PairReport, ParityReport, Problem, StageVerdict, Verdict};
use super::show::{self, figure, figure_of, metric_name};
use super::thresholds::{Gate, Outcome};
use super::weights::HashedFile;
use crate::page::{Bar, BarChart, BarGroup, Block, Cell, LineChart, Page, Point, Scale, Section, Series, Table, Tone};

/// Prompts in a chart: those that differ most.
const N_PROMPTS: usize = 12;
/// Divergences in a table.
const N_DIVERGENCES: usize = 20;

/// The page of `report`.
pub fn page(report: &ParityReport) -> Page {
    let mut sections: Vec<Section> = report.pairs.iter().map(candidate).collect();
    sections.push(Section::new("How it was measured", method(report)));
    Page { title: format!("Parity of {}", report.model), lead: lead(report), sections }
}

fn lead(report: &ParityReport) -> Vec<Block> {
    let reference = &report.reference;
    let said = match report.verdict {
        Verdict::Same => "Every candidate gives the same results as the reference, within rounding.",
        Verdict::Close => "Every candidate is within the limits for its dtype; the table says what each costs.",
        Verdict::KnownDifferent => "A candidate exceeds the limits for its dtype; this is a known difference of this model.",
        Verdict::Incomplete => "Not everything could be measured; the report covers the rest.",
        Verdict::Different => "Not every candidate is within the limits for its dtype.",
    };
    let mut blocks = vec![
        Block::notice(tone(report.verdict), said),
        Block::text(format!(
            "The reference is `{}`: {} {}, {} on {}.",
            reference.name, reference.backend, reference.engine_version, reference.dtype, reference.device
        )),
    ];
    if !report.pairs.is_empty() {
        blocks.push(Block::Table(summary(report)));
    }
    blocks.extend(problems(&report.problems));
    blocks
}

/// One row for each candidate.
fn summary(report: &ParityReport) -> Table {
    if report.pairs.iter().any(|pair| pair.vectors.verdict != StageVerdict::Absent) {
        return summary_of_vectors(report);
    }
    let columns = ["candidate", "verdict", "top-1 agreement", "mean KL, nats", "max |d|", "perplexity", "greedy texts"];
    let mut table = Table::new("Candidates against the reference", &columns).of_cards();
    for pair in &report.pairs {
        let logits = pair.logits.measured.as_ref();
        let of_logits = |value: &dyn Fn(&super::LogitsMeasures) -> String| Cell::figure(logits.map_or_else(|| "–".into(), value));
        let texts = pair.generation.measured.as_ref().map(|generation| {
            let runs = &generation.greedy;
            format!("{} of {} identical", runs.n_identical, runs.n_prompts)
        });
        table.rows.push(vec![
            Cell::text(format!("`{}`", pair.candidate.name)),
            Cell::text(show::word(pair.verdict)).with(tone(pair.verdict)),
            of_logits(&|logits| format!("{:.2}%", logits.top1 * 100.0)),
            of_logits(&|logits| figure(logits.kl_mean)),
            of_logits(&|logits| figure(logits.max_abs)),
            of_logits(&|logits| format!("{:+.3}%", logits.perplexity_change * 100.0)),
            Cell::text(texts.unwrap_or_else(|| "–".into())),
        ]);
    }
    table
}

/// One row for each candidate that makes vectors.
fn summary_of_vectors(report: &ParityReport) -> Table {
    let columns = ["candidate", "verdict", "mean cosine", "minimum cosine", "max |d|", "nearest texts kept", "against itself"];
    let mut table = Table::new("Candidates against the reference", &columns).of_cards();
    for pair in &report.pairs {
        let of = |value: &dyn Fn(&super::VectorMeasures) -> String| {
            Cell::figure(pair.vectors.measured.as_ref().map_or_else(|| "–".into(), value))
        };
        let own = pair.consistency.measured.as_ref().map_or_else(|| "–".into(), |measures| figure(measures.noise));
        table.rows.push(vec![
            Cell::text(format!("`{}`", pair.candidate.name)),
            Cell::text(show::word(pair.verdict)).with(tone(pair.verdict)),
            of(&|vectors| format!("{:.7}", vectors.cosine_mean)),
            of(&|vectors| format!("{:.7}", vectors.cosine_min)),
            of(&|vectors| figure(vectors.max_abs)),
            of(&|vectors| format!("{:.2}%", vectors.nearest * 100.0)),
            Cell::figure(own),
        ]);
    }
    table
}

fn candidate(pair: &PairReport) -> Section {
    let mut blocks = vec![Block::Table(stages(pair))];
    if let Some(rule) = &pair.rule {
        blocks.push(Block::text(format!("Limits: {}. {}", rule.name, rule.reason)));
        blocks.push(Block::Row(vec![Block::Table(gates(&pair.gates)), Block::Bars(allowances(&pair.gates))]));
    }
    if let Some(logits) = &pair.logits.measured {
        blocks.push(Block::Bars(by_prompt(logits)));
        blocks.extend(divergences("Positions where the top tokens differ, near ties aside", &logits.real));
    }
    if let Some(generation) = &pair.generation.measured {
        blocks.extend(divergences("Where greedy texts diverge", &generation.greedy.divergences));
        blocks.extend(divergences("Where sampled texts diverge", &generation.sampled.divergences));
    }
    if let Some(found) = &pair.bisect {
        blocks.extend(bisect(found));
    }
    blocks.extend(problems(&pair.problems));
    Section::new(format!("`{}`", pair.candidate.name), blocks)
}

/// The verdict of every stage.
fn stages(pair: &PairReport) -> Table {
    let mut table = Table::new("Stages", &["stage", "verdict", "what was found"]);
    for (name, verdict, said) in show::stages(pair) {
        table.rows.push(vec![
            Cell::text(name),
            Cell::text(show::stage_word(verdict)).with(stage_tone(verdict)),
            Cell::text(said),
        ]);
    }
    table
}

fn gates(gates: &[Gate]) -> Table {
    let mut table = Table::new("Limits", &["metric", "measured", "limit", "outcome"]);
    for gate in gates {
        let (tone, said) = outcome(gate.outcome);
        let sign = if gate.metric.is_at_least() { "≥" } else { "≤" };
        let said = gate.reason.as_ref().map_or_else(|| said.to_owned(), |reason| format!("{said}: {reason}"));
        table.rows.push(vec![
            Cell::text(metric_name(gate.metric)),
            Cell::figure(figure_of(gate.metric, gate.value)),
            Cell::figure(format!("{sign} {}", figure_of(gate.metric, gate.limit))),
            Cell::text(said).with(tone),
        ]);
    }
    table
}

/// How much of each limit is used up.
fn allowances(gates: &[Gate]) -> BarChart {
    let used = |gate: &Gate| match gate.metric.is_at_least() {
        true => (1.0 - gate.value) / (1.0 - gate.limit),
        false => gate.value / gate.limit,
    };
    let bars: Vec<Bar> = gates
        .iter()
        .map(|gate| Bar { name: metric_name(gate.metric).into(), value: 100.0 * used(gate), ..Bar::default() })
        .filter(|bar| bar.value.is_finite())
        .collect();
    let most = bars.iter().max_by(|left, right| left.value.total_cmp(&right.value));
    let description = most.map_or_else(String::new, |most| format!("{} uses the most: {:.1}%.", most.name, most.value));
    BarChart {
        title: "How much of each limit is used".into(),
        description,
        unit: "%".into(),
        groups: vec![BarGroup { name: String::new(), bars }],
    }
}

/// The prompts that differ most.
fn by_prompt(logits: &super::LogitsMeasures) -> BarChart {
    let mut prompts: Vec<_> = logits.prompts.iter().collect();
    prompts.sort_by(|left, right| right.kl_mean.total_cmp(&left.kl_mean));
    prompts.truncate(N_PROMPTS);
    let series = |kind| prompts.iter().map(|prompt| prompt.kind).position(|other| other == kind).unwrap_or(0);
    let bars = prompts.iter().map(|prompt| Bar {
        name: prompt.prompt.clone(),
        value: prompt.kl_mean * 1e6,
        interval: None,
        series: series(prompt.kind),
    });
    let description = prompts.first().map_or_else(String::new, |most| format!("The largest is that of {}.", most.prompt));
    BarChart {
        title: "Mean KL of the prompts that differ most".into(),
        description,
        unit: "1e-6 nats".into(),
        groups: vec![BarGroup { name: String::new(), bars: bars.collect() }],
    }
}

fn divergences(caption: &str, divergences: &[Divergence]) -> Option<Block> {
    let columns = [
        "prompt",
        "position",
        "label",
        "reference token",
        "candidate token",
        "margin of the reference",
        "margin of the candidate",
    ];
    let mut table = Table::new(caption, &columns);
    for divergence in divergences.iter().take(N_DIVERGENCES) {
        let parted = &divergence.parted;
        let (label, tone) = match divergence.label {
            super::Label::NearTie => ("near tie", Tone::Plain),
            super::Label::Real => ("real", Tone::Bad),
        };
        let taken = |text: &str, logprob: f64| Cell::text(format!("`{}` ({logprob:.3})", text.escape_debug()));
        table.rows.push(vec![
            Cell::text(&divergence.place.prompt),
            Cell::figure(divergence.place.position.to_string()),
            Cell::text(label).with(tone),
            taken(&divergence.reference_text, parted.reference.reference_logprob),
            taken(&divergence.candidate_text, parted.candidate.candidate_logprob),
            Cell::figure(format!("{:.4}", parted.reference_margin)),
            Cell::figure(format!("{:.4}", parted.candidate_margin)),
        ]);
    }
    (!table.rows.is_empty()).then_some(Block::Table(table))
}

fn bisect(found: &BisectReport) -> Vec<Block> {
    let (tone, said) = match &found.finding {
        Finding::Nothing => (Tone::Good, show::finding(&found.finding)),
        other => (Tone::Bad, show::finding(other)),
    };
    let series = |name: &str, value: &dyn Fn(&super::StageDifference) -> Option<f64>| Series {
        name: name.into(),
        points: (found.stages.iter().enumerate())
            .filter_map(|(i, stage)| Some(Point { x: i as f64, y: value(stage)?, interval: None }))
            .collect(),
    };
    let chart = LineChart {
        title: "Relative differences, stage by stage".into(),
        description: "Inherited and own errors of every stage in the order of computation.".into(),
        x_label: "stage".into(),
        y_label: "relative difference".into(),
        x_scale: Scale::Linear,
        series: vec![
            series("between the sides", &|stage| Some(stage.difference).filter(|value| value.is_finite())),
            series("the candidate's own", &|stage| stage.own.filter(|value| value.is_finite())),
        ],
    };
    let mut table = Table::new("Stages at fault", &["stage", "between the sides", "inherited", "own error", "of the reference"]);
    for stage in found.stages.iter().filter(|stage| stage.fault.is_some()) {
        let or_none = |value: Option<f64>| Cell::figure(value.map_or_else(|| "–".into(), figure));
        table.rows.push(vec![
            Cell::text(show::stage_name(stage.layer, stage.stage)),
            Cell::figure(figure(stage.difference)),
            Cell::figure(figure(stage.inherited)),
            or_none(stage.own),
            or_none(stage.own_of_reference),
        ]);
    }
    let mut blocks = vec![Block::notice(tone, said), Block::Lines(chart)];
    if !table.rows.is_empty() {
        blocks.push(Block::Table(table));
    }
    blocks
}

fn problems(problems: &[Problem]) -> Vec<Block> {
    let said = |problem: &Problem| {
        let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Block::notice(Tone::Warning, format!("{}: {}{hint}", problem.at, problem.message))
    };
    problems.iter().map(said).collect()
}

/// What was compared, with what, on what.
fn method(report: &ParityReport) -> Vec<Block> {
    let mut sides = Table::new("Sides", &["side", "engine", "dtype", "KV cache", "device", "numerics", "threads"]);
    let all = std::iter::once(&report.reference).chain(report.pairs.iter().map(|pair| &pair.candidate));
    for side in all {
        sides.rows.push(vec![
            Cell::text(format!("`{}`", side.name)),
            Cell::text(format!("{} {}", side.backend, side.engine_version)),
            Cell::text(&side.dtype),
            Cell::text(side.kv_dtype.as_deref().unwrap_or("none")),
            Cell::text(&side.device),
            Cell::text(side.numerics),
            Cell::figure(side.threads.to_string()),
        ]);
    }
    let mut files = Table::new("Files", &["side", "file", "bytes", "SHA-256"]);
    if let Some(weights) = report.pairs.iter().find_map(|pair| pair.weights.measured.as_ref()) {
        push_files(&mut files, &report.reference.name, &weights.reference_files);
    }
    for pair in &report.pairs {
        if let Some(weights) = &pair.weights.measured {
            push_files(&mut files, &pair.candidate.name, &weights.candidate_files);
        }
    }
    let text = "Both sides are given the same tokens, position by position, and their logits are compared at once. A place where they take \
                different tokens is a near tie when each token is among the other side's first two and the lead is within what the noise \
                explains; otherwise it is real.";
    vec![
        Block::text(format!("Version {} of the program, corpus `{}`. {text}", report.version, report.corpus)),
        Block::Table(sides),
        Block::Details("Files and their hashes".into(), vec![Block::Table(files)]),
    ]
}

fn push_files(table: &mut Table, side: &str, files: &[HashedFile]) {
    for file in files {
        table.rows.push(vec![
            Cell::text(format!("`{side}`")),
            Cell::text(format!("`{}`", file.name)),
            Cell::figure(file.bytes.to_string()),
            Cell::text(format!("`{}`", file.sha256)),
        ]);
    }
}

fn outcome(outcome: Outcome) -> (Tone, &'static str) {
    match outcome {
        Outcome::Met => (Tone::Good, "met"),
        Outcome::NotMet => (Tone::Bad, "not met"),
        Outcome::Known => (Tone::Warning, "known difference"),
        Outcome::NoLonger => (Tone::Bad, "known difference is gone: remove its entry"),
    }
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Same | Verdict::Close => Tone::Good,
        Verdict::KnownDifferent | Verdict::Incomplete => Tone::Warning,
        Verdict::Different => Tone::Bad,
    }
}

fn stage_tone(verdict: StageVerdict) -> Tone {
    match verdict {
        StageVerdict::Pass => Tone::Good,
        StageVerdict::Fail => Tone::Bad,
        StageVerdict::Incomplete | StageVerdict::Absent => Tone::Warning,
    }
}
