//! `tandem devices`: what can run here, and why the rest cannot.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tandem::BackendKind;
use tandem::backends::DeviceReport;

use crate::args::DevicesArgs;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::{BAD, BOLD, DIM, GOOD, Output};
use crate::words;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    backends: Vec<BackendReport>,
}

#[derive(Serialize)]
struct BackendReport {
    backend: String,
    /// Whether this build has it.
    compiled: bool,
    hint: Option<String>,
    /// The engine's library, where it is a file of its own that can be used.
    library: Option<PathBuf>,
    devices: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    device: String,
    description: String,
    /// It has computed something just now.
    usable: bool,
    /// What ran it there, such as `CPUExecutionProvider`.
    proven_by: Option<String>,
    /// Why it cannot be used.
    reason: Option<String>,
    hint: Option<String>,
}

pub(crate) fn devices(args: DevicesArgs, output: &Output) -> Result<ExitCode> {
    let ort_library = args.library.or(Config::load()?.engine.onnx.library).ort_library;
    let progress = output.progress("looking at devices");
    let backends: Vec<_> = tandem::backends::KNOWN_BACKENDS.into_iter().map(|kind| report(kind, ort_library.clone())).collect();
    drop(progress);
    if output.is_json() {
        output.document(&Report { backends })?;
    } else {
        backends.iter().try_for_each(|backend| show(backend, output))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(kind: BackendKind, ort_library: Option<PathBuf>) -> BackendReport {
    let backend = kind.to_string();
    let library = (kind == BackendKind::Onnx).then(|| tandem::backends::ort_library(ort_library.as_deref()).ok()).flatten();
    match tandem::backends::backend(Some(kind), ort_library.clone()) {
        Ok(engine) => BackendReport {
            backend,
            compiled: true,
            hint: None,
            library,
            devices: engine.devices().into_iter().map(|device| row(kind, device, ort_library.as_deref())).collect(),
        },
        Err(error) => {
            BackendReport { backend, compiled: false, hint: Failure::new(&error.into()).hint, library, devices: Vec::new() }
        }
    }
}

/// A device that is said to be usable has to compute something.
fn row(kind: BackendKind, report: DeviceReport, ort_library: Option<&Path>) -> Row {
    let proof = match report.unusable {
        None => tandem::backends::check_device(kind, ort_library, report.device).map_err(|error| {
            let failure = Failure::new(&error.into());
            (std::iter::once(failure.message).chain(failure.causes).collect::<Vec<_>>().join(": "), failure.hint)
        }),
        Some(reason) => Err((reason, report.hint.as_ref().map(words::sentence))),
    };
    let (device, description) = (report.device.to_string(), report.description);
    match proof {
        Ok(by) => Row { device, description, usable: true, proven_by: Some(by), reason: None, hint: None },
        Err((reason, hint)) => Row { device, description, usable: false, proven_by: None, reason: Some(reason), hint },
    }
}

fn show(backend: &BackendReport, output: &Output) -> Result<()> {
    let remark = if backend.compiled { "" } else { "  not part of this build" };
    output.line(&format!("{}{}", output.paint(BOLD, &backend.backend), output.paint(DIM, remark)))?;
    if let Some(library) = &backend.library {
        output.line(&format!("  {}", output.paint(DIM, &format!("library {}", library.display()))))?;
    }
    if let Some(hint) = &backend.hint {
        output.line(&format!("  {}", output.paint(DIM, &format!("hint: {hint}"))))?;
    }
    for row in &backend.devices {
        let state = if row.usable { output.paint(GOOD, "usable  ") } else { output.paint(BAD, "unusable") };
        output.line(&format!("  {:<8} {state}  {}", row.device, output.for_stdout(&row.description)))?;
        if let Some(by) = &row.proven_by {
            output.line(&format!("           {}", output.paint(DIM, &format!("proven: {by} computed something"))))?;
        }
        if let Some(reason) = &row.reason {
            output.line(&format!("           {}", output.for_stdout(reason)))?;
        }
        if let Some(hint) = &row.hint {
            output.line(&format!("           {}", output.paint(DIM, &format!("hint: {hint}"))))?;
        }
    }
    Ok(())
}
