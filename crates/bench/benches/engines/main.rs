//! Engines against each other on the same weights, in turns within one run: prefill, decoding at three depths, and what loading takes.
//!
//! `cargo bench -p tandem-bench --bench engines -- CHECKPOINT [GRAPH_DIRECTORY [THREADS [ROUNDS]]]`, where CHECKPOINT is a directory
//! with safetensors and GRAPH_DIRECTORY one with the same weights as a graph of f32; without it, or with `-`, ONNX Runtime is left
//! out. A Qwen2 checkpoint runs in candle-transformers too. One of 16-bit floats, which candle keeps so in memory, is run in f32 of four
//! bytes beside it. Ratios are medians over the rounds of the ratio within a round.
//!
//! `… -- pages CHECKPOINT [GRAPH_DIRECTORY [THREADS [ROUNDS]]]`: each of our engines with its weights in huge pages, and without.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod machine;
mod published;
mod runner;
mod widened;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use tandem_backend_candle::CandleBackend;
use tandem_backend_onnx::OnnxBackend;
use tandem_bench::median;
use tandem_core::bandwidth::{MORE_THAN_CACHES, read_bandwidth};
use tandem_core::{Backend, DType, LoadOptions};

use crate::runner::{PHASES, Runner};

/// candle-transformers takes its threads from the environment, which is read once.
const THREAD_VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

const DTYPES: [DType; 3] = [DType::F32, DType::Int8, DType::Int4];

/// What is compared, and on how many threads for how many rounds.
struct Task<'a> {
    checkpoint: &'a Path,
    graph: Option<&'a Path>,
    threads: usize,
    rounds: usize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => println!("skipped: give a checkpoint: cargo bench -p tandem-bench --bench engines -- CHECKPOINT [GRAPH_DIRECTORY]"),
        ["load", checkpoint, dtype, threads] => machine::load_alone(Path::new(checkpoint), dtype.parse()?, threads.parse()?)?,
        _ if std::env::var_os(THREAD_VARIABLES[0]).is_none() => return again(&arguments),
        ["pages", rest @ ..] => compare_pages(&Task::of(rest)?)?,
        all => compare_engines(&Task::of(all)?)?,
    }
    Ok(())
}

impl<'a> Task<'a> {
    fn of(arguments: &[&'a str]) -> Result<Self> {
        let [checkpoint, rest @ ..] = arguments else {
            bail!("usage: engines [pages] CHECKPOINT [GRAPH_DIRECTORY [THREADS [ROUNDS]]]")
        };
        let number = |i: usize, default| rest.get(i).map_or(Ok(default), |text| text.parse());
        let graph = rest.first().filter(|graph| **graph != "-").map(|graph| Path::new(*graph));
        Ok(Self { checkpoint: Path::new(*checkpoint), graph, threads: number(1, 2)?, rounds: number(2, 5)? })
    }

    /// Runs `runners` in turns and prints what came of it.
    fn run(&self, runners: &mut [Runner]) -> Result<()> {
        // What the memory can do, not what it did beside others.
        let mut bandwidth = 0.0_f64;
        // The first round warms everything.
        for round in 0..=self.rounds {
            bandwidth = bandwidth.max(read_bandwidth(self.threads, MORE_THAN_CACHES));
            for phase in 0..PHASES.len() {
                for runner in runners.iter_mut() {
                    runner.run(phase, round > 0)?;
                }
            }
        }
        let Self { checkpoint, threads, rounds, .. } = self;
        println!("{}, {threads} threads, {rounds} rounds in turns, memory {:.1} GB/s", checkpoint.display(), bandwidth / 1e9);
        print(runners, bandwidth);
        Ok(())
    }
}

fn compare_engines(task: &Task<'_>) -> Result<()> {
    let Task { checkpoint, graph, threads, .. } = *task;
    for dtype in DTYPES {
        itself()
            .args(["load".as_ref(), checkpoint.as_os_str(), dtype.to_string().as_ref(), threads.to_string().as_ref()])
            .status()?;
    }
    let candle =
        |checkpoint: &Path, dtype| runner::of_backend(&CandleBackend::new(), checkpoint, &options(Some(dtype), threads)?);
    let mut runners = vec![candle(widened::copy(checkpoint)?.path(), DType::F32)?];
    for dtype in DTYPES {
        let own = candle(checkpoint, dtype)?;
        if own.name != runners[0].name {
            runners.push(own);
        }
    }
    if let Some(graph) = graph {
        runners.push(runner::of_backend(&OnnxBackend::new(None), graph, &options(None, threads)?)?);
    }
    match published::runner(checkpoint)? {
        Some(published) => runners.push(published),
        None => println!("skipped: candle-transformers, since the checkpoint is not a Qwen2"),
    }
    task.run(&mut runners)
}

fn compare_pages(task: &Task<'_>) -> Result<()> {
    let pair = |backend: &dyn Backend, directory: &Path, dtype: Option<DType>| {
        let huge = options(dtype, task.threads)?;
        let small = huge.clone().with_huge_pages(false);
        let mut runners = Vec::new();
        for (pages, options) in [("small", small), ("huge", huge)] {
            let mut runner = runner::of_backend(backend, directory, &options)?;
            runner.name += &format!(", {pages} pages");
            runners.push(runner);
        }
        task.run(&mut runners)
    };
    for dtype in DTYPES {
        pair(&CandleBackend::new(), task.checkpoint, Some(dtype))?;
    }
    task.graph.map_or(Ok(()), |graph| pair(&OnnxBackend::new(None), graph, None))
}

fn options(dtype: Option<DType>, threads: usize) -> Result<LoadOptions> {
    Ok(LoadOptions::new().with_dtype(dtype).with_threads(runner::threads(threads)?).with_huge_pages(true))
}

/// Each runner in a line: tokens a second, in brackets the speed as a multiple of the first's, and for decoding as a share of what
/// the memory allows.
fn print(runners: &[Runner], bandwidth: f64) {
    println!("{:<26}{}", "", PHASES.map(|phase| format!("{:>22}", phase.name)).concat());
    for runner in runners {
        print!("{:<26}", runner.name);
        for (i, phase) in PHASES.iter().enumerate() {
            let seconds = median(runner.seconds_of(i));
            let ratio = speed(runner, &runners[0], i);
            let share = 100.0 * runner.bytes_at(phase.depth) / seconds / bandwidth;
            let share = if phase.appended.is_none() { format!(" {share:.0}%") } else { String::new() };
            print!("{:>22}", format!("{:.1} ({ratio:.2}){share}", 1.0 / seconds));
        }
        println!();
    }
}

/// How many times as fast as `of` it is in a phase.
fn speed(runner: &Runner, of: &Runner, phase: usize) -> f64 {
    let rounds = of.seconds_of(phase).iter().zip(runner.seconds_of(phase));
    median(&rounds.map(|(of, own)| of / own).collect::<Vec<_>>())
}

fn itself() -> Command {
    Command::new(std::env::current_exe().unwrap_or_default())
}

/// Runs the whole in a process whose environment has the number of threads.
fn again(arguments: &[String]) -> Result<()> {
    let numbers = if arguments[0] == "pages" { &arguments[1..] } else { arguments };
    let threads = numbers.get(2).map_or("2", String::as_str);
    let status = itself().args(arguments).envs(THREAD_VARIABLES.map(|variable| (variable, threads))).status();
    let status = status.context("the bench starts itself")?;
    if status.success() { Ok(()) } else { bail!("{status}") }
}
