//! `tandem score`: how probable a model finds a text.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::{TextModel, TokenId, TokenScore};

use crate::args::{EngineOptions, ScoreArgs};
use crate::config::Config;
use crate::engine::{AdapterRow, load, session_options};
use crate::interrupt::Interrupts;
use crate::output::{BOLD, DIM, Output};
use crate::prompt;

/// What `--json` prints.
#[derive(Serialize)]
struct ScoreReport<'r> {
    model: &'r str,
    backend: String,
    engine_version: &'r str,
    device: String,
    dtype: String,
    /// In what keys and values were held.
    kv_dtype: Option<String>,
    adapters: Vec<AdapterRow>,
    n_tokens: usize,
    /// The exponential of the mean negative log-probability; null when no token has one.
    perplexity: Option<f64>,
    tokens: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: TokenId,
    /// The texts of all tokens together are the text; empty while a character is incomplete.
    text: String,
    logprob: Option<f64>,
    /// Tokens that are more probable.
    rank: Option<usize>,
    top: Vec<Top>,
}

#[derive(Serialize)]
struct Top {
    id: TokenId,
    logprob: f64,
}

/// A token of a published tokenizer has as many bytes of text, or more.
const BYTES_OF_TOKEN: usize = 3;

pub(crate) fn score(args: ScoreArgs, output: &Output) -> Result<ExitCode> {
    let config = Config::load()?;
    let engine = args.kv.within(args.engine).or(config.engine);
    let engine = EngineOptions { weights: engine.weights.or_published(), ..engine };
    let text = prompt::read(args.text, "text")?;
    let loaded = load(&args.model.reference, &config.catalog, &engine, text.len() / BYTES_OF_TOKEN, output)?;
    let model = &loaded.model;
    let tokens = model.raw_prompt(&text)?;
    let session = session_options(&engine);
    let interrupts = Interrupts::install(session.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let mut sequence = model.new_sequence(&session)?;
    interrupts.arm();
    let progress = output.progress("scoring");
    let scores = tandem::score(&mut sequence, &tokens, args.top, &mut |n| {
        progress.say(format!("scoring: {n} of {} tokens", tokens.len()));
    });
    drop(progress);
    let scores = scores?;
    let perplexity = tandem::perplexity(&scores);
    let texts = texts(model, &tokens)?;
    if output.is_json() {
        let info = model.info();
        output.document(&ScoreReport {
            model: &info.name,
            backend: info.backend.to_string(),
            engine_version: &info.engine_version,
            device: info.device.to_string(),
            dtype: info.dtype.to_string(),
            kv_dtype: info.kv_dtype.map(|dtype| dtype.to_string()),
            adapters: AdapterRow::all(&info.adapters),
            n_tokens: tokens.len(),
            perplexity,
            tokens: scores.into_iter().zip(texts).map(|(score, text)| row(score, text)).collect(),
        })?;
    } else {
        table(model, &scores, &texts, output)?;
        let perplexity = perplexity.map_or_else(|| "none: the text has one token".into(), |value| format!("{value:.4}"));
        output.line(&format!("\n{} {perplexity}", output.paint(BOLD, "perplexity")))?;
        output.line(&format!("{} {}", output.paint(BOLD, "tokens"), tokens.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The text that became certain with each token.
fn texts(model: &TextModel, tokens: &[TokenId]) -> tandem::Result<Vec<String>> {
    let mut stream = model.tokenizer().stream(false);
    let mut texts = tokens.iter().map(|&id| stream.push(id)).collect::<tandem::Result<Vec<_>>>()?;
    if let Some(last) = texts.last_mut() {
        last.push_str(&stream.finish()?);
    }
    Ok(texts)
}

fn row(score: TokenScore, text: String) -> Row {
    let top = score.top.into_iter().map(|(id, logprob)| Top { id, logprob }).collect();
    Row { id: score.id, text, logprob: score.logprob, rank: score.rank, top }
}

fn table(model: &TextModel, scores: &[TokenScore], texts: &[String], output: &Output) -> Result<()> {
    output.line(&output.paint(BOLD, &format!("{:>7}  {:>9}  {:>6}  {:<18}  most probable", "id", "logprob", "rank", "text")))?;
    for (score, text) in scores.iter().zip(texts) {
        let logprob = score.logprob.map_or_else(|| "-".into(), |value| format!("{value:.4}"));
        let rank = score.rank.map_or_else(|| "-".into(), |rank| rank.to_string());
        let mut top = Vec::with_capacity(score.top.len());
        for &(id, logprob) in &score.top {
            top.push(format!("{} {logprob:.2}", quoted(&model.tokenizer().decode(&[id], false)?)));
        }
        let line = format!("{:>7}  {logprob:>9}  {rank:>6}  {:<18}", score.id, quoted(text));
        output.line(&format!("{}  {}", output.for_stdout(&line), output.paint(DIM, &top.join("  "))))?;
    }
    Ok(())
}

/// In quotes, on one line.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}
