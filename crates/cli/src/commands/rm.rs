//! `tandem rm`: models of the hub and what was made of checkpoints, taken from this machine.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tandem::backends::RemovedEntries;
use tandem::hub::{Hub, HubReference};

use super::list::{GraphRow, graph_row, made_of_checkpoints};
use crate::args::RmArgs;
use crate::config::Config;
use crate::failure::Usage;
use crate::figures;
use crate::output::Output;
use crate::resolve::{reference_settings, resolve, resolver};

/// What `--json` prints.
#[derive(Serialize)]
struct RemovalReport {
    removed: Vec<Row>,
    /// Graphs and quantised weights that were made of checkpoints.
    graphs: Vec<GraphRow>,
    /// Those that a process uses, which stay.
    graphs_in_use: Vec<GraphRow>,
    /// All together.
    bytes: u64,
}

#[derive(Serialize)]
struct Row {
    model: String,
    commits: Vec<String>,
    n_files: usize,
    bytes: u64,
}

pub(crate) fn rm(args: &RmArgs, output: &Output) -> Result<ExitCode> {
    let hub = Hub::from_env()?;
    let config = Config::load()?;
    // All are understood before the first is removed.
    let references: Vec<(String, HubReference)> =
        args.references.iter().map(|text| meant(text, &hub, &config, output)).collect::<Result<Vec<_>>>()?.concat();
    let mut removed = Vec::new();
    for (model, reference) in references {
        let gone = match model.contains('@') {
            true => hub.cache().remove_revision(&reference)?,
            false => hub.cache().remove(&reference.repository)?,
        };
        if !output.is_json() {
            let n_files = gone.n_files;
            let plural = if n_files == 1 { "" } else { "s" };
            output.line(&format!("removed {model}: {} in {n_files} file{plural}", figures::bytes(gone.bytes)))?;
        }
        removed.push(Row { model, commits: gone.commits, n_files: gone.n_files, bytes: gone.bytes });
    }
    let graphs = if args.graphs { tandem::backends::remove_cached_entries()? } else { RemovedEntries::default() };
    let graph_bytes: u64 = graphs.removed.iter().map(|graph| graph.bytes).sum();
    if output.is_json() {
        output.document(&RemovalReport {
            bytes: graph_bytes + removed.iter().map(|row| row.bytes).sum::<u64>(),
            removed,
            graphs: graphs.removed.into_iter().map(graph_row).collect(),
            graphs_in_use: graphs.in_use.into_iter().map(graph_row).collect(),
        })?;
    } else if args.graphs {
        let removed = made_of_checkpoints(graphs.removed.iter().map(|entry| entry.kind));
        output.line(&format!("removed {removed}: {}", figures::bytes(graph_bytes)))?;
        for graph in &graphs.in_use {
            output.note(&format!("{} is in use and stays", graph.directory.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The repositories that `text` names, as they are called: those of a model of the catalog that are here, or one, which then says that
/// it is not.
fn meant(text: &str, hub: &Hub, config: &Config, output: &Output) -> Result<Vec<(String, HubReference)>> {
    let resolver = resolver(&config.catalog, &config.engine);
    let resolved = resolve(&resolver, text, &reference_settings(&config.engine), output)?;
    // A reference with a revision is called as it was written.
    let name = |reference: &HubReference| resolved.entry.as_ref().map_or_else(|| text.to_owned(), |_| reference.to_string());
    let mut meant: Vec<_> = resolved.repositories()?.into_iter().map(|reference| (name(&reference), reference)).collect();
    if let Some((_, HubReference { repository, variant: Some(variant), .. })) = meant.first() {
        let problem = format!("`{variant}` cannot be removed alone: a model is removed with all its files");
        return Err(Usage::new(problem, format!("`tandem rm {repository}` removes them all")).into());
    }
    let is_here = |(_, reference): &(String, HubReference)| hub.cache().model(&reference.repository).is_some();
    match meant.iter().any(is_here) {
        true => meant.retain(is_here),
        false => meant.truncate(1),
    }
    Ok(meant)
}
