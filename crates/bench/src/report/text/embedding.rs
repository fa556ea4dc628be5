//! What is said of an embedding model on a terminal.

use super::super::advice::Advice;
use super::super::words;
use super::{aligned, used};
use crate::measure::{EmbedWorkload, TextBatch};
use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::median;

/// One table of everything at a glance, and one of each speed by batch.
pub(super) fn tables(record: &Record, workload: &EmbedWorkload) -> Vec<String> {
    let mut lines = glance(record, workload);
    let equal: Vec<TextBatch> = workload.all().into_iter().filter(|batch| batch.length.is_some()).collect();
    if !equal.is_empty() {
        for (title, metric) in [
            ("tokens/s", Metric::EmbedTokens as fn(TextBatch) -> Metric),
            ("texts/s", Metric::EmbedTexts as fn(TextBatch) -> Metric),
        ] {
            lines.push(String::new());
            lines.extend(speeds(record, &equal, title, metric));
        }
    }
    lines
}

/// Load, queries, texts of mixed length, memory, and what was lost.
fn glance(record: &Record, workload: &EmbedWorkload) -> Vec<String> {
    let mixed = workload.mixed();
    let mut heads: Vec<String> = ["", "load"].map(str::to_owned).to_vec();
    let mut metrics = vec![Metric::LoadWarm];
    if workload.n_queries > 0 {
        heads.extend([format!("query of {}, p50", workload.query_tokens), "p99".into(), "queries".into()]);
        metrics.extend([Metric::QueryP50, Metric::QueryP99, Metric::Queries]);
    }
    if let Some(batch) = mixed {
        heads.extend(["mixed, tokens".to_owned(), "mixed, texts".into()]);
        metrics.extend([Metric::EmbedTokens(batch), Metric::EmbedTexts(batch)]);
    }
    heads.extend(["memory", "cosine, mean", "least"].map(str::to_owned));
    metrics.push(Metric::PeakMemory);
    let mut rows = vec![heads];
    for entry in record.measured() {
        let mut row = vec![entry.name.clone()];
        row.extend(metrics.iter().map(|&metric| match metric {
            Metric::EmbedTokens(_) => words::with_interval(metric, &entry.values(metric)).unwrap_or_else(|| "–".into()),
            metric => figure(entry, metric),
        }));
        row.extend(match &entry.closeness {
            Some(found) => [words::cosine(found.cosine_mean), words::cosine(found.cosine_min)],
            None => ["–", "–"].map(str::to_owned),
        });
        rows.push(row);
    }
    aligned(&rows)
}

/// One speed of texts as long as each other, a column for each batch.
fn speeds(record: &Record, batches: &[TextBatch], title: &str, metric: fn(TextBatch) -> Metric) -> Vec<String> {
    let head = batches.iter().map(|batch| format!("{}x{}", batch.n_texts, batch.length.unwrap_or(0)));
    let mut rows = vec![std::iter::once(title.to_owned()).chain(head).collect::<Vec<_>>()];
    rows.extend(record.measured().map(|entry| {
        let cells = batches.iter().map(|&batch| {
            let values = entry.values(metric(batch));
            if values.is_empty() { "–".into() } else { words::digits(median(&values)) }
        });
        std::iter::once(entry.name.clone()).chain(cells).collect()
    }));
    aligned(&rows)
}

/// Everybody against the one to use, on ratios of the same rounds.
pub(super) fn ratios(record: &Record, advice: &Advice<'_>) -> Vec<String> {
    let Some(first) = advice.choices.first() else { return Vec::new() };
    let metrics = [advice.metric, Metric::QueryP50, Metric::PeakMemory];
    let mut rows = vec![vec![format!("against {}", used(first.entry))]];
    rows[0].extend(metrics.iter().map(ToString::to_string));
    for entry in record.measured().filter(|entry| entry.name != first.entry.name) {
        let compared = metrics.map(|metric| {
            let compared = entry.against(first.entry, metric);
            compared.map_or_else(|| "–".into(), |compared| words::comparison(metric, &compared))
        });
        rows.push(std::iter::once(entry.name.clone()).chain(compared).collect());
    }
    if rows.len() == 1 { Vec::new() } else { [vec![String::new()], aligned(&rows)].concat() }
}

fn figure(entry: &BenchEntry, metric: Metric) -> String {
    let values = entry.values(metric);
    if values.is_empty() { "–".into() } else { words::value(metric, median(&values)) }
}
