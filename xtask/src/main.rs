//! `cargo xtask TASK`: every task of the project, on a machine with nothing but Rust, Python 3 and pip.
//!
//! It depends on no crate of the workspace: it runs cargo and the built `tandem`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task reports to the terminal")]

mod aarch64;
mod bench;
mod ci;
mod cuda;
mod damage;
mod demo;
mod interrupt;
mod modules;
mod parity;
mod plans;
mod process;
mod readme;
mod test_run;
#[cfg(test)]
mod tidy;
mod tools;
mod tree;

use std::process::ExitCode;

use anyhow::{Result, bail};

use self::process::Profile;

const HELP: &str = "\
usage: cargo xtask TASK

  setup         build `tandem` and obtain ONNX Runtime's library for it
  demo          set up, then let the embedded model tell a story
  test          set up, then run every test
  bench         benchmark both backends, with a report in target/bench; see --help
  parity        compare both engines on the demo and all goldens, with reports in target/parity
  plans         compare memory plans with measured peaks, on the demo or on the models that are named
  ci            run all checks, cheapest first: what a change must pass
  damage        run every command on damaged models, which must not crash, hang or exhaust memory; see --help
  modules       find dependency cycles between modules
  check-cuda    type-check the build with `candle-cuda`, which needs no GPU; not part of `ci`, since nvcc takes minutes
  check-aarch64 run the kernels' tests in an emulator of AArch64, with --all those of candle too; not part of `ci`, which has none
  help          print this text

Each task does its own set-up, once.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<ExitCode> {
    if let ["bench", options @ ..] = arguments {
        return bench::run(options);
    }
    task(arguments).map(|()| ExitCode::SUCCESS)
}

/// A task that is done or fails.
fn task(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["setup"] => {
            process::build_tandem(Profile::Release)?;
            process::setup(Profile::Release)
        }
        ["demo"] => {
            process::build_tandem(Profile::Release)?;
            process::setup(Profile::Release)?;
            demo::run(Profile::Release)
        }
        ["test"] => test_run::run(),
        ["parity", more @ ..] => parity::run(more),
        ["plans", models @ ..] => plans::run(models),
        ["ci"] => ci::run(),
        ["damage", options @ ..] => damage::run(options),
        ["modules"] => modules::check(),
        ["check-cuda"] => cuda::check(),
        ["check-aarch64"] => aarch64::check(false),
        ["check-aarch64", "--all"] => aarch64::check(true),
        [] | ["help" | "-h" | "--help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("there is no task `{}`\n\n{HELP}", arguments.join(" ")),
    }
}
