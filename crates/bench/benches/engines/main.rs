//! Engines against each other on the same weights, in turns within one run: prefill, decoding at three depths, and what loading takes.
//!
//! `cargo bench -p tandem-bench --bench engines -- CHECKPOINT [GRAPH_DIRECTORY [THREADS [ROUNDS]]]`, where CHECKPOINT is a directory
//! with safetensors and GRAPH_DIRECTORY one with the same weights as a graph of f32; without it, or with `-`, ONNX Runtime is left
//! out. A Qwen2 checkpoint runs in candle-transformers too. Ratios are medians over the rounds of the ratio within a round.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod contender;
mod machine;
mod published;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use tandem_backend_candle::CandleBackend;
use tandem_backend_onnx::OnnxBackend;
use tandem_bench::median;
use tandem_core::DType;

use crate::contender::{Contender, PHASES};

/// candle-transformers takes its threads from the environment, which is read once.
const THREAD_VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

const DTYPES: [DType; 3] = [DType::F32, DType::Int8, DType::Int4];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => println!("skipped: give a checkpoint: cargo bench -p tandem-bench --bench engines -- CHECKPOINT [GRAPH_DIRECTORY]"),
        [checkpoint] => compare(Path::new(checkpoint), None, 2, 5)?,
        [checkpoint, graph] => compare(Path::new(checkpoint), path(graph), 2, 5)?,
        ["load", checkpoint, dtype, threads] => machine::load_alone(Path::new(checkpoint), dtype.parse()?, threads.parse()?)?,
        [checkpoint, graph, threads] => compare(Path::new(checkpoint), path(graph), threads.parse()?, 5)?,
        [checkpoint, graph, threads, rounds] => {
            compare(Path::new(checkpoint), path(graph), threads.parse()?, rounds.parse()?)?;
        }
        _ => bail!("usage: engines CHECKPOINT [GRAPH_DIRECTORY [THREADS [ROUNDS]]]"),
    }
    Ok(())
}

fn path(argument: &str) -> Option<&Path> {
    (argument != "-").then(|| Path::new(argument))
}

fn compare(checkpoint: &Path, graph: Option<&Path>, threads: usize, rounds: usize) -> Result<()> {
    if std::env::var(THREAD_VARIABLES[0]).ok() != Some(threads.to_string()) {
        return again(threads);
    }
    for dtype in DTYPES {
        itself()
            .args(["load".as_ref(), checkpoint.as_os_str(), dtype.to_string().as_ref(), threads.to_string().as_ref()])
            .status()?;
    }
    let mut contenders = Vec::new();
    for dtype in DTYPES {
        contenders.push(contender::of_backend(&CandleBackend::new(), checkpoint, Some(dtype), threads)?);
    }
    if let Some(graph) = graph {
        contenders.push(contender::of_backend(&OnnxBackend::new(None), graph, None, threads)?);
    }
    match published::contender(checkpoint)? {
        Some(published) => contenders.push(published),
        None => println!("skipped: candle-transformers, since the checkpoint is no Qwen2"),
    }
    let mut reading = Vec::new();
    // The first round warms everything.
    for round in 0..=rounds {
        reading.push(machine::seconds_for_a_byte(threads));
        for phase in 0..PHASES.len() {
            for contender in &mut contenders {
                contender.run(phase, round > 0)?;
            }
        }
    }
    // What the memory can do, not what it did beside others.
    let bandwidth = 1.0 / reading.iter().copied().fold(f64::INFINITY, f64::min);
    println!("{}, {threads} threads, {rounds} rounds in turns, memory {:.1} GB/s", checkpoint.display(), bandwidth / 1e9);
    print(&contenders, bandwidth);
    Ok(())
}

/// Each contender in a line: tokens a second, in brackets the speed as a multiple of the first's, and for decoding as a share of what
/// the memory allows.
fn print(contenders: &[Contender], bandwidth: f64) {
    println!("{:<26}{}", "", PHASES.map(|phase| format!("{:>22}", phase.name)).concat());
    for contender in contenders {
        print!("{:<26}", contender.name);
        for (i, phase) in PHASES.iter().enumerate() {
            let seconds = median(contender.seconds_of(i));
            let ratio = speed(contender, &contenders[0], i);
            let share = 100.0 * contender.bytes_at(phase.depth) / seconds / bandwidth;
            let share = if phase.appended.is_none() { format!(" {share:.0}%") } else { String::new() };
            print!("{:>22}", format!("{:.1} ({ratio:.2}){share}", 1.0 / seconds));
        }
        println!();
    }
}

/// How many times as fast as `of` it is in a phase.
fn speed(contender: &Contender, of: &Contender, phase: usize) -> f64 {
    let rounds = of.seconds_of(phase).iter().zip(contender.seconds_of(phase));
    median(&rounds.map(|(of, own)| of / own).collect::<Vec<_>>())
}

fn itself() -> Command {
    Command::new(std::env::current_exe().unwrap_or_default())
}

/// Runs the whole in a process whose environment has the number of threads.
fn again(threads: usize) -> Result<()> {
    let mut command = itself();
    command.args(std::env::args_os().skip(1));
    command.envs(THREAD_VARIABLES.map(|variable| (variable, threads.to_string())));
    let status = command.status().context("the bench starts itself")?;
    if status.success() { Ok(()) } else { bail!("{status}") }
}
