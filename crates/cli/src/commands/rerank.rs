//! `tandem rerank`: documents by how well they answer a query.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::rerank::{DocumentScore, RerankOptions};
use tandem::{CancelToken, RerankerModel};

use super::embed::input::{Place, Texts, placed};
use crate::args::RerankArgs;
use crate::config::Config;
use crate::engine::{AdapterRow, load_reranker};
use crate::figures::{counted, per_second};
use crate::interrupt::Interrupts;
use crate::output::{BOLD, DIM, Output};

/// Documents that are scored between two looks at the progress.
const TOGETHER: usize = 256;

/// What `--json` prints.
#[derive(Serialize)]
struct RerankReport<'r> {
    model: &'r str,
    backend: String,
    engine_version: &'r str,
    device: String,
    dtype: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adapters: Vec<AdapterRow>,
    activation: &'static str,
    max_tokens: usize,
    /// What follows a rule and not the model's files.
    remarks: &'r [String],
    query: &'r str,
    n_documents: usize,
    n_truncated: usize,
    /// The best first.
    results: Vec<Row<'r>>,
}

#[derive(Serialize)]
struct Row<'r> {
    /// The document, counted from 0.
    index: usize,
    score: f64,
    logit: f32,
    n_tokens: usize,
    truncated: bool,
    text: &'r str,
}

pub(crate) fn rerank(args: RerankArgs, output: &Output) -> Result<ExitCode> {
    let config = Config::load()?;
    let engine = args.engine.clone().or(config.engine);
    let (documents, places) = documents(Texts::open(args.documents.clone(), args.input.as_deref(), &args.field)?)?;
    let model = load_reranker(&args.model.reference, &config.catalog, &engine, output)?;
    for remark in &model.config().remarks {
        output.note(remark);
    }
    let cancel = CancelToken::new();
    let options = RerankOptions::new()
        .with_truncate(args.truncate_pair)
        .with_instruction(args.instruction.clone())
        .with_cancel(cancel.clone());
    let interrupts = Interrupts::install(cancel).context("Ctrl-C cannot be listened to")?;
    interrupts.arm();
    let started = Instant::now();
    let scores = scores(&model, &args.query, (&documents, &places), &options, output)?;
    let (time, n_tokens) = (started.elapsed(), scores.iter().map(|score| score.n_tokens).sum::<usize>());
    let n_truncated = scores.iter().filter(|score| score.n_cut > 0).count();
    let mut best = scores;
    best.sort_by(|one, other| other.logit.total_cmp(&one.logit).then(one.index.cmp(&other.index)));
    best.truncate(args.top.unwrap_or(usize::MAX));
    if output.is_json() {
        report(&args, &model, &documents, n_truncated, &best, output)?;
    } else {
        table(&documents, &best, output)?;
    }
    if n_truncated > 0 {
        let max_tokens = model.config().max_tokens;
        output.note(&format!("{n_truncated} of {} pairs were longer than {max_tokens} tokens and were cut", documents.len()));
    }
    let speed = counted(n_tokens, "token", per_second(n_tokens, time));
    output.note(&format!("{} · {speed}", counted(documents.len(), "document", per_second(documents.len(), time))));
    Ok(ExitCode::SUCCESS)
}

/// The documents, and where each stands.
fn documents(mut texts: Texts) -> Result<(Vec<String>, Vec<Place>)> {
    let (mut documents, mut places) = (Vec::new(), Vec::new());
    while let Some(document) = texts.next() {
        documents.push(document?);
        places.push(texts.place(places.len()));
    }
    Ok((documents, places))
}

fn scores(
    model: &RerankerModel,
    query: &str,
    (documents, places): (&[String], &[Place]),
    options: &RerankOptions,
    output: &Output,
) -> Result<Vec<DocumentScore>> {
    let progress = output.progress("reranking");
    let mut scores = Vec::with_capacity(documents.len());
    for together in documents.chunks(TOGETHER) {
        let first = scores.len();
        let some = model.scores(query, together, options).map_err(|error| placed(error, |i| places[first + i].to_string()))?;
        scores.extend(some.into_iter().map(|score| DocumentScore { index: first + score.index, ..score }));
        progress.say(format!("reranking: {} of {} documents", scores.len(), documents.len()));
    }
    Ok(scores)
}

fn report(
    args: &RerankArgs,
    model: &RerankerModel,
    documents: &[String],
    n_truncated: usize,
    best: &[DocumentScore],
    output: &Output,
) -> Result<()> {
    let (info, config) = (model.info(), model.config());
    let row = |score: &DocumentScore| Row {
        index: score.index,
        score: score.score,
        logit: score.logit,
        n_tokens: score.n_tokens,
        truncated: score.n_cut > 0,
        text: &documents[score.index],
    };
    output.document(&RerankReport {
        model: &info.name,
        backend: info.backend.to_string(),
        engine_version: &info.engine_version,
        device: info.device.to_string(),
        dtype: info.dtype.to_string(),
        adapters: AdapterRow::all(&info.adapters),
        activation: config.activation.name(),
        max_tokens: config.max_tokens,
        remarks: &config.remarks,
        query: &args.query,
        n_documents: documents.len(),
        n_truncated,
        results: best.iter().map(row).collect(),
    })
}

fn table(documents: &[String], best: &[DocumentScore], output: &Output) -> Result<()> {
    output.line(&output.paint(BOLD, &format!("{:>8}  {:>9}  {:>8}  text", "score", "logit", "document")))?;
    for score in best {
        let text: String = documents[score.index].chars().take(70).collect();
        let cut = if score.n_cut > 0 { " (cut)" } else { "" };
        let line = format!("{:>8.4}  {:>9.4}  {:>8}", score.score, score.logit, score.index + 1);
        output.line(&format!("{line}  {}{cut}", output.paint(DIM, &format!("{text:?}"))))?;
    }
    Ok(())
}
