//! `tandem setup`: ONNX Runtime's library for this user.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tandem::backends::SetupOptions;

use crate::args::SetupArgs;
use crate::output::Output;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    library: String,
    version: String,
    already_there: bool,
}

pub(crate) fn setup(args: SetupArgs, output: &Output) -> Result<ExitCode> {
    let options = SetupOptions { wheel: args.wheel, force: args.force };
    let report = tandem::backends::setup(&options, &mut |step| output.note(step))?;
    let library = report.library.display().to_string();
    if output.is_json() {
        output.document(&Report { library, version: report.version, already_there: report.already_there })?;
    } else {
        let state = if report.already_there { "is there already" } else { "is ready" };
        output.line(&output.for_stdout(&format!("ONNX Runtime {} {state}: {library}", report.version)))?;
    }
    Ok(ExitCode::SUCCESS)
}
