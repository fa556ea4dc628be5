//! What requests wait for: the first token of a prompt whose beginning is known, the time between tokens while a long prompt comes in, a
//! sequence that is restored from a file.
//!
//! `cargo run --release -p tandem --features candle --example request_speed -- MODEL BACKEND DTYPE [ROUNDS]`
#![allow(clippy::print_stdout, reason = "it is a program that prints")]

use std::num::NonZero;
use std::time::Instant;

use tandem::scheduler::{Request, Reuse, Scheduler, SchedulerOptions};
use tandem::{
    DType, Event, GenerateOptions, LoadOptions, SamplingOptions, SessionOptions, Settings, StopOptions, TextModel, TokenId,
};
use tandem_core::LogitsRequest;

type Failure = Box<dyn std::error::Error>;

/// Tokens that two prompts begin with.
const COMMON: usize = 1000;
/// Tokens of the prompt that comes in while others generate.
const LONG: usize = 2048;
/// Tokens of a sequence that is saved.
const SAVED: usize = 2000;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, backend, dtype, counts @ ..] = &arguments[..] else {
        return Err("usage: request_speed MODEL BACKEND DTYPE [ROUNDS]".into());
    };
    let rounds: usize = counts.first().map_or(Ok(4), |count| count.parse())?;
    let load = LoadOptions::new().with_threads(NonZero::new(2)).with_dtype(dtype.parse::<DType>()?);
    let model = tandem::load(reference.as_str(), &Settings { load, backend: Some(backend.parse()?), ..Settings::default() })?;
    let (mut reuse, mut restored) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        reuse.push(first_tokens(&model, round)?);
        restored.push(restore(&model, round)?);
    }
    println!("first token of a prompt of {COMMON} known tokens and 24 others, computed over reused: {}", Spread::of(reuse));
    println!("sequence of {SAVED} tokens, computed over restored: {}", Spread::of(restored));
    for n in [1, 4, 7] {
        let ratios = (0..rounds).map(|round| between_tokens(&model, n, round)).collect::<Result<Vec<f64>, _>>()?;
        println!("99th percentile between tokens of {n}, with a prompt of {LONG} over without: {}", Spread::of(ratios));
    }
    Ok(())
}

/// Seconds to the first token of a prompt, over those of another that begins alike.
fn first_tokens(model: &TextModel, round: usize) -> Result<f64, Failure> {
    let mut scheduler = scheduler(model, 1, Reuse::Prompts)?;
    let seconds = [0, 1].map(|which| {
        let mut prompt = tokens(model, COMMON, round);
        prompt.extend(tokens(model, 24, 1000 + which));
        let began = Instant::now();
        scheduler.submit(request(prompt, 1))?;
        while !scheduler.is_idle() {
            for update in scheduler.step() {
                update.event?;
            }
        }
        Ok::<f64, tandem::Error>(began.elapsed().as_secs_f64())
    });
    let [computed, reused] = seconds;
    Ok(computed? / reused?)
}

/// Seconds to compute a sequence, over those to restore it from a file.
fn restore(model: &TextModel, round: usize) -> Result<f64, Failure> {
    let (mut sequence, prompt) = (model.new_sequence(&SessionOptions::default())?, tokens(model, SAVED, round));
    let began = Instant::now();
    while !sequence.advance(&prompt, 256)? {}
    let computed = began.elapsed().as_secs_f64();
    let path = std::env::temp_dir().join(format!("tandem-request-speed-{}.kv", std::process::id()));
    model.save_sequence(&sequence, &path)?;
    let mut other = model.new_sequence(&SessionOptions::default())?;
    let began = Instant::now();
    let restored = model.restore_sequence(&mut other, &path);
    let seconds = began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    restored?;
    let next = [&mut sequence, &mut other]
        .map(|sequence| sequence.append(&prompt[..1], LogitsRequest::Last(1)).map(|logits| logits.row(0).to_vec()));
    let [next, other] = next;
    if next? != other? {
        return Err("what was restored goes on differently".into());
    }
    Ok(computed / seconds)
}

/// The 99th percentile of the seconds between tokens of `n` sequences while a long prompt comes in, over the same without.
fn between_tokens(model: &TextModel, n: usize, round: usize) -> Result<f64, Failure> {
    let mut scheduler = scheduler(model, n + 1, Reuse::Nothing)?;
    for which in 0..n {
        scheduler.submit(request(tokens(model, 512, 100 * round + which), 100_000))?;
    }
    let steps = |scheduler: &mut Scheduler, goes_on: &mut dyn FnMut(usize, bool) -> bool| -> Result<f64, Failure> {
        let (mut seconds, mut is_prefilled) = (Vec::new(), false);
        while goes_on(seconds.len(), is_prefilled) {
            let began = Instant::now();
            for update in scheduler.step() {
                is_prefilled |= matches!(update.event?, Event::Prefilled { n_tokens, n_prompt: LONG } if n_tokens == LONG);
            }
            seconds.push(began.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() * 99 / 100])
    };
    // Until all of them generate, and until the pace is known.
    while scheduler.figures().n_decoded < 20 * n as u64 {
        steps(&mut scheduler, &mut |n, _| n < 1)?;
    }
    let without = steps(&mut scheduler, &mut |n, _| n < 100)?;
    scheduler.submit(request(tokens(model, LONG, round + 5000), 1))?;
    let with = steps(&mut scheduler, &mut |_, is_prefilled| !is_prefilled)?;
    Ok(with / without)
}

fn scheduler(model: &TextModel, n: usize, reuse: Reuse) -> tandem::Result<Scheduler> {
    model.scheduler(SchedulerOptions::new(n).with_reuse(reuse, 256 << 20))
}

fn request(prompt: Vec<TokenId>, n: usize) -> Request {
    let stop = StopOptions { end_tokens: Vec::new(), stop_strings: Vec::new() };
    Request::new(prompt, GenerateOptions::new(Some(n), SamplingOptions::greedy(), stop))
}

/// Tokens of text number `which`.
fn tokens(model: &TextModel, n: usize, which: usize) -> Vec<TokenId> {
    let mut state = which as u64 * 7919 + 5;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % model.info().vocab_size
    };
    (0..n).map(|_| next() as TokenId).collect()
}

/// A median and its quartiles.
struct Spread([f64; 3]);

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self([2, 1, 3].map(|quarter| values[values.len() * quarter / 4]))
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, lower, upper] = self.0;
        write!(f, "{median:.2} ({lower:.2} to {upper:.2})")
    }
}
