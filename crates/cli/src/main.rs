//! The `tandem` command: arguments in, output out; what lies between is the library `tandem`.

mod args;
mod commands;
mod config;
mod download;
mod engine;
mod failure;
mod figures;
mod generation;
mod interrupt;
mod output;
mod prompt;
mod resolve;
mod speculation;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::args::{Cli, OutputArgs};
use crate::failure::{Failure, StdoutClosed, WRONG_USAGE};
use crate::output::Output;

fn main() -> ExitCode {
    #[expect(unsafe_code, reason = "variables of the process are set")]
    // SAFETY: nothing has started another thread yet.
    unsafe {
        tandem::backends::prepare_process();
    }
    let command = match cli().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(Cli { command: Some(command) }) => command,
        Ok(Cli { command: None }) => return help(),
        Err(error) => return not_understood(&error),
    };
    let output = Output::new(command.output());
    match commands::run(command, &output) {
        Ok(code) => code,
        Err(error) if error.is::<StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            if output.is_json() {
                // Nothing is left to be done when this fails too.
                let _ = output.failure(&Failure::new(&error));
            }
            failure::exit_code(&error)
        }
    }
}

/// The command line, with the version in it.
fn cli() -> clap::Command {
    Cli::command().version(version())
}

/// The version with the backends of this build.
fn version() -> String {
    let backends: Vec<String> = tandem::backends::compiled().iter().map(ToString::to_string).collect();
    let backends = if backends.is_empty() { "none".into() } else { backends.join(", ") };
    format!("{} (backends: {backends})", env!("CARGO_PKG_VERSION"))
}

/// `tandem` alone.
fn help() -> ExitCode {
    // A closed standard output is not a failure.
    let _ = cli().print_help();
    ExitCode::SUCCESS
}

/// Help, the version, or a command line that clap does not understand.
fn not_understood(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let is_json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if is_json {
        let _ = Output::new(OutputArgs { json: true, ..OutputArgs::default() }).failure(&Failure::of_clap(error));
    }
    ExitCode::from(WRONG_USAGE)
}
