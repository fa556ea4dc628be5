//! `tandem fingerprint`: what makes a model's vectors what they are.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tandem::EmbeddingModel;
use tandem::embedding::{Arithmetic, EmbedOptions, PROBES, Space};

use crate::args::FingerprintArgs;
use crate::config::Config;
use crate::engine::load_embedder;
use crate::output::{BOLD, Output};

/// Values of a vector that are shown.
const SHOWN: usize = 8;

/// What `--json` prints.
#[derive(Serialize)]
struct FingerprintReport {
    model: String,
    id: String,
    space: Space,
    arithmetic: Arithmetic,
    /// Some texts and the first values of their vectors: a look at whether two machines agree.
    canaries: Vec<Canary>,
}

#[derive(Serialize)]
struct Canary {
    text: &'static str,
    n_tokens: usize,
    values: Vec<f32>,
}

pub(crate) fn fingerprint(args: FingerprintArgs, output: &Output) -> Result<ExitCode> {
    let config = Config::load()?;
    let engine = args.engine.or(config.engine);
    let model = load_embedder(&args.model.reference, &config.catalog, &engine, args.embedding.pooling(), output)?;
    for remark in &model.config().remarks {
        output.note(remark);
    }
    let options = args.embedding.options();
    let fingerprint = model.fingerprint(&options)?;
    let report = FingerprintReport {
        model: model.info().name.clone(),
        id: fingerprint.id(),
        space: fingerprint.space,
        arithmetic: fingerprint.arithmetic,
        canaries: canaries(&model, &options)?,
    };
    if output.is_json() {
        output.document(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.line(&output.paint(BOLD, &report.id))?;
    for part in [serde_json::to_value(&report.space)?, serde_json::to_value(&report.arithmetic)?] {
        for (name, value) in part.as_object().into_iter().flatten() {
            output.line(&output.for_stdout(&format!("  {:<15} {value}", name.replace('_', " "))))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Of texts without tokens there is none.
fn canaries(model: &EmbeddingModel, options: &EmbedOptions) -> Result<Vec<Canary>> {
    let with_tokens = PROBES.into_iter().filter(|text| model.embedder().tokenize(text, options).is_ok());
    let texts: Vec<&'static str> = with_tokens.collect();
    let embeddings = model.embed(&texts, options)?;
    let canary = |(i, vector): (usize, &[f32])| Canary {
        text: texts[i],
        n_tokens: embeddings.n_tokens[i],
        values: vector.iter().take(SHOWN).copied().collect(),
    };
    Ok(embeddings.vectors().enumerate().map(canary).collect())
}
