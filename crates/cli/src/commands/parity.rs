//! `tandem parity`: whether a model stays the same on another engine, device or dtype.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tandem::adapters::ScaledAdapter;
use tandem::embedding::{Embedder, is_embedder};
use tandem::{CancelToken, EmbeddingModel, Error, Model, ModelFiles, OpenedModel, Resolved, Resolver, Settings, TextModel};
use tandem_bench::parity::{
    Corpus, EmbedderSide, PairReport, Parity, ParityOptions, ParityReport, Problem, Side, Thresholds, Tone, Verdict, lines, page,
};
use tandem_bench::record::write_whole;
use tandem_bench::shape::is_random;

use crate::args::{ComputeArgs, DTypeArg, DeviceChoice, EngineOptions, KvArgs, OnnxArgs, ParityArgs, SideChoice, WeightsArgs};
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
    let (load_model, load_embedder) = (|| reference.load_with_other_threads(), |threads| reference.load_embedder(threads));
    let side = reference.side(&Again { model: &load_model, embedder: &load_embedder });
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
        let (load_model, load_embedder) = (|| candidate.load_with_other_threads(), |threads| candidate.load_embedder(threads));
        let side = candidate.side(&Again { model: &load_model, embedder: &load_embedder });
        Ok(parity.compare(&side, &mut |step| progress.say(format!("{}: {step}", choice.text))))
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
            kv: KvArgs { kv_dtype: choice.kv_dtype }.or(args.kv),
            adapter: args.adapter.clone(),
            onnx: OnnxArgs {
                library: args.library.clone().or(self.configured.onnx.library.clone()),
                kernels: choice.kernels,
                ..OnnxArgs::default()
            },
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
        let embeds = is_embedder(&files, &files.model_config()?);
        if embeds {
            settings = settings.for_embeddings();
        }
        settings = engine::find_adapters(self.resolver, settings, self.output)?;
        let opened = OpenedModel::open(files, &settings)?;
        let is_random = args.random_weights || is_random(opened.config());
        let adapters = opened.adapters().to_vec();
        let model = match embeds {
            true => LoadedModel::Embedding(Box::new(opened.load_embedder(None)?)),
            false => LoadedModel::Text(Box::new(opened.load()?)),
        };
        Ok(Loaded { name: choice.text.clone(), model, adapters, settings, is_random })
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
    model: LoadedModel,
    adapters: Vec<ScaledAdapter>,
    settings: Settings,
    is_random: bool,
}

/// What a side is compared as.
enum LoadedModel {
    Text(Box<TextModel>),
    Embedding(Box<EmbeddingModel>),
}

/// What loads a side once more.
struct Again<'l> {
    model: &'l dyn Fn() -> tandem::Result<Arc<dyn Model>>,
    embedder: &'l dyn Fn(NonZeroUsize) -> tandem::Result<Embedder>,
}

impl Loaded {
    fn side<'l>(&'l self, again: &Again<'l>) -> Side<'l> {
        let (name, numerics, is_random) = (self.name.clone(), self.settings.load.numerics, self.is_random);
        match &self.model {
            LoadedModel::Text(model) => Side {
                name,
                model: &**model.model(),
                files: model.files(),
                adapters: &self.adapters,
                tokenizer: model.tokenizer(),
                template: model.template(),
                end_tokens: model.end_tokens(),
                numerics,
                is_random,
                embedder: None,
                other_threads: Some(again.model),
            },
            LoadedModel::Embedding(model) => Side {
                name,
                model: &**model.embedder().model(),
                files: model.files(),
                adapters: &self.adapters,
                tokenizer: model.embedder().tokenizer(),
                template: None,
                end_tokens: &[],
                numerics,
                is_random,
                embedder: Some(EmbedderSide { embedder: model.embedder(), load: Some(again.embedder) }),
                other_threads: None,
            },
        }
    }

    fn files(&self) -> &ModelFiles {
        match &self.model {
            LoadedModel::Text(model) => model.files(),
            LoadedModel::Embedding(model) => model.files(),
        }
    }

    /// One thread where there are several, two where there is one.
    fn load_with_other_threads(&self) -> tandem::Result<Arc<dyn Model>> {
        let threads = match &self.model {
            LoadedModel::Text(model) => model.info().threads,
            LoadedModel::Embedding(model) => model.info().threads,
        };
        let load = self.settings.load.clone().with_threads(NonZeroUsize::new(if threads == 1 { 2 } else { 1 }));
        let settings = Settings { load, ..self.settings.clone() };
        Ok(OpenedModel::open(self.files().clone(), &settings)?.load_model()?.0)
    }

    /// The same embedding model anew.
    fn load_embedder(&self, threads: NonZeroUsize) -> tandem::Result<Embedder> {
        let load = self.settings.load.clone().with_threads(Some(threads));
        let settings = Settings { load, ..self.settings.clone() };
        Ok(OpenedModel::open(self.files().clone(), &settings)?.load_embedder(None)?.embedder().clone())
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
