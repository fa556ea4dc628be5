//! Both engines against each other, on the demo model and on every golden checkpoint that both run.

use anyhow::{Context, Result, ensure};

use crate::interrupt::Interrupt;
use crate::process::{self, Profile};

const REFERENCE: &str = "candle:f32";
const CANDIDATES: [&str; 6] = ["onnx:f32", "onnx:f16", "onnx:int8", "onnx:int4", "candle:int8", "candle:int4"];

/// Goldens that no graph is made of: there is nothing to compare them with.
pub(crate) const OF_ONE_ENGINE: [&str; 5] = ["gemma2", "gemma2-window", "gemma3", "phi3", "phi3-window"];

/// Builds `tandem` with both engines, sets up, and runs `tandem parity` on each model; `more` goes to each of them. The reports lie in
/// `target/parity`, one page and one JSON for each model.
pub(crate) fn run(more: &[&str]) -> Result<()> {
    let build = ["build", "--release", "--package", "tandem-cli", "--bin", "tandem", "--features", "candle"];
    process::run(process::cargo(&build))?;
    process::setup(Profile::Release)?;
    let reports = process::root().join("target/parity");
    std::fs::create_dir_all(&reports).with_context(|| format!("cannot make `{}`", reports.display()))?;
    let interrupt = Interrupt::listen()?;
    let mut failed = Vec::new();
    for (name, reference) in models()? {
        let file = |extension: &str| reports.join(&name).with_extension(extension).display().to_string();
        let mut arguments = vec!["parity", &reference, "--reference", REFERENCE];
        arguments.extend(CANDIDATES.iter().flat_map(|candidate| ["--candidate", candidate]));
        let (json, html) = (file("json"), file("html"));
        arguments.extend(["--report", &json, "--html", &html]);
        if name != "demo" {
            arguments.push("--random-weights");
        }
        arguments.extend(more);
        if process::run(process::tandem(Profile::Release, &arguments)?).is_err() {
            failed.push(name);
        }
        ensure!(!interrupt.was_pressed(), "interrupted; what was measured is in `{}`", reports.display());
    }
    println!("not compared, since only candle runs them: {}", OF_ONE_ENGINE.join(", "));
    println!("reports: {}", reports.display());
    ensure!(failed.is_empty(), "these differ or could not be measured: {}", failed.join(", "));
    println!("both engines agree on every model");
    Ok(())
}

/// The demo in floats, with the program that the tests have built. Its other dtypes are tests of `tandem-bench`.
pub(crate) fn check_demo() -> Result<()> {
    let candidates = ["--candidate", "onnx:f32", "--candidate", "onnx:f16"];
    process::run(process::tandem(Profile::Dev, &[&["parity", "demo", "--reference", REFERENCE], &candidates[..]].concat())?)
}

/// The demo and every golden that both engines run, by name and reference. `onnx-community` has published graphs, which are taken; of the
/// others they are made.
fn models() -> Result<Vec<(String, String)>> {
    let goldens = process::root().join("goldens");
    let mut directories = process::entries(&goldens)?;
    directories.retain(|directory| directory.join("config.json").is_file());
    directories.retain(|directory| !OF_ONE_ENGINE.iter().any(|name| directory.ends_with(name)));
    let named = directories.iter().map(|directory| {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, directory.display().to_string())
    });
    Ok(std::iter::once(("demo".to_owned(), "demo".to_owned())).chain(named).collect())
}
