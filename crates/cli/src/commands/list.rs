//! `tandem list`: the models of the hub that are on this machine.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::Serialize;
use tandem::backends::{CachedEntries, CachedInfo, CachedKind};
use tandem::hub::{CachedModel, CachedSnapshot, Hub};

use crate::args::ListArgs;
use crate::figures;
use crate::output::{BOLD, DIM, Output, WIDTH, wrap_all};

/// Names longer than this have a line to themselves.
const NAME_WIDTH: usize = 44;

/// Revisions longer than this too.
const REVISION_WIDTH: usize = WIDTH - NAME_WIDTH - SIZES_WIDTH;

/// Columns of size and number of files, with what is between columns.
const SIZES_WIDTH: usize = 17;

/// What `--json` prints.
#[derive(Serialize)]
struct ModelListReport {
    cache: String,
    /// All models together.
    bytes: u64,
    models: Vec<ModelRow>,
    /// What was made of checkpoints; null where nothing is kept.
    graphs: Option<GraphsRow>,
}

#[derive(Serialize)]
struct GraphsRow {
    directory: String,
    /// All of them together.
    bytes: u64,
    /// What they may be before those used longest ago are removed.
    limit: u64,
    graphs: Vec<GraphRow>,
}

/// A graph, or quantised weights, that was made of a checkpoint.
#[derive(Serialize)]
pub(super) struct GraphRow {
    directory: String,
    kind: CachedKind,
    /// The checkpoint's name, where the entry says it.
    source: Option<String>,
    dtype: Option<String>,
    bytes: u64,
    /// When it was used last, in seconds since 1970.
    used: Option<u64>,
}

#[derive(Serialize)]
struct ModelRow {
    model: String,
    directory: String,
    bytes: u64,
    /// Of downloads that are not whole.
    partial_bytes: u64,
    snapshots: Vec<SnapshotRow>,
}

#[derive(Serialize)]
struct SnapshotRow {
    commit: String,
    /// What it was called when it was pulled, such as `main`.
    revisions: Vec<String>,
    directory: String,
    bytes: u64,
    /// When the newest file came, in seconds since 1970.
    modified: Option<u64>,
    files: Vec<FileRow>,
}

#[derive(Serialize)]
struct FileRow {
    name: String,
    bytes: u64,
}

pub(crate) fn list(_args: &ListArgs, output: &Output) -> Result<ExitCode> {
    let hub = Hub::from_env()?;
    let models: Vec<ModelRow> = hub.cache().models().into_iter().map(model_row).collect();
    let bytes = models.iter().map(|model| model.bytes).sum();
    let graphs = tandem::backends::cached_entries()?.map(graphs_row);
    let report = ModelListReport { cache: hub.cache().root().display().to_string(), bytes, models, graphs };
    if output.is_json() {
        output.document(&report)?;
    } else {
        show(&report, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(report: &ModelListReport, output: &Output) -> Result<()> {
    if report.models.is_empty() {
        output.note(&format!("there are no models in {}; `tandem pull owner/name` brings one", report.cache));
        note_graphs(report, output);
        return Ok(());
    }
    output.line(&output.paint(DIM, &format!("{:<NAME_WIDTH$} {:>8} {:>5}  REVISION", "MODEL", "SIZE", "FILES")))?;
    report.models.iter().try_for_each(|model| show_model(model, output))?;
    let n_models = report.models.len();
    let plural = if n_models == 1 { "" } else { "s" };
    output.note(&format!("{n_models} model{plural}, {} in {}", figures::bytes(report.bytes), report.cache));
    note_graphs(report, output);
    Ok(())
}

fn note_graphs(report: &ModelListReport, output: &Output) {
    let Some(graphs) = report.graphs.as_ref().filter(|graphs| !graphs.graphs.is_empty()) else { return };
    let made = made_of_checkpoints(graphs.graphs.iter().map(|row| row.kind));
    let (bytes, limit) = (figures::bytes(graphs.bytes), figures::bytes(graphs.limit));
    output.note(&format!("{made}, {bytes} of at most {limit} in {}; `tandem rm --graphs` removes them", graphs.directory));
}

/// A line for each commit; what is too long for its column has lines of its own.
fn show_model(model: &ModelRow, output: &Output) -> Result<()> {
    for snapshot in &model.snapshots {
        let revisions = output.for_stdout(&snapshot.revisions.join(", ")).into_owned();
        let is_short = (1..=REVISION_WIDTH).contains(&revisions.chars().count());
        let revision = if is_short { revisions.as_str() } else { snapshot.commit.get(..12).unwrap_or(&snapshot.commit) };
        let figures = format!("{:>8} {:>5}  {revision}", figures::bytes(snapshot.bytes), snapshot.files.len());
        let indent = " ".repeat(NAME_WIDTH);
        match model.model.len() > NAME_WIDTH {
            true => {
                show_name(model, output)?;
                output.line(&format!("{indent} {figures}"))?;
            }
            false => {
                let padding = &indent[model.model.len()..];
                output.line(&format!("{}{padding} {figures}", output.paint(BOLD, &model.model)))?;
            }
        }
        if !is_short {
            wrap_all(&revisions, WIDTH - 2)
                .iter()
                .filter(|line| !line.is_empty())
                .try_for_each(|line| output.line(&format!("  {line}")))?;
        }
    }
    if model.partial_bytes > 0 {
        let have = figures::bytes(model.partial_bytes);
        show_name(model, output)?;
        output.line(&format!("  {have} of a download that is not whole; `tandem pull` goes on with it"))?;
    }
    Ok(())
}

fn show_name(model: &ModelRow, output: &Output) -> Result<()> {
    wrap_all(&model.model, WIDTH).iter().try_for_each(|line| output.line(&output.paint(BOLD, line)))
}

/// Says how many entries there are of each kind.
pub(super) fn made_of_checkpoints(kinds: impl Iterator<Item = CachedKind>) -> String {
    let (graphs, weights): (Vec<_>, Vec<_>) = kinds.partition(|kind| *kind == CachedKind::Graph);
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let of_graphs = format!("{} graph{}", graphs.len(), plural(graphs.len()));
    let of_weights = format!("{} set{} of quantised weights", weights.len(), plural(weights.len()));
    match (graphs.len(), weights.len()) {
        (_, 0) => format!("{of_graphs} made of checkpoints"),
        (0, _) => format!("{of_weights} made of checkpoints"),
        _ => format!("{of_graphs} and {of_weights} made of checkpoints"),
    }
}

fn graphs_row(graphs: CachedEntries) -> GraphsRow {
    let rows: Vec<GraphRow> = graphs.entries.into_iter().map(graph_row).collect();
    GraphsRow {
        directory: graphs.directory.display().to_string(),
        bytes: rows.iter().map(|row| row.bytes).sum(),
        limit: graphs.limit,
        graphs: rows,
    }
}

pub(super) fn graph_row(graph: CachedInfo) -> GraphRow {
    GraphRow {
        directory: graph.directory.display().to_string(),
        kind: graph.kind,
        source: graph.source,
        dtype: graph.dtype,
        bytes: graph.bytes,
        used: seconds(graph.used),
    }
}

fn seconds(time: SystemTime) -> Option<u64> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn model_row(model: CachedModel) -> ModelRow {
    ModelRow {
        model: model.repository.to_string(),
        directory: model.directory.display().to_string(),
        bytes: model.bytes,
        partial_bytes: model.partial_bytes,
        snapshots: model.snapshots.into_iter().map(snapshot_row).collect(),
    }
}

fn snapshot_row(snapshot: CachedSnapshot) -> SnapshotRow {
    SnapshotRow {
        commit: snapshot.commit.to_string(),
        revisions: snapshot.revisions,
        directory: snapshot.directory.display().to_string(),
        bytes: snapshot.files.iter().map(|file| file.bytes).sum(),
        modified: snapshot.modified.and_then(seconds),
        files: snapshot.files.into_iter().map(|file| FileRow { name: file.name, bytes: file.bytes }).collect(),
    }
}
