//! What is said on a terminal of sequences that are decoded together.

use super::super::words;
use super::aligned;
use crate::record::{Metric, Record};
use crate::statistics::{Interval, median};

/// A row for each entry and number of sequences: tokens per second of all and of each, how many times those of one sequence, and a step.
pub(super) fn table(record: &Record) -> Vec<String> {
    let mut rows = Vec::new();
    for entry in record.measured() {
        for together in record.workload.together() {
            let metric = Metric::DecodeTogether(together);
            let Some(speed) = words::with_interval(metric, &entry.values(metric)) else { continue };
            let each = words::value(metric, median(&entry.values(metric)) / together.n as f64);
            let times = entry.speed_up(together).map_or_else(
                || "–".into(),
                |compared| {
                    let Interval { median, low, high } = compared.ratio;
                    format!("x{median:.2} ({low:.2} to {high:.2})")
                },
            );
            let step = entry.step_together(together).map_or_else(|| "–".into(), words::milliseconds);
            rows.push(vec![format!("{}, {together}", entry.name), speed, each, times, step]);
        }
    }
    if rows.is_empty() {
        return rows.concat();
    }
    rows.insert(0, ["decoded together", "in all", "each", "of one", "p50 step"].map(str::to_owned).to_vec());
    [vec![String::new()], aligned(&rows)].concat()
}
