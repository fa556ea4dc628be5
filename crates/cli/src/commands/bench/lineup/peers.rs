//! The runners of peers: what a user would pick instead.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tandem::{BackendKind, CancelToken, DType, ExportOptions, ModelFiles};
use tandem_bench::peer::{Genai, LlamaBench, PythonPeer, PythonWorker};
use tandem_bench::run::Runner;

use super::super::cache_dir;
use super::super::facts::Facts;
use super::super::worker::share_read;
use super::{Variant, tandem_runner};
use crate::args::{BenchArgs, Peer, PeerOptions};
use crate::failure::Usage;

/// The runners of one peer: llama-bench has one for each file.
pub(super) fn runners(
    peer: &Peer,
    args: &BenchArgs,
    reference: &str,
    files: &ModelFiles,
    facts: &Facts,
    threads: usize,
) -> Result<Vec<Box<dyn Runner>>> {
    let boxed = |runner: LlamaBench| Box::new(runner) as Box<dyn Runner>;
    let is_embedder = facts.workload.embedding.is_some();
    let does_both = matches!(peer, Peer::LlamaBench(_));
    if !does_both && is_embedder != matches!(peer, Peer::Python(_)) {
        let (does, task) = if is_embedder { ("embedding", "generate") } else { ("generating text", "embed") };
        let message = format!("peer `{}` does other work: the model is measured at {does}", peer.kind());
        return Err(Usage::new(message, format!("leave it out, or add `--task {task}`")).into());
    }
    match peer {
        Peer::LlamaBench(program) => {
            let given = &args.peers.ggufs;
            let own =
                Path::new(reference).extension().is_some_and(|extension| extension == "gguf").then(|| PathBuf::from(reference));
            if given.is_empty() && own.is_none() {
                let hint =
                    "give the same model as GGUF with `--gguf FILE`; for shapes, `training/shapes/gguf_files.py` makes some";
                return Err(Usage::new("the peer `llama-bench` needs a model of its own form", hint).into());
            }
            let ggufs = given.iter().cloned().chain(own);
            Ok(ggufs.map(|gguf| boxed(LlamaBench { program: program.clone(), gguf, threads })).collect())
        }
        Peer::Genai(python) => {
            let directory = args.peers.genai_model.clone().map_or_else(|| genai_export(files, facts), Ok)?;
            let dtype = args.peers.genai_model.as_ref().map_or_else(|| "int4".into(), |path| name_of(path));
            Ok(vec![Box::new(Genai { python: python.clone(), directory, dtype, threads, step_share: share_read(&facts.config) })])
        }
        Peer::CandleTransformers => {
            let mut runner = tandem_runner(reference, &args.entries, Variant::f32(BackendKind::Candle, threads), false)?;
            runner.name = runner.name.replacen("candle", "candle-transformers", 1);
            runner.options = String::new();
            runner.engine.is_transformers = true;
            Ok(vec![Box::new(runner)])
        }
        Peer::Python(worker) => python(worker, &args.peers, files, facts, threads),
    }
}

/// A runner for each engine of a program of Python.
fn python(
    worker: &Path,
    options: &PeerOptions,
    files: &ModelFiles,
    facts: &Facts,
    threads: usize,
) -> Result<Vec<Box<dyn Runner>>> {
    let worker = PythonWorker { python: options.python.clone(), worker: worker.to_owned() };
    let kinds = if options.kinds.is_empty() { worker.kinds(&CancelToken::new())? } else { options.kinds.clone() };
    let directory = files.directory().context("a peer reads the model's directory, and this model has none")?;
    let cache = cache_dir()?.join("bench").join("peers");
    let runner = |kind| {
        let (worker, directory, cache) = (worker.clone(), directory.to_owned(), cache.clone());
        let peer = PythonPeer { worker, kind, directory, cache, threads, vocab_size: facts.config.vocab_size };
        Box::new(peer) as Box<dyn Runner>
    };
    Ok(kinds.into_iter().map(runner).collect())
}

/// The checkpoint as an int4 graph with a `genai_config.json`, made once for each content of its weights.
fn genai_export(files: &ModelFiles, facts: &Facts) -> Result<PathBuf> {
    let key: String = facts.hashed.iter().map(|file| &file.sha256[..8]).collect::<Vec<_>>().join("-");
    let directory = cache_dir()?.join("bench").join(format!("genai-int4-{}-{key}", env!("CARGO_PKG_VERSION")));
    if !directory.join("genai_config.json").is_file() {
        tandem::export(files, &ExportOptions::new(&directory, DType::Int4))?;
    }
    Ok(directory)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
