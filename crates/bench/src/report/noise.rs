//! Whether a run can be trusted, and if not, why not.

use super::words::percent;
use crate::measure::{EmbedWorkload, Workload};
use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::spread;

/// The share of the machine that others may use: a tenth of one of two processors changes speeds by less than the least gap.
const MOST_OTHERS: f64 = 0.05;
/// The share that a hypervisor may take.
const MOST_STOLEN: f64 = 0.01;
/// Processes per processor that may run before a bench begins.
const MOST_LOAD: f64 = 0.5;
/// The distance between quartiles, over the median, that speeds may have.
const MOST_SPREAD: f64 = 0.10;

/// Why the figures of `record` are noisy, a sentence for each cause; empty when they are not.
pub fn noise(record: &Record) -> Vec<String> {
    let samples = || record.entries.iter().flat_map(|entry| &entry.samples);
    let mut causes = Vec::new();
    let load = samples().next().map_or(0.0, |first| first.conditions.load_before);
    if load > MOST_LOAD * record.machine.n_processors as f64 {
        causes.push(format!(
            "the machine was busy beforehand: a load average of {load:.1} on {} processors",
            record.machine.n_processors
        ));
    }
    causes.extend(lasting(record, 0.0));
    if samples().any(|sample| sample.conditions.stolen_share.is_none()) {
        causes.push("the processor time that a hypervisor took (steal) is unknown".into());
    }
    causes
}

/// Why the figures of `record` cannot be compared with those of another run: other programs or a hypervisor in half of its samples or more
/// (a median tolerates less), any throttling, or a wide spread.
pub(super) fn disturbed(record: &Record) -> Vec<String> {
    lasting(record, 0.5)
}

/// The causes of noise in at least this share of the samples.
fn lasting(record: &Record, least: f64) -> Vec<String> {
    let samples = || record.entries.iter().flat_map(|entry| &entry.samples);
    let mut causes = Vec::new();
    let n = samples().count();
    let mut count = |what: &str, most: f64, share: &dyn Fn(&crate::measure::Sample) -> Option<f64>| {
        let over: Vec<f64> = samples().filter_map(share).filter(|&share| share > most).collect();
        if let Some(&worst) = over.iter().max_by(|a, b| a.total_cmp(b)).filter(|_| over.len() as f64 >= least * n as f64) {
            causes.push(format!("{what} in {} of {n} samples, up to {}", over.len(), percent(worst)));
        }
    };
    count("other programs used the processors", MOST_OTHERS, &|sample| sample.conditions.others_share);
    count("the hypervisor took processor time (steal)", MOST_STOLEN, &|sample| sample.conditions.stolen_share);
    let throttled: u64 = samples().filter_map(|sample| sample.conditions.n_throttled).sum();
    if throttled > 0 {
        causes.push(format!("the processors were throttled {throttled} times, by heat or by the control group's limit"));
    }
    let spreads = record.measured().map(|entry| (worst_spread(record, entry), entry.name.as_str()));
    let spreads: Vec<(f64, &str)> = spreads.filter(|(spread, _)| *spread > MOST_SPREAD).collect();
    if let Some((worst, name)) = spreads.iter().max_by(|a, b| a.0.total_cmp(&b.0)) {
        causes.push(format!(
            "the interquartile range of speeds exceeds {} for {} of {} entries, and is {} for {name}",
            percent(MOST_SPREAD),
            spreads.len(),
            record.measured().count(),
            percent(*worst)
        ));
    }
    causes
}

/// The largest spread of an entry's speeds, of all prompts, depths and batches.
fn worst_spread(record: &Record, entry: &BenchEntry) -> f64 {
    let Workload { prompts, depths, embedding, .. } = &record.workload;
    let metrics = prompts.iter().map(|&n| Metric::Prefill(n)).chain(depths.iter().map(|&depth| Metric::Decode(depth)));
    let batches = embedding.as_ref().map(EmbedWorkload::all).unwrap_or_default();
    let metrics = metrics.chain(batches.into_iter().map(Metric::EmbedTokens));
    let spreads = metrics.map(|metric| spread(&entry.values(metric)));
    spreads.filter(|spread| spread.is_finite()).fold(0.0, f64::max)
}
