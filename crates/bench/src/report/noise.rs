//! Whether a run can be trusted, and if not, why not.

use super::words::percent;
use crate::record::{Metric, Record};
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
    let samples = || record.contenders.iter().flat_map(|contender| &contender.samples);
    let mut causes = Vec::new();
    let load = samples().next().map_or(0.0, |first| first.conditions.load_before);
    if load > MOST_LOAD * record.machine.n_processors as f64 {
        causes.push(format!(
            "the machine was busy before it began: a load average of {load:.1} on {} processors",
            record.machine.n_processors
        ));
    }
    let n = samples().count();
    let mut count = |what: &str, most: f64, share: &dyn Fn(&crate::measure::Sample) -> Option<f64>| {
        let over: Vec<f64> = samples().filter_map(share).filter(|&share| share > most).collect();
        if let Some(&worst) = over.iter().max_by(|a, b| a.total_cmp(b)) {
            causes.push(format!("{what} in {} of {n} turns, {} at the worst", over.len(), percent(worst)));
        }
    };
    count("other programs used the processors", MOST_OTHERS, &|sample| sample.conditions.others_share);
    count("the hypervisor gave the processors to somebody else", MOST_STOLEN, &|sample| sample.conditions.stolen_share);
    let throttled: u64 = samples().filter_map(|sample| sample.conditions.n_throttled).sum();
    if throttled > 0 {
        causes.push(format!("the processors were slowed down {throttled} times, for heat or by a limit of the control group"));
    }
    for contender in record.measured() {
        let spreads = record.workload.depths.iter().map(|&depth| spread(&contender.values(Metric::Decode(depth))));
        let worst = spreads.filter(|spread| spread.is_finite()).fold(0.0, f64::max);
        if worst > MOST_SPREAD {
            causes.push(format!(
                "the decoding speeds of {} spread by {} between their quartiles",
                contender.name,
                percent(worst)
            ));
        }
    }
    causes
}
