//! `tandem adapter train`: an adapter from conversations.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::adapters::{
    Conversation, TrainData, TrainEvent, TrainOptions, TrainPlan, TrainedAdapter, UpdateReport, read_conversations,
};
use tandem::{CancelToken, Error, LoadOptions};
use tandem_bench::peak_rss_bytes;

use super::checkpoint;
use crate::args::{TrainArgs, TrainMethod};
use crate::failure::FAILED;
use crate::figures::bytes;
use crate::interrupt::Interrupts;
use crate::output::{Output, Progress};

/// What `--json` prints.
#[derive(Serialize)]
struct TrainReport {
    adapter: String,
    steps: usize,
    n_modules: usize,
    /// Mean losses of a target in nats; null without held-out conversations.
    held_out_loss_before: Option<f64>,
    held_out_loss_after: Option<f64>,
    /// The mean loss of each update's targets.
    losses: Vec<f64>,
    tokens_per_s: Option<f64>,
    planned_bytes: u64,
    peak_rss_bytes: Option<u64>,
    train_ms: u64,
}

pub(super) fn train(args: TrainArgs, output: &Output) -> Result<ExitCode> {
    let files = checkpoint(&args.base, output)?;
    let data = TrainData {
        conversations: conversations(&args.data)?,
        held_out: args.held_out.as_deref().map(conversations).transpose()?,
        max_tokens: args.method.max_tokens.get(),
    };
    let plan = TrainPlan {
        options: args.method.options(),
        directory: args.directory.clone(),
        evaluate_every: args.method.evaluate_every,
        save_every: args.method.save_every,
        resume: args.resume,
        no_memory_check: args.no_memory_check,
        cancel: CancelToken::new(),
    };
    let load = LoadOptions::new().with_device(args.device).with_threads(args.threads);
    let interrupts = Interrupts::install(plan.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let mut shown = Shown::new(plan.options.steps, output);
    interrupts.arm();
    let trained = tandem::adapters::train(&files, &load, &data, &plan, &mut |event| shown.tell(&event));
    interrupts.disarm();
    shown.progress.take();
    match trained {
        Ok(trained) => shown.finish(&trained),
        Err(Error::Cancelled) if !output.is_json() => {
            output.note(&match shown.step {
                0 => "stopped before the first update was made".to_owned(),
                n => format!("stopped after {n} updates; the same command with `--resume` goes on"),
            });
            Ok(ExitCode::from(FAILED))
        }
        Err(error) => Err(error.into()),
    }
}

fn conversations(path: &Path) -> Result<Vec<Conversation>> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| {
        Error::bad_file(&*name, "cannot be read", error).with_hint("name a file with one conversation a line")
    })?;
    Ok(read_conversations(BufReader::new(file), &name)?)
}

impl TrainMethod {
    fn options(&self) -> TrainOptions {
        TrainOptions {
            rank: self.rank.get(),
            alpha: self.alpha.unwrap_or(2.0 * self.rank.get() as f64),
            targets: self.targets.clone(),
            steps: self.steps.get(),
            batch: self.batch.get(),
            accumulate: self.accumulate.get(),
            learning_rate: self.learning_rate,
            warmup: self.warmup.unwrap_or(self.steps.get() / 20),
            weight_decay: self.weight_decay,
            clip: self.clip,
            seed: self.seed,
        }
    }
}

/// How far it is, shown and kept.
struct Shown<'o> {
    output: &'o Output,
    progress: Option<Progress>,
    started: Instant,
    n_steps: usize,
    step: usize,
    losses: Vec<f64>,
    /// Of the updates so far.
    n_tokens: usize,
    time: Duration,
    planned_bytes: u64,
}

impl<'o> Shown<'o> {
    fn new(n_steps: usize, output: &'o Output) -> Self {
        let progress = Some(output.progress("reading the conversations"));
        let (started, time) = (Instant::now(), Duration::ZERO);
        Self { output, progress, started, n_steps, step: 0, losses: Vec::new(), n_tokens: 0, time, planned_bytes: 0 }
    }

    fn tell(&mut self, event: &TrainEvent) {
        match event {
            TrainEvent::Ready { texts: (n, n_tokens, n_targets), n_held_out, n_cut, n_parameters, step, planned_bytes } => {
                (self.step, self.planned_bytes) = (*step, *planned_bytes);
                let resumed = if *step > 0 { format!(", going on after update {step}") } else { String::new() };
                self.output.note(&format!(
                    "{n} texts of {n_tokens} tokens, {n_targets} to be learned; {n_held_out} held out; {n_parameters} parameters; about \
                     {} of memory{resumed}",
                    bytes(*planned_bytes)
                ));
                if *n_cut > 0 {
                    self.output.note(&format!("warning: {n_cut} texts were cut at the most tokens; `--max-tokens` sets them"));
                }
            }
            TrainEvent::Updated(UpdateReport { step, loss, learning_rate, n_tokens, .. }, time) => {
                self.step = *step;
                self.losses.push(*loss);
                self.n_tokens += n_tokens;
                self.time += *time;
                let left = self.time.as_secs_f64() / self.losses.len() as f64 * (self.n_steps - step) as f64;
                let speed = self.tokens_per_s().unwrap_or(0.0);
                if let Some(progress) = &self.progress {
                    let n = self.n_steps;
                    progress.say(format!("update {step} of {n}: loss {loss:.3}, {speed:.0} tokens/s, {left:.0} s left"));
                }
                self.output.detail(&format!("update {step}: loss {loss:.4}, learning rate {learning_rate:.2e}"));
            }
            TrainEvent::Evaluated { step, loss } => {
                self.output.note(&format!("held-out loss after {step} updates: {loss:.4} nats, perplexity {:.2}", loss.exp()));
            }
            _ => {}
        }
    }

    fn tokens_per_s(&self) -> Option<f64> {
        (self.time > Duration::ZERO).then(|| self.n_tokens as f64 / self.time.as_secs_f64())
    }

    fn finish(self, trained: &TrainedAdapter) -> Result<ExitCode> {
        let directory = trained.directory.display().to_string();
        let (before, after) = trained.held_out.unzip();
        let tokens_per_s = self.tokens_per_s();
        if self.output.is_json() {
            self.output.document(&TrainReport {
                adapter: directory,
                steps: trained.steps,
                n_modules: trained.adapter.factors().len(),
                held_out_loss_before: before,
                held_out_loss_after: after,
                losses: self.losses,
                tokens_per_s,
                planned_bytes: self.planned_bytes,
                peak_rss_bytes: peak_rss_bytes(),
                train_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        self.output.line(&self.output.for_stdout(&directory))?;
        let share = before.zip(after).map_or(String::new(), |(before, after)| {
            format!("; held-out loss {before:.3} to {after:.3} nats, {:.0} %", 100.0 * after / before)
        });
        let speed = tokens_per_s.map_or(String::new(), |speed| format!(", {speed:.0} tokens/s"));
        self.output.note(&format!("{} updates in {:.0} s{speed}{share}", trained.steps, self.started.elapsed().as_secs_f64()));
        Ok(ExitCode::SUCCESS)
    }
}
