//! The report on a terminal.

mod embedding;
mod parallel;

use super::advice::{Advice, advise, usual};
use super::changes::Change;
use super::noise::noise;
use super::words;
use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::{Verdict, median};

/// Lines for a terminal: a table, what to use, and whether it can be trusted.
pub fn text(record: &Record, changes: &[Change]) -> Vec<String> {
    let mut lines = vec![heading(record), String::new()];
    match &record.workload.embedding {
        Some(workload) => lines.extend(embedding::tables(record, workload)),
        None => {
            lines.extend(table(record));
            lines.extend(parallel::table(record));
        }
    }
    let failed = record.entries.iter().filter_map(|entry| Some(format!("{}: {}", entry.name, entry.failure.as_ref()?)));
    lines.extend(failed);
    lines.push(String::new());
    let advised = advise(record);
    lines.extend(advice(&advised));
    if record.workload.embedding.is_some() {
        lines.extend(embedding::ratios(record, &advised));
    }
    if !changes.is_empty() {
        lines.extend(["".into(), "against the baseline:".into()]);
        let told = changes.iter().filter(|change| !matches!(change.compared.verdict, Verdict::Same | Verdict::TooFew));
        let told: Vec<String> = told
            .map(|change| format!("  {}, {}: {}", change.name, change.metric, words::comparison(change.metric, &change.compared)))
            .collect();
        let is_too_few = changes.iter().all(|change| change.compared.verdict == Verdict::TooFew);
        let nothing = if is_too_few { "  too few rounds to tell" } else { "  no difference" };
        lines.extend(if told.is_empty() { vec![nothing.into()] } else { told });
    }
    let causes = noise(record);
    if !causes.is_empty() {
        lines.extend([String::new(), "this run was disturbed; treat the figures with caution:".into()]);
        lines.extend(causes.into_iter().map(|cause| format!("  {cause}")));
    }
    lines
}

fn heading(record: &Record) -> String {
    let Record { model, machine, workload, .. } = record;
    let n_done = record.measured().map(|entry| entry.samples.len()).max().unwrap_or(0);
    let rounds = if record.is_complete { format!("{n_done} rounds") } else { format!("{n_done} of {} rounds", workload.rounds) };
    format!("{} on {}, {} processors; medians of {rounds}, interleaved", model.reference, machine.processor, machine.n_processors)
}

fn table(record: &Record) -> Vec<String> {
    let (prompt, depth) = (usual(&record.workload.prompts), usual(&record.workload.depths));
    let metrics: Vec<(String, Metric)> = [
        ("load".to_owned(), Metric::LoadWarm),
        (format!("first token of {prompt}"), Metric::FirstToken(prompt)),
        (format!("prefill of {prompt}"), Metric::Prefill(prompt)),
        (format!("decode at {depth}"), Metric::Decode(depth)),
    ]
    .into_iter()
    .chain([("memory".to_owned(), Metric::PeakMemory)])
    .collect();
    let mut rows = vec![std::iter::once(String::new()).chain(metrics.iter().map(|(name, _)| name.clone())).collect::<Vec<_>>()];
    rows[0].extend(["KV cache".into(), "p50/p99 step".into(), "of bandwidth".into(), "KL".into()]);
    for entry in record.measured() {
        let figure = |metric: Metric| {
            let values = entry.values(metric);
            if values.is_empty() { "–".into() } else { words::value(metric, median(&values)) }
        };
        let mut row = vec![entry.name.clone()];
        row.extend(metrics.iter().map(|&(_, metric)| match metric {
            Metric::Decode(_) => words::with_interval(metric, &entry.values(metric)).unwrap_or_else(|| "–".into()),
            metric => figure(metric),
        }));
        row.push(entry.loaded.as_ref().and_then(|loaded| loaded.kv_dtype.clone()).unwrap_or_else(|| "–".into()));
        row.push(
            entry
                .step_percentiles(depth)
                .map_or_else(|| "–".into(), |[p50, _, p99]| format!("{}/{} ms", words::digits(p50), words::digits(p99))),
        );
        row.push(entry.share_of_bandwidth(depth).map_or_else(|| "–".into(), words::percent));
        row.push(entry.loss.as_ref().map_or_else(|| "–".into(), |loss| words::nats(loss.mean_kl)));
        rows.push(row);
    }
    aligned(&rows)
}

/// The first column at the left, figures at the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 => format!("{cell:<0$}", width(0)),
            _ => format!("  {cell:>0$}", width(i)),
        });
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn advice(advice: &Advice<'_>) -> Vec<String> {
    let mut lines: Vec<String> = advice
        .choices
        .iter()
        .map(|choice| {
            let speed = words::with_interval(advice.metric, &choice.entry.values(advice.metric)).unwrap_or_default();
            format!("{}: {}, {speed}; {}", choice.wish, used(choice.entry), words::lost(choice.entry))
        })
        .collect();
    if advice.is_random {
        lines.push("the weights are random: speeds are real, losses are not those of a trained model".into());
    }
    lines
}

fn used(entry: &BenchEntry) -> &str {
    if entry.options.is_empty() { &entry.name } else { &entry.options }
}
