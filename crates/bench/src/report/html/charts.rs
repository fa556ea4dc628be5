//! Charts of speed.

use super::super::advice::usual;
use super::super::words;
use crate::measure::TextBatch;
use crate::page::{Bar, BarChart, BarGroup, Block, LineChart, Point, Scale, Series};
use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::{Interval, interval, median};

/// Decoding: bars at the usual depth, and lines over depths where there are several.
pub(super) fn decode_charts(record: &Record) -> Vec<Block> {
    let depths = &record.workload.depths;
    if depths.is_empty() {
        return Vec::new();
    }
    charts(record, Metric::Decode(usual(depths)), depths, &Metric::Decode, ("Decoding", "context, tokens"))
}

/// Prefill: bars of the usual length, and lines over lengths.
pub(super) fn prefill_charts(record: &Record) -> Vec<Block> {
    let prompts = &record.workload.prompts;
    if prompts.is_empty() {
        return Vec::new();
    }
    charts(record, Metric::Prefill(usual(prompts)), prompts, &Metric::Prefill, ("Prefill", "prompt, tokens"))
}

/// Embedding: bars of `deciding`, and lines over the lengths of texts in the largest batch.
pub(super) fn embedding_charts(record: &Record, deciding: Metric) -> Vec<Block> {
    let Some(workload) = &record.workload.embedding else { return Vec::new() };
    let n_texts = workload.batches.iter().copied().max().unwrap_or(1);
    let of_length = move |length| Metric::EmbedTokens(TextBatch { n_texts, length: Some(length) });
    let title = format!("{n_texts} texts at once");
    charts(record, deciding, &workload.lengths, &of_length, (&title, "length, tokens"))
}

fn charts(
    record: &Record,
    usual: Metric,
    values: &[usize],
    metric: &dyn Fn(usize) -> Metric,
    (title, axis): (&str, &str),
) -> Vec<Block> {
    let mut of_usual = bars(record, usual);
    if of_usual.groups.iter().all(|group| group.bars.is_empty()) {
        return Vec::new();
    }
    of_usual.title = capital(&usual.to_string());
    let mut parts = vec![Block::Bars(of_usual)];
    if values.len() > 1 {
        parts.push(Block::Lines(lines(record, values, metric, (title, axis))));
    }
    vec![Block::Row(parts)]
}

/// One bar for each entry, the fastest first; engines have colours.
fn bars(record: &Record, metric: Metric) -> BarChart {
    let mut bars: Vec<Bar> = Vec::new();
    for entry in record.measured() {
        let values = entry.values(metric);
        if values.is_empty() {
            continue;
        }
        let Interval { median, low, high } = interval(&values);
        let interval = (values.len() > 1).then_some((low, high));
        bars.push(Bar { name: entry.name.clone(), value: median, interval, series: engine_index(record, entry) });
    }
    bars.sort_by(|a, b| b.value.total_cmp(&a.value));
    let description = match (bars.first(), bars.last()) {
        (Some(first), Some(last)) if bars.len() > 1 => format!(
            "{} is the fastest with {} tokens/s, {} the slowest with {}. Whiskers are 95% intervals of the median.",
            first.name,
            words::digits(first.value),
            last.name,
            words::digits(last.value)
        ),
        (Some(only), _) => format!("{}: {} tokens/s.", only.name, words::digits(only.value)),
        _ => String::new(),
    };
    BarChart { title: String::new(), description, unit: "tokens/s".into(), groups: vec![BarGroup { name: String::new(), bars }] }
}

fn lines(record: &Record, values: &[usize], metric: &dyn Fn(usize) -> Metric, (title, axis): (&str, &str)) -> LineChart {
    let series: Vec<Series> =
        record.measured().map(|entry| line(entry, values, metric)).filter(|series| !series.points.is_empty()).collect();
    let ends: Vec<String> = series
        .iter()
        .filter_map(|series| {
            let (first, last) = (series.points.first()?, series.points.last()?);
            Some(format!(
                "{} from {} at {} to {} at {}",
                series.name,
                words::digits(first.y),
                first.x,
                words::digits(last.y),
                last.x
            ))
        })
        .collect();
    LineChart {
        title: format!("{title} by {axis}"),
        description: format!("Tokens/s: {}.", ends.join("; ")),
        x_label: axis.into(),
        y_label: "tokens/s".into(),
        x_scale: Scale::Ordinal,
        series,
    }
}

fn line(entry: &BenchEntry, values: &[usize], metric: &dyn Fn(usize) -> Metric) -> Series {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let point = |value: usize| {
        let values = entry.values(metric(value));
        (!values.is_empty()).then(|| Point { x: value as f64, y: median(&values), interval: None })
    };
    Series { name: entry.name.clone(), points: sorted.into_iter().filter_map(point).collect() }
}

/// The place of an entry's engine among the engines.
fn engine_index(record: &Record, entry: &BenchEntry) -> usize {
    let mut engines: Vec<&str> = Vec::new();
    for one in record.measured() {
        let engine = engine(one);
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    engines.iter().position(|&one| one == engine(entry)).unwrap_or(0)
}

fn engine(entry: &BenchEntry) -> &str {
    entry.loaded.as_ref().map_or(&entry.name, |loaded| &loaded.engine)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
