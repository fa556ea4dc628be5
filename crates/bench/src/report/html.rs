//! The report as a page: the answer first, then the charts that show it, then everything that was measured.

mod charts;
mod embedding;
mod evidence;
mod figures;

use self::charts::{decode_charts, embedding_charts, prefill_charts};
use self::evidence::{builds, changes_table, method, rounds};
use self::figures::{differences, latencies, loads_and_memory, losses_table};
use super::advice::{Advice, advise, usual};
use super::changes::Change;
use super::noise::noise;
use super::words;
use crate::page::{Block, Cell, Page, Section, Table, Tone};
use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::{Interval, LEAST_ROUNDS, interval, median};

/// The page of `record`, with what changed since a baseline where there is one.
pub fn page(record: &Record, changes: &[Change]) -> Page {
    let advice = advise(record);
    let mut sections = match &record.workload.embedding {
        Some(workload) => vec![
            Section::new("Embedding speed", embedding_charts(record, advice.metric)),
            Section::new("Comparison", differences(record, &advice)),
            Section::new("Closeness to f32", embedding::closeness_table(record)),
            Section::new("Queries, start and memory", embedding::queries_and_memory(record)),
            Section::new("Every batch", embedding::batches(record, workload)),
        ],
        None => vec![
            Section::new("Decoding speed", decode_charts(record)),
            Section::new("Prefill speed", prefill_charts(record)),
            Section::new("Comparison", differences(record, &advice)),
            Section::new("Loss against f32", losses_table(record, &advice)),
            Section::new("Latency of each token", latencies(record)),
            Section::new("Start and memory", loads_and_memory(record)),
        ],
    };
    if !changes.is_empty() {
        sections.insert(0, Section::new("Against the baseline", changes_table(changes)));
    }
    if !record.builds.is_empty() {
        sections.push(Section::new("Size and build time", builds(record)));
    }
    sections.push(Section::new("Every round", rounds(record, &advice)));
    sections.push(Section::new("How it was measured", method(record)));
    sections.retain(|section| !section.blocks.is_empty());
    Page { title: format!("Benchmark of {}", record.model.reference), lead: lead(record, &advice), sections }
}

/// What to use here, what that loses, and whether to believe it.
fn lead(record: &Record, advice: &Advice<'_>) -> Vec<Block> {
    let mut blocks = vec![Block::text(answer(record, advice))];
    if !advice.choices.is_empty() {
        blocks.push(Block::Table(choices(record, advice)));
    }
    blocks.extend([threads_remark(record), peers_remark(record, advice)].into_iter().flatten().map(Block::text));
    if advice.is_random {
        let text = "The weights are random, or the model was not trained on such text. Speeds are those of any model of this \
                    shape; the loss of a published model must be measured on its own weights.";
        blocks.push(Block::notice(Tone::Warning, text));
    }
    if record.workload.rounds < LEAST_ROUNDS {
        let text = format!("With fewer than {LEAST_ROUNDS} rounds, no difference can be told from chance.");
        blocks.push(Block::notice(Tone::Warning, text));
    }
    if !record.is_complete {
        blocks.push(Block::notice(Tone::Warning, "The run was interrupted; the report covers what was measured."));
    }
    let causes = noise(record);
    if causes.is_empty() {
        blocks.push(Block::notice(Tone::Good, "Nothing disturbed this run: no other load, no throttling, little spread."));
    } else {
        blocks.push(Block::notice(Tone::Warning, "This run was disturbed; treat its figures with caution."));
        blocks.push(Block::List(causes));
    }
    let failed = record.entries.iter().filter_map(|entry| Some((entry, entry.failure.as_ref()?)));
    blocks.extend(failed.map(|(entry, why)| Block::notice(Tone::Bad, format!("{} failed: {why}", entry.name))));
    blocks
}

/// The answer in two sentences.
fn answer(record: &Record, advice: &Advice<'_>) -> String {
    let machine = format!("On this machine ({}, {} processors)", record.machine.processor, record.machine.n_processors);
    let Some(first) = advice.choices.first() else {
        return format!("{machine}, no measurement of Tandem was completed.");
    };
    let metric = advice.metric;
    let speed = |entry: &BenchEntry| median(&entry.values(metric));
    let with = decoded(metric, &first.entry.values(metric));
    let does = if record.workload.embedding.is_some() { "embeds" } else { "decodes" };
    let mut text = format!("{machine}, use `{}`. It {does} {with}.", used(first.entry));
    match (&first.entry.loss, advice.exact) {
        (None, exact) if first.entry.closeness.is_some() => {
            if let Some(exact) = exact.filter(|exact| exact.name != first.entry.name) {
                let times = speed(first.entry) / speed(exact);
                text += &format!(" That is {times:.1} times the speed of the fastest lossless choice (`{}`).", used(exact));
            }
            text += &format!(" Its vectors: {}.", words::lost(first.entry));
        }
        (_, Some(exact)) if exact.name == first.entry.name => text += " It is lossless.",
        (Some(loss), Some(exact)) => {
            let times = speed(first.entry) / speed(exact);
            text += &format!(
                " That is {times:.1} times the speed of the fastest lossless choice (`{}`). The loss: {}.",
                used(exact),
                words::loss(loss)
            );
        }
        (Some(loss), None) => text += &format!(" The loss against f32: {}.", words::loss(loss)),
        (None, _) => {
            let why = first.entry.no_loss.as_deref().unwrap_or("it was not measured");
            text += &format!(" The loss is unknown: {why}.");
        }
    }
    text
}

/// `71.2 tokens/s (70.1 to 72.0) after 512 tokens`.
fn decoded(metric: Metric, values: &[f64]) -> String {
    let Interval { median, low, high } = interval(values);
    let ends = if values.len() > 1 { format!(" ({} to {})", words::digits(low), words::digits(high)) } else { String::new() };
    let depth = match metric {
        Metric::Decode(depth @ 1..) => format!(" after {depth} tokens"),
        Metric::EmbedTokens(batch) => format!(" of {batch}"),
        _ => String::new(),
    };
    format!("{} tokens/s{ends}{depth}", words::digits(median))
}

/// One row for each wish.
fn choices(record: &Record, advice: &Advice<'_>) -> Table {
    let latency = match record.workload.embedding {
        Some(_) => Metric::QueryP50,
        None => Metric::FirstToken(usual(&record.workload.prompts)),
    };
    let (speed, first) = (advice.metric.to_string(), latency.to_string());
    let columns = ["goal", "use", &speed, "loss", &first, "peak memory"];
    let mut table = Table::new("What to use here", &columns).of_cards();
    for choice in &advice.choices {
        let figure = |metric: Metric| {
            let values = choice.entry.values(metric);
            Cell::figure(if values.is_empty() { "–".into() } else { words::value(metric, median(&values)) })
        };
        let lost = match &choice.entry.loss {
            None if choice.entry.closeness.is_some() => words::lost(choice.entry),
            Some(_) if advice.exact.is_some_and(|exact| exact.name == choice.entry.name) => "none".into(),
            Some(loss) => words::loss(loss),
            None => "unknown".into(),
        };
        table.rows.push(vec![
            Cell::text(choice.wish),
            Cell::text(format!("`{}`", used(choice.entry))),
            figure(advice.metric),
            Cell::text(lost),
            figure(latency),
            figure(Metric::PeakMemory),
        ]);
    }
    table
}

/// The options that choose an entry, or its name where there are none.
fn used(entry: &BenchEntry) -> &str {
    if entry.options.is_empty() { &entry.name } else { &entry.options }
}

/// How the fastest peer does against the entry to use.
fn peers_remark(record: &Record, advice: &Advice<'_>) -> Option<String> {
    let first = advice.choices.first()?.entry;
    let speed = |entry: &BenchEntry| median(&entry.values(advice.metric));
    let peers = record.measured().filter(|entry| entry.is_peer && speed(entry).is_finite());
    let peer = peers.max_by(|a, b| speed(a).total_cmp(&speed(b)))?;
    let compared = peer.against(first, advice.metric)?;
    let said = words::comparison(advice.metric, &compared);
    let does = if record.workload.embedding.is_some() { "embeds" } else { "decodes" };
    Some(format!("Of the peers, {} {does} fastest: {said}, against `{}`.", peer.name, used(first)))
}

/// That the number of threads was not varied, when so.
fn threads_remark(record: &Record) -> Option<String> {
    let mut threads: Vec<usize> = record.measured().filter_map(|entry| Some(entry.loaded.as_ref()?.threads)).collect();
    threads.sort_unstable();
    threads.dedup();
    match threads.as_slice() {
        [one] => Some(format!("Only {one} threads were measured; run with 1 and {one} to compare numbers of threads.")),
        _ => None,
    }
}
