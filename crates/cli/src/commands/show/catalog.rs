//! A model of the catalog, or the one that `auto` stands for: shown by what the catalog knows, without a download.

use anyhow::Result;
use serde::Serialize;
use tandem::catalog::CatalogEntry;
use tandem::plan::Choice;
use tandem::{Resolved, Resolver};

use super::memory_plan::{MemoryReport, planned_tokens};
use super::text::{heading, row};
use crate::args::EngineOptions;
use crate::figures::{bytes, many};
use crate::output::{BOLD, DIM, GOOD, Output};
use crate::resolve::reference_settings;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    entry: CatalogEntry,
    memory: MemoryReport,
    /// With `auto`: the models that were considered, the largest first.
    considered: Vec<Considered>,
}

#[derive(Serialize)]
struct Considered {
    name: String,
    peak_bytes: u64,
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
    let plan = resolver.plan_entry(entry, &settings, planned_tokens(settings.context_length, entry.context))?;
    let advice = || "`tandem show auto` says what fits; `--dtype int8` and `int4` take less".into();
    let considered = resolved.choice.as_ref().map(considered).unwrap_or_default();
    let memory = MemoryReport::new(&plan, &resolver.memory(), advice);
    let report = Report { model: reference.into(), entry: entry.clone(), memory, considered };
    if output.is_json() { output.document(&report) } else { text(&report, output) }
}

fn considered(choice: &Choice) -> Vec<Considered> {
    let row = |name: &str, peak_bytes, fits| Considered { name: name.into(), peak_bytes, fits };
    choice.candidates.iter().map(|candidate| row(&candidate.entry.name, candidate.plan.peak(), candidate.fits)).collect()
}

fn text(report: &Report, output: &Output) -> Result<()> {
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
    report.memory.show(output)?;
    if !report.considered.is_empty() {
        heading(output, "considered")?;
    }
    for other in &report.considered {
        let fits = if other.fits { output.paint(GOOD, "fits") } else { output.paint(DIM, "does not fit") };
        output.line(&format!("  {:>10}  {:<24}{fits}", bytes(other.peak_bytes), other.name))?;
    }
    Ok(())
}
