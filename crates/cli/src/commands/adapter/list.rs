//! `tandem adapter list`: the adapters in directories.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tandem::Error;
use tandem::adapters::AdapterFiles;

use crate::args::AdapterListArgs;
use crate::figures::bytes;
use crate::output::Output;

/// What `--json` prints.
#[derive(Serialize)]
struct ListReport {
    adapters: Vec<ListedAdapter>,
}

#[derive(Serialize)]
struct ListedAdapter {
    path: String,
    format: &'static str,
    bytes: u64,
}

pub(super) fn list(args: &AdapterListArgs, output: &Output) -> Result<ExitCode> {
    let mut adapters = Vec::new();
    for directory in &args.directories {
        let entries = std::fs::read_dir(directory)
            .map_err(|error| {
                Error::bad_file(directory.display().to_string(), "cannot be read", error)
                    .with_hint("name a directory with adapters in it")
            })?
            .flatten()
            .map(|entry| entry.path());
        let mut places: Vec<PathBuf> = entries.filter(|path| path.is_dir() || is_file_of_one(path)).collect();
        places.sort_unstable();
        places.insert(0, directory.clone());
        adapters.extend(places.iter().filter_map(|path| listed(path)));
    }
    adapters.dedup_by(|a, b| a.path == b.path);
    if output.is_json() {
        output.document(&ListReport { adapters })?;
        return Ok(ExitCode::SUCCESS);
    }
    if adapters.is_empty() {
        output.note("there are no adapters here; `tandem adapter train` makes one");
    }
    for ListedAdapter { path, format, bytes: n } in adapters {
        output.line(&format!("{:>10}  {format:<12} {}", bytes(n), output.for_stdout(&path)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What may be an adapter by itself; a GGUF file is a model as well.
fn is_file_of_one(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "onnx_adapter")
}

fn listed(path: &Path) -> Option<ListedAdapter> {
    let name = path.display().to_string();
    let files = AdapterFiles::discover(path, &name).ok()?;
    // A directory of GGUF files is one of models as long as nothing says otherwise.
    let is_model = files.format == tandem::adapters::AdapterFormat::Gguf;
    (!is_model).then_some(ListedAdapter { path: name, format: files.format.name(), bytes: files.weights.len().unwrap_or(0) })
}
