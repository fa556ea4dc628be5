//! A model of the catalog, or the one that `auto` stands for: shown by what the catalog knows, without a download.

use anyhow::Result;
use serde::Serialize;
use tandem::catalog::{CatalogEntry, Kind};
use tandem::plan::{Candidate, Choice};
use tandem::{Resolved, Resolver};

use super::memory_plan::{MemoryReport, planned_tokens};
use super::text::{heading, row};
use crate::args::EngineOptions;
use crate::figures::{bytes, many};
use crate::output::{BOLD, DIM, GOOD, Output};
use crate::resolve::reference_settings;

/// What `--json` prints.
#[derive(Serialize)]
struct CatalogReport {
    model: String,
    entry: CatalogEntry,
    memory: MemoryReport,
    /// When decoding, by the bytes that a token reads and the speed of this machine's memory.
    estimated_tokens_per_second: f64,
    /// With `auto`: the models that were considered, the largest first.
    considered: Vec<Considered>,
}

#[derive(Serialize)]
struct Considered {
    name: String,
    /// The one that suits this machine.
    dtype: String,
    peak_bytes: u64,
    estimated_tokens_per_second: f64,
    fits: bool,
}

/// Shows `entry` of the catalog, which `reference` names.
pub(super) fn show(
    reference: &str,
    entry: &CatalogEntry,
    resolved: &Resolved,
    resolver: &Resolver,
    options: &EngineOptions,
    output: &Output,
) -> Result<()> {
    let settings = reference_settings(options);
    let estimate = resolver.estimate(entry, &settings, planned_tokens(settings.context_length, entry.context))?;
    let advice = || "`tandem show auto` says what fits; `--dtype int8` and `int4` take less".into();
    let considered = resolved.choice.as_ref().map(considered).unwrap_or_default();
    let memory = MemoryReport::new(&estimate.plan, &resolver.memory(), advice);
    let estimated_tokens_per_second = estimate.tokens_per_second;
    let report = CatalogReport { model: reference.into(), entry: entry.clone(), memory, estimated_tokens_per_second, considered };
    if output.is_json() { output.document(&report) } else { text(&report, output) }
}

fn considered(choice: &Choice) -> Vec<Considered> {
    let row = |Candidate { entry, estimate }: &Candidate| Considered {
        name: entry.name.clone(),
        dtype: estimate.dtype().to_string(),
        peak_bytes: estimate.plan.peak(),
        estimated_tokens_per_second: estimate.tokens_per_second,
        fits: estimate.fits,
    };
    choice.candidates.iter().map(row).collect()
}

fn text(report: &CatalogReport, output: &Output) -> Result<()> {
    let entry = &report.entry;
    output.line(&output.paint(BOLD, &entry.name))?;
    row(output, "good at", &entry.good_at)?;
    row(output, "kind", &entry.kind.to_string())?;
    row(output, "architecture", &entry.architecture)?;
    row(output, "parameters", &many(entry.parameters))?;
    let sizes = format!("{} layers, hidden {}, feed-forward {}", entry.layers, entry.hidden_size, entry.intermediate_size);
    row(output, "sizes", &sizes)?;
    row(output, "context", &format!("{} tokens", entry.context))?;
    row(output, "licence", &entry.licence)?;
    row(output, "checkpoint", &entry.checkpoint)?;
    row(output, "graphs", entry.graphs.as_deref().unwrap_or("none: one is made of the checkpoint"))?;
    if entry.needs_token {
        row(output, "access", "accept the licence on the hub and set `HF_TOKEN`")?;
    }
    if matches!(entry.kind, Kind::Text | Kind::Code) {
        row(output, "speed", &format!("an estimated {:.0} tokens/s when decoding", report.estimated_tokens_per_second))?;
    }
    report.memory.show(output)?;
    if !report.considered.is_empty() {
        heading(output, "considered")?;
    }
    for other in &report.considered {
        let fits = if other.fits { output.paint(GOOD, "fits") } else { output.paint(DIM, "does not fit") };
        let Considered { name, dtype, peak_bytes, estimated_tokens_per_second: speed, .. } = other;
        output.line(&format!("  {:>10}  {:>6} tok/s  {name:<24}{dtype:<6}{fits}", bytes(*peak_bytes), format!("{speed:.0}")))?;
    }
    Ok(())
}
