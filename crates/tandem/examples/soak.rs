//! Many clients of one model for minutes: random lengths, common beginnings, cancels, requests that cannot be served. Ends with an error when a
//! text differs from what its prompt gives alone, when requests stay behind, or when memory grows.
//!
//! `cargo run --release -p tandem --features candle --example soak -- MODEL BACKEND DTYPE [MINUTES] [CLIENTS]`
#![allow(clippy::print_stdout, reason = "it is a program that prints")]

use std::collections::HashMap;
use std::num::NonZero;
use std::time::{Duration, Instant};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tandem::scheduler::{Request, RequestId, Reuse, Scheduler, SchedulerOptions, Update};
use tandem::{
    CancelToken, DType, Event, FinishReason, GenerateOptions, LoadOptions, SamplingOptions, SessionOptions, Settings,
    StopOptions, TextModel, TokenId,
};

type Failure = Box<dyn std::error::Error>;

const CONTEXT: usize = 640;
/// Of sequences that ended.
const PARKED_BYTES: u64 = 32 << 20;
/// One request in so many is computed alone too.
const CHECKED: usize = 12;
/// How much more memory may be in use in the last quarter of the time than in the second.
const GROWTH: f64 = 0.02;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, backend, dtype, counts @ ..] = &arguments[..] else {
        return Err("usage: soak MODEL BACKEND DTYPE [MINUTES] [CLIENTS]".into());
    };
    let count = |index: usize, default: f64| counts.get(index).map_or(Ok(default), |count| count.parse::<f64>());
    let (time, clients) = (Duration::from_secs_f64(count(0, 10.0)? * 60.0), count(1, 8.0)? as usize);
    let load = LoadOptions::new().with_threads(NonZero::new(2)).with_dtype(dtype.parse::<DType>()?);
    let model = tandem::load(reference.as_str(), &Settings { load, backend: Some(backend.parse()?), ..Settings::default() })?;
    Soak::new(model, clients)?.run(time)
}

/// A request that runs.
struct Sent {
    prompt: Vec<TokenId>,
    options: GenerateOptions,
    cancel: CancelToken,
    tokens: Vec<TokenId>,
    is_checked: bool,
}

#[derive(Debug, Default)]
struct Counts {
    n_done: usize,
    n_cancelled: usize,
    n_refused: usize,
    n_tokens: usize,
    n_checked: usize,
}

struct Soak {
    model: TextModel,
    scheduler: Scheduler,
    clients: usize,
    random: Random,
    sent: HashMap<RequestId, Sent>,
    counts: Counts,
    /// Bytes of memory, and when they were in use.
    memory: Vec<(Duration, u64)>,
}

impl Soak {
    fn new(model: TextModel, clients: usize) -> Result<Self, Failure> {
        let limits = SchedulerOptions::new(clients).with_context_length(Some(CONTEXT)).with_reuse(Reuse::Prompts, PARKED_BYTES);
        let scheduler = model.scheduler(limits)?;
        let random = Random(1);
        Ok(Self { model, scheduler, clients, random, sent: HashMap::new(), counts: Counts::default(), memory: Vec::new() })
    }

    fn run(mut self, time: Duration) -> Result<(), Failure> {
        let (started, mut said) = (Instant::now(), Duration::ZERO);
        let mut system = System::new();
        while started.elapsed() < time || !self.scheduler.is_idle() {
            while started.elapsed() < time && self.sent.len() < self.clients {
                self.send()?;
            }
            if self.random.below(150) == 0 {
                let index = self.random.below(self.sent.len().max(1));
                if let Some(sent) = self.sent.values().nth(index) {
                    sent.cancel.cancel();
                }
            }
            for update in self.scheduler.step() {
                self.take(update)?;
            }
            if started.elapsed() - said >= Duration::from_secs(2) {
                said = started.elapsed();
                self.memory.push((said, resident(&mut system)?));
                println!("{:>4} s  {} bytes  {:?}", said.as_secs(), self.memory[self.memory.len() - 1].1, self.counts);
            }
        }
        self.conclude(time)
    }

    /// Sends the next request.
    fn send(&mut self) -> Result<(), Failure> {
        let vocab_size = self.model.info().vocab_size;
        let mut prompt = tokens(1 + self.random.below(300), self.random.below(4), vocab_size);
        prompt.extend(tokens(1 + self.random.below(60), 10 + self.random.below(1000), vocab_size));
        match self.random.below(40) {
            0 => prompt = tokens(CONTEXT + 1, 0, vocab_size),
            1 => prompt.clear(),
            _ => {}
        }
        let temperature = [0.0, 0.7, 1.2][self.random.below(3)];
        let sampling = SamplingOptions { temperature, seed: self.random.below(1 << 20) as u64, ..SamplingOptions::greedy() };
        let stop = StopOptions { end_tokens: Vec::new(), stop_strings: Vec::new() };
        let options = GenerateOptions::new(Some(1 + self.random.below(64)), sampling, stop);
        let cancel = CancelToken::new();
        match self.scheduler.submit(Request::new(prompt.clone(), options.clone()).with_cancel(cancel.clone())) {
            Ok(id) => {
                let is_checked = self.random.below(CHECKED) == 0;
                self.sent.insert(id, Sent { prompt, options, cancel, tokens: Vec::new(), is_checked });
            }
            Err(_) if prompt.is_empty() || prompt.len() > CONTEXT => self.counts.n_refused += 1,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn take(&mut self, Update { id, event, ended }: Update) -> Result<(), Failure> {
        let sent = self.sent.get_mut(&id).ok_or("an event of a request that ended")?;
        match event? {
            Event::Token { id, .. } => sent.tokens.push(id),
            Event::Finished { reason: FinishReason::Cancelled, .. } => self.counts.n_cancelled += 1,
            Event::Finished { .. } => self.counts.n_done += 1,
            _ => {}
        }
        if ended.is_some() {
            let sent = self.sent.remove(&id).ok_or("a request that ended twice")?;
            self.counts.n_tokens += sent.tokens.len();
            if sent.is_checked {
                self.check(&sent)?;
            }
        }
        Ok(())
    }

    /// Computes the request alone.
    fn check(&mut self, sent: &Sent) -> Result<(), Failure> {
        let mut sequence = self.model.new_sequence(&SessionOptions::new().with_context_length(CONTEXT))?;
        let mut alone = Vec::new();
        for event in self.model.generate(&mut sequence, &sent.prompt, sent.options.clone())? {
            if let Event::Token { id, .. } = event? {
                alone.push(id);
            }
        }
        self.counts.n_checked += 1;
        let is_whole = sent.cancel.is_cancelled() || alone.len() == sent.tokens.len();
        if alone.starts_with(&sent.tokens) && is_whole {
            return Ok(());
        }
        Err(format!("alone the prompt gives {alone:?}, and {:?} among others", sent.tokens).into())
    }

    fn conclude(self, time: Duration) -> Result<(), Failure> {
        let quarter = |n: u32| {
            let range = time / 4 * n..time / 4 * (n + 1);
            let mut bytes: Vec<u64> = self.memory.iter().filter(|(at, _)| range.contains(at)).map(|(_, bytes)| *bytes).collect();
            bytes.sort_unstable();
            bytes.get(bytes.len() / 2).copied().ok_or("too short a time to see memory grow")
        };
        let (early, late) = (quarter(1)?, quarter(3)?);
        let figures = self.scheduler.figures();
        println!("{:?}\n{figures:?}\nmemory in use: {early} bytes in the second quarter, {late} in the last", self.counts);
        if !self.sent.is_empty() || figures.n_running + figures.n_waiting > 0 {
            return Err("requests stayed behind".into());
        }
        if figures.parked_bytes > PARKED_BYTES {
            return Err("sequences that ended take more than they may".into());
        }
        if late as f64 > early as f64 * (1.0 + GROWTH) {
            return Err("memory grew".into());
        }
        Ok(())
    }
}

/// Tokens of text number `which`.
fn tokens(n: usize, which: usize, vocab_size: usize) -> Vec<TokenId> {
    let mut random = Random(which as u64 * 7919 + 5);
    (0..n).map(|_| random.below(vocab_size) as TokenId).collect()
}

/// Bytes of physical memory that this process uses.
fn resident(system: &mut System) -> Result<u64, Failure> {
    let pid = Pid::from_u32(std::process::id());
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing().with_memory());
    Ok(system.process(pid).ok_or("the system does not know this process")?.memory())
}

/// Numbers below what is asked for, of a linear congruential sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}
