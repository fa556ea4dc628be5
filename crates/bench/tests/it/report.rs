//! What a bench concludes of its samples: which entry to use, whether the run can be trusted, and when the gate closes.

use tandem_bench::loss::Loss;
use tandem_bench::machine::{Conditions, Machine};
use tandem_bench::measure::{Decode, Sample, Workload};
use tandem_bench::record::{BenchEntry, Loaded, Metric, ModelRecord, Record, SCHEMA};
use tandem_bench::report::{Change, GATE_LOSS, advise, changes, noise, unjudged};

/// A document of one depth on a machine of two processors.
pub(crate) fn record(entries: Vec<BenchEntry>) -> Record {
    let rounds = entries.first().map_or(0, |entry| entry.samples.len());
    Record {
        schema: SCHEMA,
        tandem_version: "0.1.0".into(),
        started: "2026-01-01T00:00:00Z".into(),
        is_complete: true,
        model: ModelRecord { vocab_size: 1000, ..ModelRecord::default() },
        machine: Machine { n_processors: 2, ..Machine::default() },
        workload: Workload { prompts: vec![], depths: vec![0], n_generated: 64, parallel: vec![], rounds, embedding: None },
        builds: vec![],
        entries,
    }
}

/// An entry that took `ms` for 64 tokens in each round, in quiet conditions.
pub(crate) fn entry(name: &str, ms: &[f64]) -> BenchEntry {
    let quiet = Conditions { others_share: Some(0.0), stolen_share: Some(0.0), n_throttled: Some(0), ..Conditions::default() };
    let sample = |(round, &ms): (usize, &f64)| Sample {
        round,
        decode: vec![Decode { depth: 0, n_tokens: 64, ms, step_ms: vec![] }],
        conditions: quiet,
        ..Sample::default()
    };
    BenchEntry { name: name.into(), samples: ms.iter().enumerate().map(sample).collect(), ..BenchEntry::default() }
}

fn with_loss(entry: BenchEntry, mean_kl: f64, threads: usize) -> BenchEntry {
    let loss = Loss { mean_kl, reference_perplexity: 10.0, perplexity: 10.0, ..Loss::default() };
    BenchEntry { loss: Some(loss), loaded: Some(Loaded { threads, ..Loaded::default() }), ..entry }
}

/// Times about `ms`, none more than 1% off.
fn about(ms: f64) -> Vec<f64> {
    [0.0, 0.4, -0.6, 0.9, -0.2, 0.3, -0.9].map(|percent| ms * (1.0 + percent / 100.0)).to_vec()
}

#[track_caller]
fn check_noise(disturb: impl Fn(&mut Record), expected: &[&str]) {
    let mut record = record(vec![entry("a", &about(100.0)), entry("b", &about(50.0))]);
    disturb(&mut record);
    let causes = noise(&record);
    assert_eq!(causes.len(), expected.len(), "{causes:?}");
    for (cause, expected) in causes.iter().zip(expected) {
        assert!(cause.contains(expected), "{causes:?}");
    }
}

#[test]
fn noise_names_each_cause_and_nothing_in_a_quiet_run() {
    check_noise(|_| (), &[]);
    check_noise(|record| record.entries[0].samples[0].conditions.load_before = 1.1, &["a load average of 1.1 on 2 processors"]);
    check_noise(
        |record| record.entries[1].samples[2].conditions.others_share = Some(0.3),
        &["other programs used the processors in 1 of 14 samples, up to 30%"],
    );
    check_noise(|record| record.entries[0].samples[6].conditions.stolen_share = Some(0.02), &["the hypervisor"]);
    check_noise(|record| record.entries[1].samples[0].conditions.stolen_share = None, &["a hypervisor took (steal) is unknown"]);
    check_noise(|record| record.entries[0].samples[1].conditions.n_throttled = Some(3), &["throttled 3 times"]);
    check_noise(
        |record| record.entries[1].samples.iter_mut().step_by(2).for_each(|sample| sample.decode[0].ms *= 1.3),
        &["for 1 of 2 entries, and is 29% for b"],
    );
}

#[test]
fn noise_below_a_limit_is_not_a_cause() {
    check_noise(
        |record| {
            for sample in record.entries.iter_mut().flat_map(|entry| &mut entry.samples) {
                sample.conditions.others_share = Some(0.05);
                sample.conditions.stolen_share = Some(0.01);
                sample.conditions.load_before = 1.0;
            }
        },
        &[],
    );
}

#[track_caller]
fn check_advice(entries: Vec<BenchEntry>, expected: &[(&str, &str)]) {
    let record = record(entries);
    let advice = advise(&record);
    let choices: Vec<(&str, &str)> = advice.choices.iter().map(|choice| (choice.wish, choice.entry.name.as_str())).collect();
    assert_eq!(choices, expected);
}

#[test]
fn advice_names_the_fastest_then_what_loses_less() {
    let f32 = with_loss(entry("f32", &about(400.0)), 0.0, 2);
    let int8 = with_loss(entry("int8", &about(200.0)), 1e-3, 2);
    let int4 = with_loss(entry("int4", &about(100.0)), 0.1, 2);
    let all = [("the fastest", "int4"), ("fast, nearly lossless", "int8"), ("lossless", "f32")];
    check_advice(vec![f32.clone(), int8.clone(), int4.clone()], &all);
    check_advice(vec![f32.clone()], &[("the fastest, lossless", "f32")]);
    // A peer is what the figures are held against, and a failed entry cannot be used.
    let peer = BenchEntry { is_peer: true, ..entry("peer", &about(10.0)) };
    let failed = BenchEntry { failure: Some("it broke".into()), ..with_loss(entry("failed", &about(20.0)), 0.0, 2) };
    check_advice(vec![f32, int8, int4, peer, failed], &all);
    check_advice(vec![], &[]);
}

#[test]
fn advice_prefers_fewer_threads_where_speeds_cannot_be_told_apart() {
    let entries = |one: f64, two: f64| {
        vec![with_loss(entry("2 threads", &about(two)), 0.0, 2), with_loss(entry("1 thread", &about(one)), 0.0, 1)]
    };
    check_advice(entries(101.0, 100.0), &[("the fastest, lossless", "1 thread")]);
    check_advice(entries(150.0, 100.0), &[("the fastest, lossless", "2 threads")]);
}

#[test]
fn losses_of_a_model_without_knowledge_are_marked() {
    let guess = |perplexity: f64| {
        let mut entry = with_loss(entry("f32", &about(100.0)), 0.0, 1);
        entry.loss.as_mut().unwrap().reference_perplexity = perplexity;
        advise(&record(vec![entry])).is_random
    };
    assert_eq!([guess(20.0), guess(900.0)], [false, true]);
}

/// The change of decoding, and of memory, when each takes `times` as much.
fn slowed(times: f64) -> Vec<Change> {
    let with_memory = |ms: &[f64], bytes: f64| {
        let mut entry = entry("a", ms);
        entry.samples.iter_mut().for_each(|sample| sample.peak_rss_bytes = Some(bytes as u64));
        record(vec![entry])
    };
    let slower: Vec<f64> = about(100.0).iter().map(|ms| ms * times).collect();
    changes(&with_memory(&slower, 1e9 * times), &with_memory(&about(100.0), 1e9)).unwrap()
}

#[test]
fn the_gate_means_the_same_in_speed_and_in_memory() {
    for (times, fails) in [(0.5, false), (1.0, false), (1.065, false), (1.095, true), (1.0 + GATE_LOSS, true), (2.0, true)] {
        let changes = slowed(times);
        assert_eq!(changes.iter().map(|change| change.metric).collect::<Vec<_>>(), [Metric::Decode(0), Metric::PeakMemory]);
        for change in changes {
            assert_eq!(change.fails_gate(), fails, "{:?} of {times} times as much", change.metric);
        }
    }
}

#[test]
fn the_gate_cannot_judge_figures_without_a_counterpart_or_of_too_few_rounds() {
    let whole = |name: &str| record(vec![entry("a", &about(100.0)), entry(name, &about(50.0))]);
    assert_eq!(unjudged(&whole("b"), &whole("b")), Vec::<String>::new());
    assert_eq!(unjudged(&whole("b"), &whole("c")), ["b, decode at depth 0: not in the baseline"]);
    let few = record(vec![entry("a", &about(100.0)[..5])]);
    for (now, before) in [(&few, &whole("b")), (&few, &few)] {
        assert_eq!(unjudged(now, before), ["a, decode at depth 0: fewer than 6 samples"]);
    }
}
