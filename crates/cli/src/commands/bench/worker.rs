//! One process of a bench: it does the one piece of work that standard input asks for.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tandem::{ModelConfig, ModelFiles, OpenedModel, Resolver, Settings};
use tandem_bench::measure::Subject;
use tandem_bench::record::StepReads;
use tandem_bench::work::{Answer, EngineChoice, Request, work as work_on};

use super::workload;
use crate::failure::{FAILED, Failure};

/// Reads the request and writes the answer, a failure too.
pub(super) fn work() -> Result<ExitCode> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
    let request: Request = serde_json::from_str(&text).context("the request is not valid")?;
    let answer = work_on(&request, &mut || load(&request.reference, &request.engine));
    let answer = answer.unwrap_or_else(|error| {
        let Failure { message, causes, hint } = Failure::new(&error.into());
        Answer::Failed { message: [vec![message], causes].concat().join(": "), hint }
    });
    let text = serde_json::to_string(&answer).context("the answer cannot be written")?;
    std::io::stdout().write_all(text.as_bytes()).context("standard output cannot be written")?;
    Ok(if matches!(answer, Answer::Failed { .. }) { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// The model, and what a step reads of its weights where it generates.
fn load(reference: &str, choice: &EngineChoice) -> tandem::Result<(Subject, Option<StepReads>)> {
    let files = tandem::find(reference)?;
    let config = files.model_config()?;
    if choice.is_embedder {
        let settings = Settings { backend: choice.backend, load: choice.load.clone(), ..Settings::default() };
        let pooling = workload::pooling(&files, &config);
        let model = OpenedModel::open(files, &settings.for_embeddings())?.load_embedder(pooling)?;
        return Ok((Subject::Embedder(Box::new(model.embedder().clone())), None));
    }
    let reads = match &choice.load.onnx.graph {
        Some(_) => StepReads::Share(share_read(&config)),
        None => StepReads::Weights(weights_read(&config)),
    };
    if choice.is_transformers {
        return Ok((Subject::Generator(tandem::backends::peer(&files, &choice.load)?), Some(reads)));
    }
    let adapters = choice.adapters.iter().map(|adapter| adapter.parse()).collect::<tandem::Result<_>>()?;
    let settings = Settings { backend: choice.backend, load: choice.load.clone(), adapters, ..Settings::default() };
    let settings = Resolver::from_env()?.find_adapters(&settings)?;
    Ok((Subject::Generator(OpenedModel::open(files, &settings)?.load_model()?.0), Some(reads)))
}

/// All weights but those of an embedding that is not the head as well: of it, a step reads one row.
fn weights_read(config: &ModelConfig) -> u64 {
    let embedding = config.vocab_size as u64 * config.hidden_size as u64;
    config.n_parameters() - if config.tie_word_embeddings { 0 } else { embedding }
}

/// The same as a share of all weights, 0 to 1.
pub(super) fn share_read(config: &ModelConfig) -> f64 {
    weights_read(config) as f64 / config.n_parameters().max(1) as f64
}

/// Whether a backend can make a graph or weights of any dtype from these files.
pub(super) fn is_checkpoint(files: &ModelFiles) -> bool {
    !files.weights.is_empty()
}
