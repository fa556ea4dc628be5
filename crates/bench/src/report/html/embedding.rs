//! Tables of an embedding model.

use super::super::words;
use super::figures::{figure, name};
use crate::measure::{EmbedWorkload, TextBatch};
use crate::page::{Block, Cell, Table};
use crate::record::{BenchEntry, Metric, Record};

/// How close vectors are to those of f32.
pub(super) fn closeness_table(record: &Record) -> Vec<Block> {
    let mut table = Table::new("Cosine to the vectors of f32 with the same weights", &["entry", "mean", "least", "texts"]);
    let (mut reference, mut unknown) = (None, Vec::new());
    for entry in record.measured() {
        let Some(found) = &entry.closeness else {
            unknown.extend(entry.no_loss.as_ref().map(|why| format!("{}: {why}", entry.name)));
            continue;
        };
        reference = Some(&found.reference);
        let figures = [words::cosine(found.cosine_mean), words::cosine(found.cosine_min), found.n_texts.to_string()];
        table.rows.push(std::iter::once(Cell::text(name(entry))).chain(figures.map(Cell::figure)).collect());
    }
    let mut blocks = Vec::new();
    if let Some(reference) = reference {
        blocks.extend([Block::text(format!("The reference is {reference}.")), Block::Table(table)]);
    }
    if !unknown.is_empty() {
        blocks.extend([Block::text("Unknown:"), Block::List(unknown)]);
    }
    blocks
}

/// Queries, loads and memory.
pub(super) fn queries_and_memory(record: &Record) -> Vec<Block> {
    let queries = [Metric::QueryP50, Metric::QueryP99, Metric::Queries];
    let starts = [Metric::LoadCold, Metric::LoadWarm, Metric::StartToFirstVector, Metric::PeakMemory];
    vec![
        Block::Table(table(record, "Queries, one after the other", &queries)),
        Block::Table(table(record, "Start and memory", &starts)),
    ]
}

/// Both speeds of every batch.
pub(super) fn batches(record: &Record, workload: &EmbedWorkload) -> Vec<Block> {
    let of = |metric: fn(TextBatch) -> Metric| workload.all().into_iter().map(metric).collect::<Vec<_>>();
    vec![
        Block::Table(table(record, "Tokens per second", &of(Metric::EmbedTokens))),
        Block::Table(table(record, "Texts per second", &of(Metric::EmbedTexts))),
    ]
}

/// A column for each of `metrics`.
fn table(record: &Record, caption: &str, metrics: &[Metric]) -> Table {
    let columns: Vec<String> = std::iter::once("entry".to_owned()).chain(metrics.iter().map(column)).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(caption, &columns);
    let row = |entry: &BenchEntry| {
        let cells = metrics.iter().map(|&metric| figure(entry, metric));
        std::iter::once(Cell::text(name(entry))).chain(cells).collect()
    };
    table.rows = record.measured().map(row).collect();
    table
}

/// What stands above a column: the caption names the unit.
fn column(metric: &Metric) -> String {
    match metric {
        Metric::EmbedTokens(batch) | Metric::EmbedTexts(batch) => batch.to_string(),
        metric => metric.to_string(),
    }
}
