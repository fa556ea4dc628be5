//! The statistics on recorded samples of this program (`tests/recorded/record.py`): it does not differ from itself, a slow-down of 10%
//! is always found, and a disturbed run is named with its cause.

use std::path::Path;

use serde_json::Value;
use tandem_bench::record::{Metric, Record};
use tandem_bench::report::{changes, disturbances, noise};
use tandem_bench::statistics::{Verdict, compare_in_turns};

fn read(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name);
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn record(run: &Value) -> Record {
    serde_json::from_value(run.clone()).unwrap()
}

/// Twenty runs that nothing disturbed throughout: others are what `disturbances` keeps from the gate.
fn runs() -> Vec<Record> {
    let undisturbed = |run: &Record| disturbances(run, run).is_empty();
    let runs: Vec<Record> = read("quiet.jsonl").iter().map(record).filter(undisturbed).take(20).collect();
    assert_eq!(runs.len(), 20);
    runs
}

/// The speeds of every other round of `run`, and those of the rounds between: the program against itself, in turns.
fn halves(run: &Record, metric: Metric) -> (Vec<f64>, Vec<f64>) {
    let values = run.entries[0].values(metric);
    let every_other = |first| values.iter().skip(first).step_by(2).copied().collect();
    (every_other(0), every_other(1))
}

const SPEEDS: [Metric; 2] = [Metric::Prefill(512), Metric::Decode(0)];

#[test]
fn the_program_does_not_differ_from_itself() {
    for (number, run) in runs().iter().enumerate() {
        for metric in SPEEDS {
            let (even, odd) = halves(run, metric);
            let compared = compare_in_turns(&odd, &even);
            assert_eq!(compared.verdict, Verdict::Same, "run {number}, {metric}: {compared:?}");
        }
    }
}

#[test]
fn ten_percent_more_time_per_token_is_always_found() {
    for (number, run) in runs().iter().enumerate() {
        for metric in SPEEDS {
            let (even, odd) = halves(run, metric);
            let slower: Vec<f64> = odd.iter().map(|speed| speed / 1.10).collect();
            let compared = compare_in_turns(&slower, &even);
            assert_eq!(compared.verdict, Verdict::Lower, "run {number}, {metric}: {compared:?}");
        }
    }
}

/// Between runs the machine changes as well, here by up to 6 %: the gate allows for it.
#[test]
fn the_program_passes_the_gate_against_itself() {
    for (number, pair) in runs().windows(2).enumerate() {
        for change in changes(&pair[1], &pair[0]).unwrap() {
            assert!(!change.fails_gate(), "pair {number}: {}, {}: {:?}", change.name, change.metric, change.compared);
        }
    }
}

#[test]
fn a_disturbed_run_is_named_with_its_cause() {
    let (disturbed, quiet) = (record(&read("disturbed.json")[0]), runs().swap_remove(0));
    let cause = "other programs used the processors in ";
    assert!(noise(&disturbed).iter().any(|found| found.starts_with(cause)), "{:?}", noise(&disturbed));
    for (now, before, named) in [(&disturbed, &quiet, "this run: "), (&quiet, &disturbed, "the baseline: ")] {
        let found = disturbances(now, before);
        assert!(found.iter().any(|found| found.starts_with(&format!("{named}{cause}"))), "{found:?}");
    }
}
