//! A bench against an earlier one of the same machine.

use tandem_core::{Error, Result};

use crate::record::{Metric, Record, Unit};
use crate::statistics::{Comparison, Verdict};

/// What the gate allows: this share more time, or memory, than before. 10% more time for a token is 9.1% fewer tokens per second.
pub const GATE_LOSS: f64 = 0.10;

/// What a quotient of speeds is off by when it is written as one of times.
const ROUNDING: f64 = 1e-9;

/// One figure of one entry, now against before.
#[derive(Clone, Debug)]
pub struct Change {
    /// The entry.
    pub name: String,
    /// The figure.
    pub metric: Metric,
    /// Now over before.
    pub compared: Comparison,
}

impl Change {
    /// It has become worse, beyond chance.
    pub fn is_worse(&self) -> bool {
        let worse = if self.metric.unit() == Unit::TokensPerSecond { Verdict::Lower } else { Verdict::Higher };
        self.compared.verdict == worse
    }

    /// It has become so much worse that the gate closes: by [`GATE_LOSS`], beyond chance.
    pub fn closes_gate(&self) -> bool {
        let ratio = self.compared.ratio.median;
        let cost = if self.metric.unit() == Unit::TokensPerSecond { 1.0 / ratio } else { ratio };
        self.is_worse() && cost - 1.0 >= GATE_LOSS - ROUNDING
    }
}

/// Every figure of `record` that `baseline` has of the same entry. A cold load is left out: there is one of it.
///
/// # Errors
/// [`Error::Unsupported`] when they are not of the same model and machine, or have no entry in common.
pub fn changes(record: &Record, baseline: &Record) -> Result<Vec<Change>> {
    let refused = |reason: String| Error::Unsupported {
        what: "a comparison with this baseline".into(),
        reason,
        hint: Some("measure a baseline of this model on this machine".into()),
    };
    if !record.machine.is_like(&baseline.machine) {
        let machine = &baseline.machine;
        return Err(refused(format!(
            "it was measured on another machine: {}, {} processors",
            machine.processor, machine.n_processors
        )));
    }
    if record.model.files != baseline.model.files {
        return Err(refused(format!("it is of another model, or of other files of it: `{}`", baseline.model.reference)));
    }
    let mut found = Vec::new();
    for entry in record.measured() {
        let Some(earlier) = baseline.entries.iter().find(|earlier| earlier.name == entry.name) else { continue };
        for metric in record.metrics().into_iter().filter(|&metric| metric != Metric::LoadCold) {
            if let Some(compared) = entry.against_earlier(earlier, metric) {
                found.push(Change { name: entry.name.clone(), metric, compared });
            }
        }
    }
    if found.is_empty() { Err(refused("they have no entry with a figure in common".into())) } else { Ok(found) }
}

/// The changes that close the gate.
pub fn losses(changes: &[Change]) -> Vec<&Change> {
    changes.iter().filter(|change| change.closes_gate()).collect()
}
