//! Both engines against each other, on the demo model, on every golden checkpoint that both run and on every golden embedding model.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::interrupt::Interrupt;
use crate::process::{self, Profile};

const REFERENCE: &str = "candle:f32";
const CANDIDATES: [&str; 8] =
    ["onnx:f32", "onnx:f16", "onnx:int8", "onnx:int4", "onnx+runtime:int8", "onnx+runtime:int4", "candle:int8", "candle:int4"];

/// What embedding models are compared in, where they run in it.
const OF_EMBEDDERS: [&str; 5] = ["onnx:f32", "onnx:f16", "onnx:int8", "candle:bf16", "candle:int8"];

/// How the names of goldens begin that are encoders, which candle runs in bf16.
const ENCODERS: [&str; 6] = ["bert-", "distilbert", "modernbert", "mpnet", "roberta", "xlm-roberta"];

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
    let embedders = embedders()?.into_iter().map(|(name, reference)| {
        let candidates = candidates_of_embedder(&name);
        (format!("embedder-{name}"), reference, candidates)
    });
    let generators = models()?.into_iter().map(|(name, reference)| (name, reference, CANDIDATES.to_vec()));
    for (name, reference, candidates) in generators.chain(embedders) {
        let file = |extension: &str| reports.join(&name).with_extension(extension).display().to_string();
        let mut arguments = vec!["parity", &reference, "--reference", REFERENCE];
        arguments.extend(candidates.iter().flat_map(|candidate| ["--candidate", candidate]));
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

/// Every golden embedding model in floats, with the program that the tests have built.
pub(crate) fn check_embedders() -> Result<()> {
    embedders()?.iter().try_for_each(|(_, reference)| {
        let arguments = ["parity", reference, "--reference", REFERENCE, "--candidate", "onnx:f32", "--random-weights"];
        process::run(process::tandem(Profile::Dev, &arguments)?)
    })
}

/// The golden embedding models by name and reference; cross-encoders give no vectors.
fn embedders() -> Result<Vec<(String, String)>> {
    let mut models = named(process::entries(&process::root().join("goldens/embedders"))?);
    models.retain(|(name, _)| !name.starts_with("cross-"));
    Ok(models)
}

/// What the embedding model `name` runs in.
fn candidates_of_embedder(name: &str) -> Vec<&'static str> {
    let is_encoder = ENCODERS.iter().any(|family| name.starts_with(family));
    let runs = |candidate: &&str| match *candidate {
        // Gemma's activations exceed 16 bits.
        "onnx:f16" => name != "gemma3",
        "candle:bf16" => is_encoder,
        // Its rows of 48 weights are not whole blocks.
        "candle:int8" => name != "modernbert",
        _ => true,
    };
    OF_EMBEDDERS.into_iter().filter(runs).collect()
}

/// The demo and every golden that both engines run, by name and reference. `onnx-community` has published graphs, which are taken; of the
/// others they are made.
fn models() -> Result<Vec<(String, String)>> {
    let goldens = process::root().join("goldens");
    let mut directories = process::entries(&goldens)?;
    directories.retain(|directory| directory.join("config.json").is_file());
    directories.retain(|directory| !OF_ONE_ENGINE.iter().any(|name| directory.ends_with(name)));
    Ok(std::iter::once(("demo".to_owned(), "demo".to_owned())).chain(named(directories)).collect())
}

/// Directories by their names.
fn named(directories: Vec<PathBuf>) -> Vec<(String, String)> {
    let of = |directory: &PathBuf| {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, directory.display().to_string())
    };
    directories.iter().map(of).collect()
}
