//! `tandem parity`: whether a model stays the same on another engine, device or dtype.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tandem::{CancelToken, Error, Model, OpenedModel, Resolved, Resolver, Settings, TextModel};
use tandem_bench::parity::{
    Corpus, PairReport, Parity, ParityOptions, ParityReport, Problem, Side, Thresholds, Tone, Verdict, lines, page,
};
use tandem_bench::record::write_whole;
use tandem_bench::shape::is_random;

use crate::args::{ComputeArgs, DTypeArg, DeviceChoice, EngineOptions, OnnxArgs, ParityArgs, SideChoice, WeightsArgs};
use crate::config::Config;
use crate::engine;
use crate::failure::{FAILED, GATE_NOT_MET};
use crate::interrupt::Interrupts;
use crate::output::{BAD, BOLD, DIM, GOOD, Output};
use crate::resolve::{resolve, resolve_checkpoint};

pub(crate) fn parity(args: ParityArgs, output: &Output) -> Result<ExitCode> {
    let options = options(&args)?;
    let configured = Config::load()?.engine;
    let (resolver, model) = resolve_checkpoint(&args.model.reference, output)?;
    let cancel = options.cancel.clone();
    let run = Run { args: &args, model: &model, resolver: &resolver, configured: &configured, cancel, output };
    let interrupts = Interrupts::install(run.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    interrupts.arm();
    let corpus = options.corpus.name.clone();
    let reference = run.load(&args.reference)?;
    let load_again = || reference.load_with_other_threads();
    let side = reference.side(&load_again);
    let mut report = ParityReport::new(model.model.to_string(), corpus, &side);
    let mut parity = Parity::new(side, options)?;
    for choice in &args.candidates {
        match run.compare(choice, &mut parity) {
            Ok(pair) => report.pairs.push(pair),
            Err(error) => report.problems.push(problem(choice, &error)),
        }
        report.judge();
        write(&args, &mut report)?;
    }
    interrupts.disarm();
    finish(report, output)
}

/// What every comparison of this run has in common.
struct Run<'r> {
    args: &'r ParityArgs,
    model: &'r Resolved,
    resolver: &'r Resolver,
    configured: &'r EngineOptions,
    cancel: CancelToken,
    output: &'r Output,
}

impl Run<'_> {
    /// Measures one candidate.
    fn compare(&self, choice: &SideChoice, parity: &mut Parity<'_>) -> Result<PairReport> {
        let candidate = self.load(choice)?;
        let progress = self.output.progress(format!("comparing {}", choice.text));
        let load_again = || candidate.load_with_other_threads();
        Ok(parity.compare(&candidate.side(&load_again), &mut |step| progress.say(format!("{}: {step}", choice.text))))
    }

    fn load(&self, choice: &SideChoice) -> Result<Loaded> {
        let args = self.args;
        let options = EngineOptions {
            weights: WeightsArgs {
                backend: Some(choice.backend),
                dtype: choice.dtype.map(DTypeArg::Exactly).or(Some(DTypeArg::Published)),
            },
            device: choice.device.map(DeviceChoice::Exactly),
            compute: ComputeArgs { threads: args.compute.threads.or(self.configured.compute.threads), ..args.compute },
            onnx: OnnxArgs { library: args.library.clone().or(self.configured.onnx.library.clone()), ..OnnxArgs::default() },
            ..EngineOptions::default()
        };
        let mut settings = engine::settings(&options, self.output)?;
        let progress = self.output.progress(format!("loading {}", choice.text));
        settings.load.progress = progress.listener();
        settings.load.cancel = self.cancel.clone();
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled.into());
        }
        let other = choice.path.as_deref().map(|path| resolve(self.resolver, path, &settings, self.output)).transpose()?;
        let files = self.resolver.find(other.as_ref().unwrap_or(self.model), &settings)?;
        let opened = OpenedModel::open(files, &settings)?;
        let is_random = args.random_weights || is_random(opened.config());
        let model = opened.load()?;
        Ok(Loaded { name: choice.text.clone(), model, settings, is_random })
    }
}

/// Why a candidate could not be compared.
fn problem(choice: &SideChoice, error: &anyhow::Error) -> Problem {
    let at = format!("candidate `{}`", choice.text);
    match error.downcast_ref::<Error>() {
        Some(error) => Problem::of(at, error),
        None => Problem::new(at, format!("{error:#}")),
    }
}

fn options(args: &ParityArgs) -> Result<ParityOptions> {
    Ok(ParityOptions {
        corpus: args.corpus.as_deref().map(Corpus::read).transpose()?.unwrap_or_else(Corpus::embedded),
        thresholds: args.thresholds.as_deref().map(Thresholds::read).transpose()?.unwrap_or_else(Thresholds::embedded),
        most_tokens: args.prompt_tokens.get(),
        n_generated: args.generate,
        n_generation_prompts: args.texts,
        seed: args.seed,
        bisect: args.bisect,
        cancel: CancelToken::new(),
    })
}

/// A side with all that belongs to it.
struct Loaded {
    name: String,
    model: TextModel,
    settings: Settings,
    is_random: bool,
}

impl Loaded {
    fn side<'l>(&'l self, load_again: &'l dyn Fn() -> tandem::Result<Arc<dyn Model>>) -> Side<'l> {
        Side {
            name: self.name.clone(),
            model: &**self.model.model(),
            files: self.model.files(),
            tokenizer: self.model.tokenizer(),
            template: self.model.template(),
            end_tokens: self.model.end_tokens(),
            numerics: self.settings.load.numerics,
            is_random: self.is_random,
            other_threads: Some(load_again),
        }
    }

    /// One thread where there are several, two where there is one.
    fn load_with_other_threads(&self) -> tandem::Result<Arc<dyn Model>> {
        let mut options = self.settings.load.clone();
        options.threads = NonZeroUsize::new(if self.model.info().threads == 1 { 2 } else { 1 });
        tandem::backends::backend(self.settings.backend, options.onnx.library.clone())?.load(self.model.files(), &options)
    }
}

/// Writes the files that were asked for. One that cannot be written is a problem of the report; standard output still has it.
fn write(args: &ParityArgs, report: &mut ParityReport) -> Result<()> {
    let mut contents = Vec::new();
    if let Some(path) = &args.report {
        contents.push((path, serde_json::to_vec_pretty(report)?));
    }
    if let Some(path) = &args.html {
        contents.push((path, page(report).render().into_bytes()));
    }
    for (path, content) in contents {
        let Err(error) = write_whole(path, &content) else { continue };
        let at = format!("report `{}`", path.display());
        if !report.problems.iter().any(|problem| problem.at == at) {
            report.problems.push(Problem::of(at, &error));
        }
    }
    report.judge();
    Ok(())
}

fn finish(report: ParityReport, output: &Output) -> Result<ExitCode> {
    if output.is_json() {
        output.document(&report)?;
    } else {
        for line in lines(&report) {
            let painted = match line.tone {
                Tone::Heading => output.paint(BOLD, &line.text),
                Tone::Good => output.paint(GOOD, &line.text),
                Tone::Bad => output.paint(BAD, &line.text),
                Tone::Aside => output.paint(DIM, &line.text),
                Tone::Plain => output.for_stdout(&line.text).into_owned(),
            };
            output.line(&painted)?;
        }
    }
    match report.verdict {
        Verdict::Same | Verdict::Close | Verdict::KnownDifferent => Ok(ExitCode::SUCCESS),
        Verdict::Different => Ok(ExitCode::from(GATE_NOT_MET)),
        Verdict::Incomplete => {
            let problems = report.problems.iter().chain(report.pairs.iter().flat_map(|pair| &pair.problems));
            let problems: Vec<&Problem> = problems.collect();
            let mut said = format!("not everything could be measured: {} problems", problems.len());
            if let Some(first) = problems.first() {
                said = format!("{said}, the first of them {}: {}", first.at, first.message);
            }
            output.error(&anyhow!(said));
            Ok(ExitCode::from(FAILED))
        }
    }
}
