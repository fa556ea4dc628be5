//! What the figures rest on: rounds, machine, versions, files, builds.

use super::super::advice::Advice;
use super::super::changes::Change;
use super::super::words;
use super::figures::name;
use crate::measure::{EmbedWorkload, Workload};
use crate::page::{Block, Cell, Table, Tone};
use crate::record::Record;
use crate::statistics::Verdict;

/// How figures come from rounds.
const STATISTICS: &str = "The first round loaded from the disk, the others from the system's cache. Figures are medians over rounds; \
    intervals are the wider of the bootstrap's (4000 draws) and the exact one of order statistics, at 95%.";

/// Every figure against the baseline; those without a difference on demand only.
pub(super) fn changes_table(changes: &[Change]) -> Vec<Block> {
    let table_of = |caption: &str, changes: Vec<&Change>| {
        let mut table = Table::new(caption, &["entry", "figure", "ratio to the baseline"]);
        for change in changes {
            let tone = match change.compared.verdict {
                _ if change.fails_gate() => Tone::Bad,
                _ if change.is_worse() => Tone::Warning,
                Verdict::Same | Verdict::TooFew => Tone::Plain,
                _ => Tone::Good,
            };
            table.rows.push(vec![
                Cell::text(&change.name),
                Cell::text(change.metric.to_string()),
                Cell::figure(words::comparison(change.metric, &change.compared)).with(tone),
            ]);
        }
        table
    };
    let (same, changed): (Vec<&Change>, Vec<&Change>) =
        changes.iter().partition(|change| matches!(change.compared.verdict, Verdict::Same | Verdict::TooFew));
    let mut blocks = Vec::new();
    if changed.is_empty() {
        blocks.push(Block::notice(Tone::Good, "No figure differs significantly from the baseline."));
    } else {
        blocks.push(Block::Table(table_of("What changed", changed)));
    }
    if !same.is_empty() {
        let summary = format!("{} unchanged figures", same.len());
        blocks.push(Block::Details(summary, vec![Block::Table(table_of("No difference", same))]));
    }
    blocks
}

/// Programs with their size and build time.
pub(super) fn builds(record: &Record) -> Vec<Block> {
    let mut table = Table::new("Programs that were measured", &["features", "size", "build time", "compiler"]);
    for build in &record.builds {
        let seconds = build
            .seconds
            .map_or_else(|| "–".into(), |seconds| format!("{seconds:.0} s{}", if build.is_clean { "" } else { ", incremental" }));
        table.rows.push(vec![
            Cell::text(&build.features),
            Cell::figure(words::bytes(build.bytes)),
            Cell::figure(seconds),
            Cell::text(&build.compiler),
        ]);
    }
    vec![Block::Table(table)]
}

/// The deciding figure in each round.
pub(super) fn rounds(record: &Record, advice: &Advice<'_>) -> Vec<Block> {
    let n = record.entries.iter().flat_map(|entry| &entry.samples).map(|sample| sample.round + 1).max().unwrap_or(0);
    let mut columns = vec!["entry".to_owned()];
    columns.extend((1..=n).map(|round| round.to_string()));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new(format!("{}, round by round", advice.metric), &columns);
    for entry in record.measured() {
        let in_round = |round: usize| {
            let mut of_round = entry.clone();
            of_round.samples.retain(|sample| sample.round == round);
            of_round.values(advice.metric).first().map_or_else(|| "–".into(), |&value| words::digits(value))
        };
        let cells = (0..n).map(|round| Cell::figure(in_round(round)));
        table.rows.push(std::iter::once(Cell::text(name(entry))).chain(cells).collect());
    }
    let text = "Each figure comes from a separate process. The JSON document has every sample, down to single tokens.";
    vec![Block::text(text), Block::Table(table)]
}

/// Machine, versions, files, and the way of measuring.
pub(super) fn method(record: &Record) -> Vec<Block> {
    let workload = &record.workload;
    let text = match &workload.embedding {
        Some(embedding) => embedding_method(workload, embedding),
        None => generation_method(workload),
    };
    let mut blocks = vec![Block::text(text), Block::Table(machine(record)), Block::Table(engines(record))];
    let mut files = Table::new("Files", &["file", "size", "SHA-256"]);
    files.rows = record
        .model
        .files
        .iter()
        .map(|file| {
            let name = file.name.rsplit('/').next().unwrap_or(&file.name);
            vec![Cell::text(name), Cell::figure(words::bytes(file.bytes)), Cell::text(format!("`{}`", file.sha256))]
        })
        .collect();
    if !files.rows.is_empty() {
        blocks.push(Block::Table(files));
    }
    blocks
}

fn generation_method(workload: &Workload) -> String {
    format!(
        "{} rounds; in each, every entry had one turn in a process of its own: load, a short warm-up, prompts of {} tokens, and {} \
         tokens decoded after {} tokens. All entries were given the same token ids; llama-bench draws its own. {STATISTICS}",
        workload.rounds,
        list(&workload.prompts),
        workload.n_generated,
        list(&workload.depths)
    )
}

fn embedding_method(workload: &Workload, embedding: &EmbedWorkload) -> String {
    format!(
        "{} rounds; in each, every entry had one turn in a process of its own: load, a short warm-up, {} queries of {} tokens one after the \
         other, batches of {} texts of {} tokens each, and {} texts of mixed length, of at most {} tokens. All entries were given the same \
         token ids; padding is not counted. Vectors were pooled as the model's files say. {STATISTICS}",
        workload.rounds,
        embedding.n_queries,
        embedding.query_tokens,
        list(&embedding.batches),
        list(&embedding.lengths),
        embedding.n_mixed,
        embedding.most_mixed
    )
}

fn list(values: &[usize]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn machine(record: &Record) -> Table {
    let machine = &record.machine;
    let mut table = Table::new("Machine", &["what", "value"]);
    let mut add = |what: &str, value: Option<String>| {
        let value = value.filter(|value| !value.is_empty());
        table.rows.extend(value.map(|value| vec![Cell::text(what), Cell::text(value)]));
    };
    let cores = machine.n_cores.map(|cores| format!(" of {cores} cores")).unwrap_or_default();
    let samples = || record.entries.iter().flat_map(|entry| &entry.samples);
    let load = samples().next().zip(samples().last());
    add("processor", Some(format!("{}, {} processors{cores}", machine.processor, machine.n_processors)));
    add("extensions", Some(machine.extensions.join(", ")));
    add("memory", Some(words::bytes(machine.memory_bytes)));
    add("memory limit", machine.memory_limit_bytes.map(words::bytes));
    add("processor limit", machine.processor_limit.map(words::digits));
    add("governor", machine.governor.clone());
    add("system", Some(format!("{}, kernel {}", machine.system, machine.kernel)));
    add(
        "load average",
        load.map(|(first, last)| {
            format!(
                "{:.1} before, {:.1} after, including the benchmark itself",
                first.conditions.load_before, last.conditions.load_after
            )
        }),
    );
    add("Tandem", Some(format!("{}, measured {}", record.tandem_version, record.started)));
    add("model", Some(format!("{}, {} parameters", record.model.architecture, record.model.n_parameters)));
    table
}

fn engines(record: &Record) -> Table {
    let mut table = Table::new("Entries", &["entry", "engine", "device", "dtype", "KV cache", "threads", "options"]);
    for entry in &record.entries {
        let Some(loaded) = &entry.loaded else { continue };
        table.rows.push(vec![
            Cell::text(name(entry)),
            Cell::text(format!("{} {}", loaded.engine, loaded.engine_version)),
            Cell::text(&loaded.device),
            Cell::text(&loaded.dtype),
            Cell::text(loaded.kv_dtype.as_deref().unwrap_or("–")),
            Cell::figure(loaded.threads.to_string()),
            Cell::text(if entry.options.is_empty() { String::new() } else { format!("`{}`", entry.options) }),
        ]);
    }
    table
}
