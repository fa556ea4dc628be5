//! `tandem run`: text from a prompt.

mod many;
mod prompts;

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use tandem::{ChatMessage, Event, FinishReason, Generation, TextModel, Timings, TokenId};

use crate::args::{GenerationOptions, RunArgs};
use crate::config::Config;
use crate::engine::{AdapterRow, DTypeReport, Loaded, load, session_options};
use crate::failure::{FAILED, Usage};
use crate::figures::{self, TimingsReport};
use crate::generation::reported_seed;
use crate::interrupt::Interrupts;
use crate::output::{Output, Progress};
use crate::prompt;
use tandem_bench::peak_rss_bytes;

/// What `--json` prints.
#[derive(Serialize)]
struct RunReport<'r> {
    model: &'r str,
    backend: String,
    engine_version: &'r str,
    device: String,
    dtype: String,
    /// In what keys and values were held.
    kv_dtype: Option<String>,
    adapters: Vec<AdapterRow>,
    /// Null when there was nothing to choose.
    dtype_choice: Option<DTypeReport>,
    /// Null when the run was greedy: chance played no part.
    seed: Option<u64>,
    prompt_tokens: &'r [TokenId],
    /// An end token included.
    tokens: &'r [TokenId],
    text: &'r str,
    finish_reason: String,
    timings: TimingsReport,
    peak_rss_bytes: Option<u64>,
}

impl<'r> RunReport<'r> {
    fn new(loaded: &'r Loaded, seed: Option<u64>, prompt_tokens: &'r [TokenId], outcome: &'r Outcome) -> Self {
        let info = loaded.model.info();
        Self {
            model: &info.name,
            backend: info.backend.to_string(),
            engine_version: &info.engine_version,
            device: info.device.to_string(),
            dtype: info.dtype.to_string(),
            kv_dtype: info.kv_dtype.map(|dtype| dtype.to_string()),
            adapters: AdapterRow::all(&info.adapters),
            dtype_choice: loaded.dtype_report(),
            seed,
            prompt_tokens,
            tokens: &outcome.tokens,
            text: &outcome.text,
            finish_reason: outcome.reason.to_string(),
            timings: TimingsReport::new(loaded.model.load_time(), &outcome.timings),
            peak_rss_bytes: peak_rss_bytes(),
        }
    }
}

/// What came of a generation.
struct Outcome {
    tokens: Vec<TokenId>,
    text: String,
    reason: FinishReason,
    timings: Timings,
}

pub(crate) fn run(args: RunArgs, output: &Output) -> Result<ExitCode> {
    if args.generation.raw == Some(true) && args.generation.system.is_some() {
        return Err(Usage::new("`--system` has no place with `--raw`", "leave one of them out").into());
    }
    for (option, is_given) in [("parallel", args.many.parallel.is_some()), ("no-prefix-cache", args.many.no_prefix_cache)] {
        if is_given && args.many.prompts.is_none() {
            let message = format!("`--{option}` has no place without `--prompts`");
            return Err(Usage::new(message, "leave it out, or give a file of prompts").into());
        }
    }
    let speculation = &args.speculation;
    if args.many.prompts.is_some() && (speculation.lookup.is_some() || speculation.draft.is_some()) {
        let hint = "leave `--lookup` and `--draft` out: a batch already fills the pass";
        return Err(Usage::new("speculative decoding has no place with `--prompts`", hint).into());
    }
    let config = Config::load()?;
    let generation = args.generation.or(config.generation);
    let engine = args.kv.within(args.engine).or(config.engine);
    generation.validate()?;
    if args.many.prompts.is_some() {
        return many::run(&args.model.reference, &args.many, (&generation, &engine), &config.catalog, output);
    }
    // Before the model is loaded, so that a bad prompt fails at once.
    let prompt = prompt::read(args.prompt, "prompt")?;

    let expected = tokens_at_most(&prompt).saturating_add(generation.max_tokens.unwrap_or(0));
    let loaded = load(&args.model.reference, &config.catalog, &engine, expected, output)?;
    let model = &loaded.model;
    let options = generation.resolve(model)?;
    generation.remark_on(&options, output);
    let seed = reported_seed(&options);
    if let Some(seed) = seed {
        output.detail(&format!("seed {seed}"));
    }
    let prompt_tokens = prompt_tokens(model, &generation, prompt)?;
    let session = session_options(&engine);
    let interrupts = Interrupts::install(session.cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let mut sequence = model.new_sequence(&session)?;
    let context = sequence.context_length();
    let mut drafter = speculation.drafter(model, (&config.catalog, &engine), &session, context.min(expected), output)?;
    interrupts.arm();
    let mut generation = model.generate(&mut sequence, &prompt_tokens, options)?;
    if let Some(drafter) = drafter.as_deref_mut() {
        generation = generation.with_drafter(drafter)?;
    }
    let outcome = generate(generation, output)?;

    loaded.learn(sequence.tokens().len(), output);

    if output.is_json() {
        output.document(&RunReport::new(&loaded, seed, &prompt_tokens, &outcome))?;
    } else {
        output.note(&figures::line(model.info(), &outcome.timings, outcome.tokens.len(), Some(outcome.reason)));
    }
    Ok(if outcome.reason == FinishReason::Cancelled { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// About as many tokens as `prompt` becomes, rather too many: a token of a published tokenizer has three bytes of text and more, and a
/// template puts a few around it.
fn tokens_at_most(prompt: &str) -> usize {
    const OF_TEMPLATE: usize = 64;
    prompt.len() / 3 + OF_TEMPLATE
}

/// The prompt as the model is to see it.
fn prompt_tokens(model: &TextModel, generation: &GenerationOptions, prompt: String) -> tandem::Result<Vec<TokenId>> {
    if generation.raw == Some(true) {
        return model.raw_prompt(&prompt);
    }
    let system = generation.system.as_ref().map(ChatMessage::system);
    model.chat_prompt(&system.into_iter().chain([ChatMessage::user(prompt)]).collect::<Vec<_>>())
}

/// Runs `generation` to its end; unless the result is one document, its text is shown as it comes.
fn generate(mut generation: Generation<'_>, output: &Output) -> Result<Outcome> {
    let mut text = String::new();
    let mut reason = FinishReason::Cancelled;
    let mut progress = Some(output.progress("reading the prompt"));
    let mut show = |piece: &str, progress: &mut Option<Progress>| -> Result<()> {
        text += piece;
        if output.is_json() || piece.is_empty() {
            return Ok(());
        }
        progress.take();
        output.model_text(piece)
    };
    let mut n_tokens = 0;
    let mut failure = None;
    for event in generation.by_ref() {
        match event {
            Ok(Event::Prefilled { n_tokens, n_prompt }) => {
                if let Some(progress) = &progress {
                    progress.say(format!("reading the prompt: {n_tokens} of {n_prompt} tokens"));
                }
            }
            Ok(Event::Token { text, .. }) => {
                n_tokens += 1;
                if n_tokens == 1 {
                    output.detail("the prompt is read, the first token is there");
                }
                show(&text, &mut progress)?;
                if let Some(progress) = &progress {
                    progress.say(format!("generating: {n_tokens} tokens"));
                }
            }
            Ok(Event::Finished { reason: why, text }) => {
                show(&text, &mut progress)?;
                reason = why;
            }
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    drop(progress);
    if !output.is_json() && !text.is_empty() && !text.ends_with('\n') {
        output.line("")?;
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(Outcome { tokens: generation.tokens().to_vec(), text, reason, timings: generation.timings() }),
    }
}
