//! What an adapter costs: the same model with and without one of rank 16 on all projections, in turns in one process.
//!
//! `cargo run --release -p tandem --features candle --example adapter_speed -- DIRECTORY BACKEND DTYPE [PROMPTS] [TOKENS]`: the directory of a
//! checkpoint, such as one that `tandem bench --shape` makes. Prints the speed with the adapter over the speed without: the median of the pairs
//! and their quartiles; how long it takes to apply an adapter, and to go on with a model that was adapted before; and, on Linux, by how much
//! the process's memory grows with a second adapter, over the bytes of its factors.
#![allow(clippy::print_stdout, reason = "it is a program that prints")]

use std::num::NonZero;
use std::sync::Arc;
use std::time::Instant;

use tandem::adapters::{Adapter, LowRankFactors, ScaledAdapter};
use tandem::{LoadOptions, Model, ModelConfig, OpenedModel, SessionOptions, Settings, TokenId};
use tandem_core::{LogitsRequest, Session};

const RANK: usize = 16;
const PROMPT: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, backend, dtype, counts @ ..] = &arguments[..] else {
        return Err("usage: adapter_speed DIRECTORY BACKEND DTYPE [PROMPTS] [TOKENS]".into());
    };
    let count = |index: usize, default: usize| counts.get(index).map_or(Ok(default), |count| count.parse());
    let (n_prompts, n_tokens) = (count(0, 6)?, count(1, 300)?);
    let load = LoadOptions::new().with_threads(NonZero::new(2)).with_dtype(dtype.parse::<tandem::DType>()?);
    let settings = Settings { load, backend: Some(backend.parse()?), ..Settings::default() };
    let opened = OpenedModel::open(tandem::find(directory.as_str())?, &settings)?;
    let mut numbers = Numbers(1);
    let [first, second] = [random_adapter(opened.config(), &mut numbers)?, random_adapter(opened.config(), &mut numbers)?];
    let base = opened.load_model()?.0;
    let began = Instant::now();
    let adapted = base.with_adapters(&[ScaledAdapter::new(Arc::new(first))])?;
    println!("applied in {:.1} ms", 1e3 * began.elapsed().as_secs_f64());
    let tokens: Vec<TokenId> = (0..PROMPT).map(|i| ((i * 37 + 11) % base.info().vocab_size) as TokenId).collect();
    let models: [&dyn Model; 2] = [&*base, &*adapted];
    in_turns("prefill of 512", n_prompts, |which| time(&mut *models[which].new_session(&SessionOptions::default())?, &tokens))?;
    let mut sessions = [base.new_session(&SessionOptions::default())?, adapted.new_session(&SessionOptions::default())?];
    in_turns("decode", n_tokens, |which| time(&mut *sessions[which], &tokens[..1]))?;
    drop(sessions);
    switch(&models)?;
    second_adapter(&*base, second)
}

/// Goes on with the one model and the other in turns, and prints what the beginning of a session with it takes.
fn switch(models: &[&dyn Model; 2]) -> tandem::Result<()> {
    let mut milliseconds = Vec::new();
    for round in 0..20 {
        let began = Instant::now();
        let session = models[round % 2].new_session(&SessionOptions::default())?;
        milliseconds.push(1e3 * began.elapsed().as_secs_f64());
        drop(session);
    }
    milliseconds.sort_by(f64::total_cmp);
    println!("switch: {:.3} ms, at most {:.3} ms", milliseconds[10], milliseconds[19]);
    Ok(())
}

/// Applies one more adapter to `base`, and prints what that costs.
fn second_adapter(base: &dyn Model, adapter: Adapter) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = adapter.bytes() as f64;
    let scaled = ScaledAdapter::new(Arc::new(adapter));
    let before = resident();
    let began = Instant::now();
    let model = base.with_adapters(std::slice::from_ref(&scaled))?;
    let milliseconds = 1e3 * began.elapsed().as_secs_f64();
    // What is computed with is there now.
    time(&mut *model.new_session(&SessionOptions::default())?, &[1])?;
    let grown = resident().zip(before).map(|(after, before)| after - before);
    let share = grown.map_or_else(|| "unknown".into(), |grown| format!("{:.2} of its {:.1} MB", grown / bytes, bytes / 1e6));
    println!("second adapter: applied in {milliseconds:.1} ms, memory {share}");
    Ok(())
}

/// Bytes of memory that this process has, where the system says it: `VmRSS` of proc(5).
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
}

/// Calls `run` with 0 and 1 in turns, and prints the ratio of what it returns.
fn in_turns<E>(what: &str, n: usize, mut run: impl FnMut(usize) -> Result<f64, E>) -> Result<(), E> {
    let mut ratios = Vec::with_capacity(n);
    for round in 0..n {
        let mut seconds = [0.0; 2];
        for which in [round % 2, 1 - round % 2] {
            seconds[which] = run(which)?;
        }
        ratios.push(seconds[0] / seconds[1]);
    }
    ratios.sort_by(f64::total_cmp);
    let at = |quarter: usize| ratios[n * quarter / 4];
    println!("{what}: {:.3} ({:.3} to {:.3})", at(2), at(1), at(3));
    Ok(())
}

/// Seconds that `session` takes for `tokens`.
fn time(session: &mut dyn Session, tokens: &[TokenId]) -> tandem::Result<f64> {
    let began = Instant::now();
    session.append(tokens, LogitsRequest::Last(1))?;
    Ok(began.elapsed().as_secs_f64())
}

/// Random numbers by xorshift.
struct Numbers(u32);

impl Numbers {
    /// `n` numbers between `-size / 2` and `size / 2`.
    fn take(&mut self, n: usize, size: f32) -> Vec<f32> {
        let next = |_| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            (self.0 as f32 / u32::MAX as f32 - 0.5) * size
        };
        (0..n).map(next).collect()
    }
}

/// Factors for each projection of the layers of `config`.
fn random_adapter(config: &ModelConfig, numbers: &mut Numbers) -> tandem::Result<Adapter> {
    let factors = config.expected_weights().filter_map(|weight| {
        let module = weight.name.strip_suffix("_proj.weight")?;
        let &[outputs, inputs] = &weight.shape[..] else { return None };
        let (a, b) = (numbers.take(RANK * inputs, 0.1), numbers.take(outputs * RANK, 0.04));
        Some(LowRankFactors { module: format!("{module}_proj"), a, b, rank: RANK, scale: 2.0, magnitude: None })
    });
    Adapter::new("random", factors.collect())
}
