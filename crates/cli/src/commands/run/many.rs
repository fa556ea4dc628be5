//! `tandem run --prompts`: a text for each line of a file, computed together.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::catalog::Catalog;
use tandem::machine::Memory;
use tandem::scheduler::{Ended, Request, RequestId, Reuse, SchedulerFigures, SchedulerOptions, Update};
use tandem::{CancelToken, Event, FinishReason, GenerateOptions, TokenId};

use super::prompts::{self, Line};
use super::{Outcome, RunReport, prompt_tokens, tokens_at_most};
use crate::args::{EngineOptions, GenerationOptions, ManyOptions};
use crate::engine::{Loaded, load};
use crate::failure::{FAILED, Failure};
use crate::figures::{counted, per_second};
use crate::generation::reported_seed;
use crate::interrupt::Interrupts;
use crate::output::Output;

/// Prompts that are computed together when no number is given.
const PARALLEL: usize = 8;

/// What `--json` prints.
#[derive(Serialize)]
struct ManyReport<'r> {
    /// Those of single runs, in the order of the file; of one that failed its error.
    results: Vec<RowReport<'r>>,
    parallel: usize,
    /// All prompts together.
    total_ms: f64,
    /// Tokens of all prompts over that time.
    tokens_per_s: Option<f64>,
    n_prefilled: u64,
    /// Tokens of prompts that need not be computed, since another began with them.
    n_reused: u64,
    n_steps: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RowReport<'r> {
    Done(Box<RunReport<'r>>),
    Failed { prompt_tokens: &'r [TokenId], error: Failure },
}

/// A line of the file, and what becomes of it.
struct Row {
    prompt_tokens: Vec<TokenId>,
    options: GenerateOptions,
    id: Option<RequestId>,
    text: String,
    outcome: Option<Result<Outcome>>,
}

pub(super) fn run(
    reference: &str,
    many: &ManyOptions,
    (generation, engine): (&GenerationOptions, &EngineOptions),
    catalog: &Catalog,
    output: &Output,
) -> Result<ExitCode> {
    let path = many.prompts.as_deref().unwrap_or(std::path::Path::new("-"));
    // Before the model is loaded, so that a bad line fails at once.
    let (file, lines) = prompts::read(path)?;
    let parallel = many.parallel.map_or(PARALLEL, usize::from);
    let loaded = load(reference, catalog, engine, tokens_together(&lines, generation, parallel), output)?;
    let mut rows = rows(&loaded, &file, lines, generation, output)?;

    let cancel = CancelToken::new();
    let interrupts = Interrupts::install(cancel.clone()).context("Ctrl-C cannot be listened to")?;
    interrupts.arm();
    let usable = Memory::read().usable();
    let mut limits = SchedulerOptions::new(parallel).with_context_length(engine.context.map(usize::from)).with_memory(usable);
    if many.no_prefix_cache {
        limits.reuse = Reuse::Nothing;
    }
    let started = Instant::now();
    let figures = serve(&loaded, &mut rows, limits, &cancel, output)?;
    let time = started.elapsed();

    if output.is_json() {
        output.document(&report(&loaded, &rows, parallel, time, &figures))?;
    } else {
        output.note(&line(&loaded, &rows, time, &figures));
    }
    let is_done = |row: &Row| matches!(&row.outcome, Some(Ok(outcome)) if outcome.reason != FinishReason::Cancelled);
    Ok(if rows.iter().all(is_done) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// About as many tokens as the longest of `lines` hold together.
fn tokens_together(lines: &[Line], generation: &GenerationOptions, parallel: usize) -> usize {
    let more = generation.max_tokens.unwrap_or(0);
    let mut tokens: Vec<usize> = lines.iter().map(|line| tokens_at_most(&line.prompt).saturating_add(more)).collect();
    tokens.sort_unstable_by(|a, b| b.cmp(a));
    tokens.iter().take(parallel).fold(0, |sum: usize, n| sum.saturating_add(*n))
}

/// Each line with its tokens. Where no seed is given, each draws one.
fn rows(loaded: &Loaded, file: &str, lines: Vec<Line>, generation: &GenerationOptions, output: &Output) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(lines.len());
    for Line { number, prompt } in lines {
        let options = generation.resolve(&loaded.model)?;
        if rows.is_empty() {
            generation.remark_on(&options, output);
        }
        let prompt_tokens = prompt_tokens(&loaded.model, generation, prompt)
            .with_context(|| format!("`{file}`: line {number} cannot be used"))?;
        rows.push(Row { prompt_tokens, options, id: None, text: String::new(), outcome: None });
    }
    Ok(rows)
}

/// Generates all of `rows`; unless the result is one document, each text is shown as soon as those before it are.
fn serve(
    loaded: &Loaded,
    rows: &mut [Row],
    limits: SchedulerOptions,
    cancel: &CancelToken,
    output: &Output,
) -> Result<SchedulerFigures> {
    let mut scheduler = loaded.model.scheduler(limits)?;
    for row in &mut *rows {
        let request = Request::new(row.prompt_tokens.clone(), row.options.clone()).with_cancel(cancel.clone());
        match scheduler.submit(request) {
            Ok(id) => row.id = Some(id),
            Err(error) => row.outcome = Some(Err(error.into())),
        }
    }
    let progress = output.progress(format!("0 of {} prompts are done", rows.len()));
    let mut n_shown = show(rows, 0, output)?;
    let mut n_said = 0;
    while !scheduler.is_idle() {
        for update in scheduler.step() {
            if let Some(row) = rows.iter_mut().find(|row| row.id == Some(update.id)) {
                row.take(update);
            }
        }
        let n_done = rows.iter().filter(|row| row.outcome.is_some()).count();
        progress.say(format!("{n_done} of {} prompts are done, {} run", rows.len(), scheduler.figures().n_running));
        if n_done > n_said {
            output.detail(&format!("{n_done} of {} prompts are done", rows.len()));
            n_said = n_done;
        }
        n_shown = show(rows, n_shown, output)?;
    }
    Ok(scheduler.figures())
}

/// Shows the texts from number `first` on that are done, up to the first that is not, and returns its number.
fn show(rows: &[Row], first: usize, output: &Output) -> Result<usize> {
    let done = rows[first..].iter().take_while(|row| row.outcome.is_some());
    let mut n_shown = first;
    for row in done {
        n_shown += 1;
        match &row.outcome {
            Some(Err(error)) if !output.is_json() => output.error(error),
            // Ctrl-C came before it began.
            Some(Ok(outcome)) if outcome.reason == FinishReason::Cancelled && outcome.tokens.is_empty() => {}
            Some(Ok(outcome)) if !output.is_json() => {
                output.model_text(&outcome.text)?;
                if !outcome.text.ends_with('\n') {
                    output.line("")?;
                }
            }
            _ => {}
        }
    }
    Ok(n_shown)
}

impl Row {
    fn take(&mut self, Update { event, ended, .. }: Update) {
        let mut reason = None;
        match event {
            Ok(Event::Token { text, .. }) => self.text += &text,
            Ok(Event::Finished { reason: why, text }) => {
                self.text += &text;
                reason = Some(why);
            }
            Ok(_) => {}
            Err(error) => self.outcome = Some(Err(error.into())),
        }
        if let (Some(reason), Some(Ended { tokens, timings, .. })) = (reason, ended) {
            self.outcome = Some(Ok(Outcome { tokens, text: std::mem::take(&mut self.text), reason, timings }));
        }
    }

    fn n_tokens(&self) -> usize {
        self.outcome.as_ref().and_then(|outcome| outcome.as_ref().ok()).map_or(0, |outcome| outcome.tokens.len())
    }
}

fn report<'r>(
    loaded: &'r Loaded,
    rows: &'r [Row],
    parallel: usize,
    time: Duration,
    figures: &SchedulerFigures,
) -> ManyReport<'r> {
    let result = |row: &'r Row| match &row.outcome {
        Some(Ok(outcome)) => {
            let report = RunReport::new(loaded, reported_seed(&row.options), &row.prompt_tokens, outcome);
            Some(RowReport::Done(Box::new(report)))
        }
        Some(Err(error)) => Some(RowReport::Failed { prompt_tokens: &row.prompt_tokens, error: Failure::new(error) }),
        None => None,
    };
    ManyReport {
        results: rows.iter().filter_map(result).collect(),
        parallel,
        total_ms: (time.as_secs_f64() * 1e6).round() / 1e3,
        tokens_per_s: per_second(rows.iter().map(Row::n_tokens).sum(), time),
        n_prefilled: figures.n_prefilled,
        n_reused: figures.n_reused,
        n_steps: figures.n_steps,
    }
}

/// `demo · candle cpu f32 · 12 prompts · 230 prompt tokens, 96 reused · 1180 tokens at 510/s`
fn line(loaded: &Loaded, rows: &[Row], time: Duration, figures: &SchedulerFigures) -> String {
    let (info, n_tokens) = (loaded.model.info(), rows.iter().map(Row::n_tokens).sum());
    let reused = if figures.n_reused > 0 { format!(", {} reused", figures.n_reused) } else { String::new() };
    let mut parts = vec![
        info.name.clone(),
        format!("{} {} {}", info.backend, info.device, info.dtype),
        counted(rows.len(), "prompt", None),
        counted(rows.iter().map(|row| row.prompt_tokens.len()).sum(), "prompt token", None) + &reused,
        counted(n_tokens, "token", per_second(n_tokens, time)),
    ];
    let n_failed = rows.iter().filter(|row| matches!(row.outcome, Some(Err(_)))).count();
    let is_cancelled = |row: &&Row| matches!(&row.outcome, Some(Ok(outcome)) if outcome.reason == FinishReason::Cancelled);
    let n_cancelled = rows.iter().filter(is_cancelled).count();
    parts.extend((n_failed > 0).then(|| format!("{n_failed} failed")));
    parts.extend((n_cancelled > 0).then(|| format!("{n_cancelled} cancelled")));
    parts.join(" · ")
}
