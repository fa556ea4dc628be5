//! A bench against an earlier one of the same machine.

use tandem_core::{Error, Result};

use crate::record::{Metric, Record, Unit};
use crate::statistics::{Comparison, Verdict};

/// The loss at which the gate closes, as a share.
pub const GATE_LOSS: f64 = 0.10;

/// One figure of one contender, now against before.
#[derive(Clone, Debug)]
pub struct Change {
    /// The contender.
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
        let lost = if self.metric.unit() == Unit::TokensPerSecond { 1.0 - ratio } else { ratio - 1.0 };
        self.is_worse() && lost >= GATE_LOSS
    }
}

/// Every figure of `record` that `baseline` has of the same contender. A cold load is left out: there is one of it.
///
/// # Errors
/// [`Error::Unsupported`] when they are not of the same model and machine, or have no contender in common.
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
    for contender in record.measured() {
        let Some(earlier) = baseline.contenders.iter().find(|earlier| earlier.name == contender.name) else { continue };
        for metric in record.metrics().into_iter().filter(|&metric| metric != Metric::LoadCold) {
            if let Some(compared) = contender.against_earlier(earlier, metric) {
                found.push(Change { name: contender.name.clone(), metric, compared });
            }
        }
    }
    if found.is_empty() { Err(refused("they have no contender with a figure in common".into())) } else { Ok(found) }
}

/// The changes that close the gate.
pub fn losses(changes: &[Change]) -> Vec<&Change> {
    changes.iter().filter(|change| change.closes_gate()).collect()
}
