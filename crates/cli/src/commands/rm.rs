//! `tandem rm`: models of the hub, taken from this machine.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tandem::hub::{Hub, HubReference};

use crate::args::RmArgs;
use crate::figures;
use crate::output::Output;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    removed: Vec<Row>,
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
    // All are understood before the first is removed.
    let references: Vec<(&String, HubReference)> =
        args.references.iter().map(|text| Ok((text, tandem::hub_reference(text)?))).collect::<tandem::Result<_>>()?;
    let mut removed = Vec::new();
    for (text, reference) in references {
        let gone = match text.contains('@') {
            true => hub.cache().remove_revision(&reference)?,
            false => hub.cache().remove(&reference.repository)?,
        };
        if !output.is_json() {
            let n_files = gone.n_files;
            let plural = if n_files == 1 { "" } else { "s" };
            output.line(&format!("removed {text}: {} in {n_files} file{plural}", figures::bytes(gone.bytes)))?;
        }
        removed.push(Row { model: text.clone(), commits: gone.commits, n_files: gone.n_files, bytes: gone.bytes });
    }
    if output.is_json() {
        output.document(&Report { bytes: removed.iter().map(|row| row.bytes).sum(), removed })?;
    }
    Ok(ExitCode::SUCCESS)
}
