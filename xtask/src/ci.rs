//! All checks, cheapest first; the first that fails ends it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{self, Profile};
use crate::{demo, modules, parity, plans, readme, test_run, tools, tree};

/// How a step ended, when it did not fail.
enum Outcome {
    Passed,
    /// It could not run on this machine, and why.
    Skipped(&'static str),
}

struct Step {
    name: &'static str,
    run: fn() -> Result<Outcome>,
}

/// The packages whose features choose engines.
const PROGRAM: [&str; 4] = ["-p", "tandem", "-p", "tandem-cli"];

/// Nothing is built in release.
const STEPS: [Step; 20] = [
    Step { name: "format", run: format },
    Step { name: "tidy", run: || cargo(&["test", "--quiet", "--package", "xtask"]) },
    Step { name: "dependencies", run: || tree::check().and_then(|()| modules::check()).map(|()| Outcome::Passed) },
    Step { name: "deny", run: deny },
    Step { name: "clippy", run: || clippy(&["--workspace"]) },
    Step { name: "clippy without an engine", run: || clippy(&[&PROGRAM[..], &["--no-default-features"]].concat()) },
    Step {
        name: "clippy with candle alone",
        run: || clippy(&[&PROGRAM[..], &["--no-default-features", "--features", "candle"]].concat()),
    },
    // What `check-cuda` does for candle needs nvcc; these bindings need nothing, since the library is loaded at run time.
    Step {
        name: "clippy with both engines, CUDA, CoreML and Parquet",
        run: || clippy(&[&PROGRAM[..], &["--features", "onnx,candle,cuda,coreml,parquet"]].concat()),
    },
    Step { name: "fuzz targets", run: fuzz_targets },
    Step { name: "documents", run: documents },
    Step { name: "test on candle alone", run: || test_run::run_on_candle().map(|()| Outcome::Passed) },
    // With the program that these tests have built; the next ones build it with both engines.
    Step { name: "demo on candle alone", run: || demo::check(Profile::Dev).map(|()| Outcome::Passed) },
    Step { name: "test", run: || test_run::run().map(|()| Outcome::Passed) },
    Step { name: "candle in AVX2", run: || candle_at("avx2") },
    Step { name: "candle in plain Rust", run: || candle_at("plain") },
    Step { name: "parity of the demo", run: || parity::check_demo().map(|()| Outcome::Passed) },
    Step { name: "parity of the embedders", run: || parity::check_embedders().map(|()| Outcome::Passed) },
    Step { name: "memory plans of the demo", run: || plans::check(Profile::Dev, "demo").map(|()| Outcome::Passed) },
    Step { name: "demo", run: || demo::check(Profile::Dev).map(|()| Outcome::Passed) },
    Step { name: "commands of README.md", run: || readme::check(Profile::Dev).map(|()| Outcome::Passed) },
];

/// Runs every step and prints what each took.
pub(crate) fn run() -> Result<()> {
    let mut summary = Vec::new();
    for step in &STEPS {
        eprintln!("\n=== {} ===", step.name);
        let start = Instant::now();
        let outcome = (step.run)();
        let said = match &outcome {
            Ok(Outcome::Passed) => "passed".to_owned(),
            Ok(Outcome::Skipped(reason)) => format!("skipped: {reason}"),
            Err(_) => "failed".to_owned(),
        };
        eprintln!("=== {}: {said} in {:.1} s ===", step.name, start.elapsed().as_secs_f64());
        summary.push((step.name, start.elapsed(), said));
        if let Err(error) = outcome {
            print(&summary);
            return Err(error).with_context(|| format!("step `{}`", step.name));
        }
    }
    print(&summary);
    Ok(())
}

fn print(summary: &[(&str, Duration, String)]) {
    println!();
    for (name, time, said) in summary {
        println!("{name:<41} {:>8.1} s   {said}", time.as_secs_f64());
    }
    let total: Duration = summary.iter().map(|(_, time, _)| time).sum();
    println!("{:<41} {:>8.1} s", "all", total.as_secs_f64());
}

fn cargo(arguments: &[&str]) -> Result<Outcome> {
    process::run(process::cargo(arguments)).map(|()| Outcome::Passed)
}

fn format() -> Result<Outcome> {
    if !tools::has_component("fmt", "rustfmt")? {
        return Ok(Outcome::Skipped("rustfmt is missing: `rustup component add rustfmt`"));
    }
    cargo(&["fmt", "--all", "--check"])
}

fn clippy(which: &[&str]) -> Result<Outcome> {
    if !tools::has_component("clippy", "clippy")? {
        return Ok(Outcome::Skipped("clippy is missing: `rustup component add clippy`"));
    }
    cargo(&[&["clippy", "--all-targets"], which, &["--", "-D", "warnings"]].concat())
}

/// Type-checks the fuzz targets with the stable toolchain and the versions of the workspace; running them takes cargo-fuzz.
fn fuzz_targets() -> Result<Outcome> {
    for directory in tools::fuzz_crates()? {
        let lock = directory.join("Cargo.lock");
        std::fs::copy(process::root().join("Cargo.lock"), &lock).with_context(|| format!("`{}`", lock.display()))?;
        let mut command = process::cargo(&["check", "--quiet"]);
        command.current_dir(&directory).env("CARGO_TARGET_DIR", process::target_directory()?.join("fuzz"));
        // Nothing is linked, so that libFuzzer's own sources need not be compiled.
        command.env("CUSTOM_LIBFUZZER_PATH", lock);
        process::run(command)?;
    }
    Ok(Outcome::Passed)
}

fn documents() -> Result<Outcome> {
    let mut command = process::cargo(&["doc", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    process::run(command).map(|()| Outcome::Passed)
}

/// The goldens and conformance cases of the candle backend with the kernels of a lower instruction set, as the tests were built before.
fn candle_at(isa: &str) -> Result<Outcome> {
    if isa == "avx2" && !cfg!(target_arch = "x86_64") {
        return Ok(Outcome::Skipped("this processor has no AVX2"));
    }
    let mut command = process::cargo(&[&["test", "--quiet"], &test_run::BUILD[..], &["--test", "candle"]].concat());
    command.env("TANDEM_ISA", isa);
    process::run(command).map(|()| Outcome::Passed)
}

/// Licences, bans and sources; not the advisories, whose database needs a network.
fn deny() -> Result<Outcome> {
    let Some(command) = tools::cargo_deny(&["check", "licenses", "bans", "sources"])? else {
        return Ok(Outcome::Skipped("cargo-deny is missing: `cargo install --locked cargo-deny`"));
    };
    process::run(command).map(|()| Outcome::Passed)
}
