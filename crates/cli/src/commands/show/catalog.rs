//! A model of the catalog, or the one that `auto` stands for: shown by what the catalog knows, without a download.

use anyhow::Result;
use serde::Serialize;
use tandem::catalog::{Catalog, CatalogEntry};
use tandem::plan::{Choice, Plan, Subject, Workload};

use super::memory_plan::{MemoryReport, planned_tokens};
use super::text::{heading, row};
use crate::args::EngineOptions;
use crate::figures::{bytes, many};
use crate::memory::{measurements, memory, threads};
use crate::output::{BOLD, DIM, GOOD, Output};
use crate::reference::{AUTO, auto, engine, is_of_catalog, known, nothing_fits};

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    model: String,
    entry: Option<CatalogEntry>,
    memory: Option<MemoryReport>,
    /// With `auto`: the models that were considered, the largest first.
    considered: Vec<Considered>,
}

#[derive(Serialize)]
struct Considered {
    name: String,
    peak_bytes: u64,
    fits: bool,
}

/// Shows what `reference` means in the catalog; false when it means nothing there.
///
/// # Errors
/// [`tandem::Error::ModelNotFound`] for what has the form of a catalog's name and is none.
pub(super) fn show(reference: &str, catalog: &Catalog, options: &EngineOptions, output: &Output) -> Result<bool> {
    if !is_of_catalog(reference) {
        return Ok(false);
    }
    let memory = memory(options);
    let (backend, dtype) = engine(options);
    let threads = options.threads.map_or_else(threads, usize::from);
    let context = options.context.map(usize::from);
    let choice = (reference == AUTO).then(|| auto(catalog, options));
    let entry = match &choice {
        Some(choice) => choice.taken().map(|taken| taken.entry.clone()),
        None => Some(known(catalog, reference)?.clone()),
    };
    if let (None, Some(choice)) = (&entry, &choice) {
        return Err(nothing_fits(choice).into());
    }
    let planned = entry.as_ref().map(|entry| {
        let n_tokens = planned_tokens(context, entry.context);
        let workload = Workload { backend, dtype, n_tokens, max_tokens: n_tokens, threads };
        let plan = Plan::new(&Subject::of_entry(entry), &workload, &measurements());
        let advice = || "`tandem show auto` says what fits; `--dtype int8` and `int4` take less".into();
        MemoryReport::new(&plan, &workload, &memory, advice)
    });
    let report = Report { model: reference.into(), entry, memory: planned, considered: considered(choice.as_ref()) };
    if output.is_json() {
        output.document(&report)?
    } else {
        text(&report, output)?
    }
    Ok(true)
}

fn considered(choice: Option<&Choice>) -> Vec<Considered> {
    let candidates = choice.iter().flat_map(|choice| &choice.candidates);
    let row = |name: &str, peak_bytes, fits| Considered { name: name.into(), peak_bytes, fits };
    candidates.map(|candidate| row(&candidate.entry.name, candidate.plan.peak(), candidate.fits)).collect()
}

fn text(report: &Report, output: &Output) -> Result<()> {
    let Some(entry) = &report.entry else { return Ok(()) };
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
    report.memory.iter().try_for_each(|memory| memory.show(output))?;
    if !report.considered.is_empty() {
        heading(output, "considered")?;
    }
    for other in &report.considered {
        let fits = if other.fits { output.paint(GOOD, "fits") } else { output.paint(DIM, "does not fit") };
        output.line(&format!("  {:>10}  {:<24}{fits}", bytes(other.peak_bytes), other.name))?;
    }
    Ok(())
}
