//! What a bench of an embedding model concludes of its samples.

use tandem_bench::closeness::Closeness;
use tandem_bench::measure::{EmbedWorkload, Embedded, Sample, TextBatch};
use tandem_bench::record::{BenchEntry, Metric, Record};
use tandem_bench::report::{advise, changes, noise, page, text};

use crate::report::{entry, record};

const MIXED: TextBatch = TextBatch { n_texts: 10, length: None };

/// An entry that took `ms` for the ten texts in each of seven rounds, with these cosines: the least and the mean.
fn embedder(name: &str, ms: f64, cosines: Option<(f64, f64)>) -> BenchEntry {
    let mut found = entry(name, &[ms; 7]);
    for sample in &mut found.samples {
        let embedded = vec![Embedded { batch: MIXED, n_tokens: 700, ms }];
        *sample = Sample { decode: Vec::new(), embedded, query_ms: vec![1.0, 2.0, 3.0], ..sample.clone() };
    }
    found.closeness = cosines.map(|(cosine_min, cosine_mean)| Closeness { cosine_min, cosine_mean, ..Closeness::default() });
    found
}

fn record_of(entries: Vec<BenchEntry>) -> Record {
    let mut record = record(entries);
    record.workload.depths.clear();
    let embedding = EmbedWorkload { n_mixed: 10, most_mixed: 256, n_queries: 3, query_tokens: 16, ..EmbedWorkload::default() };
    record.workload.embedding = Some(embedding);
    record
}

#[test]
fn figures_are_tokens_texts_and_queries_by_their_definitions() {
    let record = record_of(vec![embedder("a", 100.0, None)]);
    let value = |metric| record.entries[0].values(metric)[0];
    assert_eq!((value(Metric::EmbedTokens(MIXED)), value(Metric::EmbedTexts(MIXED))), (7000.0, 100.0));
    assert_eq!((value(Metric::QueryP50), value(Metric::Queries)), (2.0, 500.0));
    assert!((value(Metric::QueryP99) - 2.98).abs() < 1e-9);
}

#[test]
fn advice_goes_by_cosines() {
    let entries = vec![
        embedder("f32", 100.0, Some((1.0, 1.0))),
        embedder("int8", 50.0, Some((0.9985, 0.9996))),
        embedder("coarse", 40.0, Some((0.99, 0.995))),
        BenchEntry { is_peer: true, ..embedder("peer", 10.0, Some((1.0, 1.0))) },
    ];
    let record = record_of(entries);
    let advice = advise(&record);
    let choices: Vec<(&str, &str)> = advice.choices.iter().map(|choice| (choice.wish, choice.entry.name.as_str())).collect();
    assert_eq!(choices, [("the fastest", "coarse"), ("fast, nearly lossless", "int8"), ("lossless", "f32")]);
    assert_eq!(advice.metric, Metric::EmbedTokens(MIXED));
    let lines = text(&record, &[]).join("\n");
    for part in ["mixed, texts", "0.998500", "x0.80 (0.80 to 0.80), slower", "x4.00 (4.00 to 4.00), faster"] {
        assert!(lines.contains(part), "`{part}` is not in:\n{lines}");
    }
    let html = page(&record, &[]).render();
    assert!(html.contains("Of the peers, peer embeds fastest: x4.00"), "{html}");
}

#[test]
fn changes_are_told_once_for_each_batch() {
    let (slow, fast) = (record_of(vec![embedder("a", 120.0, None)]), record_of(vec![embedder("a", 100.0, None)]));
    let found = changes(&slow, &fast).unwrap();
    let metrics: Vec<Metric> = found.iter().map(|change| change.metric).collect();
    assert_eq!(metrics, [Metric::EmbedTokens(MIXED), Metric::QueryP50, Metric::QueryP99, Metric::Queries]);
    assert_eq!(found.iter().map(|change| change.fails_gate()).collect::<Vec<_>>(), [true, false, false, false]);
}

#[test]
fn speeds_that_spread_are_noise() {
    let mut record = record_of(vec![embedder("a", 100.0, None)]);
    assert_eq!(noise(&record), Vec::<String>::new());
    for (i, sample) in record.entries[0].samples.iter_mut().enumerate() {
        sample.embedded[0].ms *= 1.0 + 0.1 * i as f64;
    }
    assert!(noise(&record).iter().any(|cause| cause.contains("interquartile range")), "{:?}", noise(&record));
}
