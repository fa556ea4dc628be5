//! A bench against an earlier one of the same machine.

use tandem_core::{Error, Result};

use super::noise::disturbed;
use crate::record::{BenchEntry, Metric, Record};
use crate::statistics::{Comparison, LEAST_GAP, LEAST_ROUNDS, Verdict};

/// The loss that fails the gate: this share more time, or memory, than before. 10% more time for a token is 9.1% fewer tokens per second.
pub const GATE_LOSS: f64 = 0.10;

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
        let worse = if self.metric.unit().is_speed() { Verdict::Lower } else { Verdict::Higher };
        self.compared.verdict == worse
    }

    /// It has become worse beyond chance, and by [`GATE_LOSS`] within what a median may be off by from one run to the next.
    pub fn fails_gate(&self) -> bool {
        let ratio = self.compared.ratio.median;
        let cost = if self.metric.unit().is_speed() { 1.0 / ratio } else { ratio };
        self.is_worse() && cost - 1.0 >= GATE_LOSS - LEAST_GAP
    }
}

/// Every figure of `record` that `baseline` has of the same entry.
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
        return Err(refused(format!("it is of another model or of other files: `{}`", baseline.model.reference)));
    }
    let change = |(entry, metric): (&BenchEntry, Metric)| {
        Some(Change { name: entry.name.clone(), metric, compared: against(baseline, entry, metric)? })
    };
    let found: Vec<Change> = figures(record).filter_map(change).collect();
    if found.is_empty() { Err(refused("they have no figure in common".into())) } else { Ok(found) }
}

/// Why the gate cannot judge these runs at all: what disturbed one of them throughout, so that its intervals do not tell the machine from
/// the program.
pub fn disturbances(record: &Record, baseline: &Record) -> Vec<String> {
    let causes = |what: &'static str, run| disturbed(run).into_iter().map(move |cause| format!("{what}: {cause}"));
    causes("this run", record).chain(causes("the baseline", baseline)).collect()
}

/// What the gate cannot judge, with the reason: figures that `baseline` does not have, and those of too few rounds.
pub fn unjudged(record: &Record, baseline: &Record) -> Vec<String> {
    let reason = |(entry, metric): (&BenchEntry, Metric)| {
        let reason = match against(baseline, entry, metric) {
            None => "not in the baseline".to_owned(),
            Some(compared) if compared.verdict == Verdict::TooFew => format!("fewer than {LEAST_ROUNDS} samples"),
            Some(_) => return None,
        };
        Some(format!("{}, {metric}: {reason}", entry.name))
    };
    figures(record).filter_map(reason).collect()
}

/// Every figure that was measured, except a cold load, of which there is one, and texts per second, which say the same as tokens.
fn figures(record: &Record) -> impl Iterator<Item = (&BenchEntry, Metric)> {
    let metrics = record.metrics();
    let is_told = |metric| !matches!(metric, Metric::LoadCold | Metric::EmbedTexts(_));
    let has = move |entry: &BenchEntry, metric| is_told(metric) && !entry.values(metric).is_empty();
    record.measured().flat_map(move |entry| {
        let metrics = metrics.clone().into_iter().filter(move |&metric| has(entry, metric));
        metrics.map(move |metric| (entry, metric))
    })
}

fn against(baseline: &Record, entry: &BenchEntry, metric: Metric) -> Option<Comparison> {
    let earlier = baseline.entries.iter().find(|earlier| earlier.name == entry.name)?;
    entry.against_earlier(earlier, metric)
}
