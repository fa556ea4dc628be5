//! How much memory the model takes, and whether that fits.

use anyhow::Result;
use serde::Serialize;
use tandem::machine::Memory;
use tandem::plan::{MemoryPlan, PLANNED_CONTEXT, Part, Verdict};

use super::text::{heading, row};
use crate::figures::bytes;
use crate::output::{DIM, Output};

#[derive(Serialize)]
pub(super) struct MemoryReport {
    backend: String,
    dtype: String,
    /// Tokens in the session that it was planned for.
    n_tokens: usize,
    /// The most that is used at once.
    peak_bytes: u64,
    parts: Vec<Part>,
    /// By how much runs like this one exceeded the sum of the parts; null when none was measured.
    correction_bytes: Option<i64>,
    /// What there is to fit into.
    usable_bytes: u64,
    /// `fits`, `tight` or `refused`.
    verdict: &'static str,
    /// What would fit, where this does not.
    advice: Option<String>,
}

/// Tokens to plan for: as many as asked for, or a long conversation.
pub(super) fn planned_tokens(context: Option<usize>, max_context: usize) -> usize {
    context.unwrap_or(PLANNED_CONTEXT).min(max_context)
}

impl MemoryReport {
    pub(super) fn new(plan: &MemoryPlan, memory: &Memory, advice: impl FnOnce() -> String) -> Self {
        let verdict = plan.judge(memory);
        Self {
            backend: plan.engine.backend.to_string(),
            dtype: plan.engine.dtype.to_string(),
            n_tokens: plan.workload.n_tokens,
            peak_bytes: plan.peak(),
            parts: plan.parts().filter(|part| part.bytes > 0).cloned().collect(),
            correction_bytes: plan.correction,
            usable_bytes: memory.usable(),
            verdict: match verdict {
                Verdict::Fits => "fits",
                Verdict::Tight => "tight",
                Verdict::Refused(_) => "refused",
            },
            advice: (verdict != Verdict::Fits).then(advice),
        }
    }

    pub(super) fn show(&self, output: &Output) -> Result<()> {
        heading(output, &format!("memory ({} {}, {} tokens)", self.backend, self.dtype, self.n_tokens))?;
        for part in &self.parts {
            let remark = if part.is_file { output.paint(DIM, " (file)") } else { String::new() };
            output.line(&format!("  {:>10}  {}{remark}", bytes(part.bytes), part.name))?;
        }
        if let Some(correction) = self.correction_bytes.filter(|correction| *correction != 0) {
            let sign = if correction < 0 { "-" } else { "" };
            output.line(&format!("  {sign:>1}{:>9}  as was measured in runs like this one", bytes(correction.unsigned_abs())))?;
        }
        let found = match self.verdict {
            "fits" => format!("fits {}", bytes(self.usable_bytes)),
            "tight" => format!("more than {} that can be used", bytes(self.usable_bytes)),
            _ => "more than a limit allows: it is refused".into(),
        };
        output.line(&format!("  {:>10}  together: {found}", bytes(self.peak_bytes)))?;
        self.advice.iter().try_for_each(|advice| row(output, "hint", advice))
    }
}
