//! `tandem completions`: a script for a shell.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::output::Output;

pub(crate) fn completions(args: &CompletionsArgs, output: &Output) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tandem", &mut script);
    output.line(String::from_utf8(script).context("the script is not valid UTF-8")?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
