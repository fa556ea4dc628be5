//! Tables of figures.

use super::super::advice::{Advice, usual};
use super::super::words;
use crate::page::{Block, Cell, Table, Tone};
use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::{Verdict, median};

/// Everybody against the one to use, round by round.
pub(super) fn differences(record: &Record, advice: &Advice<'_>) -> Vec<Block> {
    let Some(first) = advice.choices.first() else { return Vec::new() };
    let second = match record.workload.embedding {
        Some(_) => Metric::QueryP50,
        None => Metric::Prefill(usual(&record.workload.prompts)),
    };
    let metrics = [advice.metric, second, Metric::PeakMemory];
    let columns: Vec<String> = std::iter::once("against it".to_owned()).chain(metrics.iter().map(ToString::to_string)).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(format!("Against {}", first.entry.name), &columns);
    for entry in record.measured().filter(|entry| entry.name != first.entry.name) {
        let cells = metrics.iter().map(|&metric| match entry.against(first.entry, metric) {
            Some(compared) => {
                let is_better = metric.unit().is_speed() == (compared.verdict == Verdict::Higher);
                let tone = match compared.verdict {
                    Verdict::Same | Verdict::TooFew => Tone::Plain,
                    _ if is_better => Tone::Good,
                    _ => Tone::Plain,
                };
                Cell::figure(words::comparison(metric, &compared)).with(tone)
            }
            None => Cell::figure("–"),
        });
        table.rows.push(std::iter::once(Cell::text(name(entry))).chain(cells).collect());
    }
    if table.rows.is_empty() {
        return Vec::new();
    }
    let text = "Ratios of the same rounds, with their 95% intervals: what the machine did to a round, it did to both. One is called faster \
                or slower only where the interval does not hold 1 and the gap is 3% or more.";
    vec![Block::text(text), Block::Table(table)]
}

/// Losses against f32.
pub(super) fn losses_table(record: &Record, advice: &Advice<'_>) -> Vec<Block> {
    let columns = ["entry", "mean KL, nats", "largest KL", "top-1 agreement", "perplexity", "perplexity of f32", "decoding"];
    let mut table = Table::new("Difference from f32 with the same weights", &columns);
    let (mut reference, mut n_positions) = (None, 0);
    let mut unknown = Vec::new();
    for entry in record.measured() {
        let Some(loss) = &entry.loss else {
            unknown.extend(entry.no_loss.as_ref().map(|why| format!("{}: {why}", entry.name)));
            continue;
        };
        (reference, n_positions) = (Some(loss.reference.clone()), loss.n_positions);
        table.rows.push(vec![
            Cell::text(name(entry)),
            Cell::figure(words::nats(loss.mean_kl)),
            Cell::figure(words::nats(loss.most_kl)),
            Cell::figure(words::percent(loss.same_top)),
            Cell::figure(words::digits(loss.perplexity)),
            Cell::figure(words::digits(loss.reference_perplexity)),
            figure(entry, advice.metric),
        ]);
    }
    let mut blocks = Vec::new();
    if let Some(reference) = reference {
        let text = format!(
            "Distributions of the next token at {n_positions} places of one text, held against those of {reference}. A parity report \
             compares more: a whole corpus, generations, and where a difference begins."
        );
        blocks.extend([Block::text(text), Block::Table(table)]);
    }
    if !unknown.is_empty() {
        blocks.push(Block::text("Unknown:"));
        blocks.push(Block::List(unknown));
    }
    blocks
}

/// Percentiles of single steps.
pub(super) fn latencies(record: &Record) -> Vec<Block> {
    let mut table = Table::new("Time between tokens, ms", &["entry", "depth", "p50", "p90", "p99", "steps"]);
    for entry in record.measured() {
        for &depth in &record.workload.depths {
            let Some(percentiles) = entry.step_percentiles(depth) else { continue };
            let mut row = vec![Cell::text(name(entry)), Cell::figure(depth.to_string())];
            row.extend(percentiles.map(|value| Cell::figure(words::digits(value))));
            row.push(Cell::figure(entry.steps(depth).len().to_string()));
            table.rows.push(row);
        }
    }
    if table.rows.is_empty() { Vec::new() } else { vec![Block::Table(table)] }
}

/// Loads, first tokens, memory and the share of its bandwidth that is used.
pub(super) fn loads_and_memory(record: &Record) -> Vec<Block> {
    let prompt = usual(&record.workload.prompts);
    let first = format!("first token of {prompt}");
    let mut starts =
        Table::new("Time to load and to the first token", &["entry", "load, cold", "load, warm", "start to first token", &first]);
    let depth = usual(&record.workload.depths);
    let held = format!("KV cache of {depth}");
    let mut memory =
        Table::new("Memory", &["entry", "peak memory", "weights on disk", &held, "read per token", "share of bandwidth"]);
    for entry in record.measured() {
        let metrics = [Metric::LoadCold, Metric::LoadWarm, Metric::StartToFirstToken, Metric::FirstToken(prompt)];
        starts.rows.push(std::iter::once(Cell::text(name(entry))).chain(metrics.map(|metric| figure(entry, metric))).collect());
        let loaded = entry.loaded.clone().unwrap_or_default();
        let bytes = |bytes: Option<u64>| Cell::figure(bytes.filter(|&bytes| bytes > 0).map_or_else(|| "–".into(), words::bytes));
        memory.rows.push(vec![
            Cell::text(name(entry)),
            figure(entry, Metric::PeakMemory),
            bytes(Some(loaded.model_bytes)),
            bytes(loaded.kv_bytes_per_token.map(|bytes| bytes * depth as u64)),
            bytes(loaded.step_bytes),
            Cell::figure(entry.share_of_bandwidth(depth).map_or_else(|| "–".into(), words::percent)),
        ]);
    }
    let bandwidth = record.measured().flat_map(|entry| &entry.samples).filter_map(|sample| sample.bandwidth);
    let bandwidth = bandwidth.fold(0.0, f64::max);
    let text = format!(
        "Decoding reads every weight once for each token; it cannot be faster than memory is. The memory of this machine was read at up \
         to {} a second by all threads, right after a turn. The last column is weights and KV cache at depth {depth} over that limit, \
         with {} for a weight of int8 and {} for one of int4, scales included.",
        words::bytes(bandwidth as u64),
        "1.125 bytes",
        "0.625 bytes"
    );
    let mut blocks = vec![Block::Table(starts), Block::Table(memory)];
    if bandwidth > 0.0 {
        blocks.insert(1, Block::text(text));
    }
    blocks
}

/// The median with its unit.
pub(super) fn figure(entry: &BenchEntry, metric: Metric) -> Cell {
    let values = entry.values(metric);
    Cell::figure(if values.is_empty() { "–".into() } else { words::value(metric, median(&values)) })
}

/// A peer is marked as one.
pub(super) fn name(entry: &BenchEntry) -> String {
    if entry.is_peer { format!("{} (peer)", entry.name) } else { entry.name.clone() }
}
