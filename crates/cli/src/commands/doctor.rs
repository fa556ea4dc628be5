//! `tandem doctor`: what works here, what does not, and what to do about it.

mod engines;
mod hub;
mod machine;
mod text;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use self::hub::Thoroughly;
use crate::args::DoctorArgs;
use crate::config::Config;
use crate::failure::{FAILED, Failure};
use crate::output::Output;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// Nothing is bad.
    healthy: bool,
    checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    /// What it belongs to, such as `engines`.
    area: &'static str,
    name: String,
    state: State,
    /// What was found.
    finding: String,
    /// What to do, where something can be done.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It works.
    Good,
    /// It works, with something to know.
    Warning,
    /// It does not work, and something depends on it.
    Bad,
    /// It is not there, and nothing depends on it.
    Absent,
}

impl Check {
    fn new(area: &'static str, name: impl Into<String>, state: State, finding: impl Into<String>) -> Self {
        Self { area, name: name.into(), state, finding: finding.into(), remedy: None }
    }

    fn good(area: &'static str, name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(area, name, State::Good, finding)
    }

    /// What went wrong with `error`, and its hint.
    fn bad(area: &'static str, name: impl Into<String>, error: anyhow::Error) -> Self {
        let Failure { message, causes, hint } = Failure::new(&error);
        let finding = std::iter::once(message).chain(causes).collect::<Vec<_>>().join(": ");
        Self { remedy: hint, ..Self::new(area, name, State::Bad, finding) }
    }

    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

pub(crate) fn doctor(args: DoctorArgs, output: &Output) -> Result<ExitCode> {
    let progress = output.progress("looking around");
    let (config, configured) = configuration();
    let library = args.library.or(config.engine.onnx.library.clone()).ort_library;
    let mut checks = vec![version(), configured];
    checks.extend(engines::checks(library.as_deref()));
    checks.extend(machine::checks(&config));
    let listener = progress.listener();
    checks.extend(hub::checks(&Thoroughly { verify: args.verify || args.repair, repair: args.repair, progress: &listener }));
    checks.extend(engines::not_supported());
    drop(progress);
    let healthy = checks.iter().all(|check| check.state != State::Bad);
    let report = Report { healthy, checks };
    if output.is_json() {
        output.document(&report)?;
    } else {
        text::show(&report, output)?;
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn version() -> Check {
    let backends: Vec<String> = tandem::backends::compiled().iter().map(ToString::to_string).collect();
    let version = env!("CARGO_PKG_VERSION");
    match backends.as_slice() {
        [] => Check::new("tandem", "version", State::Bad, format!("{version}, without a backend"))
            .with_remedy("build with `--features onnx` or `--features candle`"),
        backends => Check::good("tandem", "version", format!("{version} with {}", backends.join(", "))),
    }
}

/// The configuration, or none when it is wrong.
fn configuration() -> (Config, Check) {
    match Config::load() {
        Ok(config) => (config, Check::good("tandem", "configuration", "is understood")),
        Err(error) => (Config::default(), Check::bad("tandem", "configuration", error)),
    }
}
