//! Tandem against the engine's bare loop on the same graph: decode, prefill, load and peak memory, in turns within one run.
//!
//! `cargo bench -p tandem-bench --bench overhead -- DIRECTORY [THREADS]`, where the directory is a checkpoint with the graph of
//! onnxruntime-genai's builder, and ONNX Runtime's library is where Tandem finds it. Decode and prefill are measured in one process,
//! load and memory in one process each.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod bare;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bare::Bare;
use tandem::{Event, LoadOptions, SamplingOptions, Sequence, SessionOptions, Settings, StopOptions, TextModel};
use tandem_bench::{median, peak_rss_bytes, ratio_of_medians};

const DEPTH: usize = 512;
const DECODED: usize = 48;
const ROUNDS: usize = 7;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => println!(
            "skipped: give a checkpoint directory with a graph: cargo bench -p tandem-bench --bench overhead -- DIRECTORY"
        ),
        ["load", which, directory, threads] => load_only(which, Path::new(directory), threads.parse()?)?,
        [directory] => compare(Path::new(directory), 2)?,
        [directory, threads] => compare(Path::new(directory), threads.parse()?)?,
        _ => bail!("usage: overhead DIRECTORY [THREADS]"),
    }
    Ok(())
}

fn compare(directory: &Path, threads: usize) -> Result<()> {
    let model = load(directory, threads)?;
    println!("{} {} on {}, {threads} threads", directory.display(), model.info().dtype, model.info().device);
    let mut bare = Bare::new(Bare::session(&environment()?, &graph(directory)?, threads)?, 1024)?;
    let prompt: Vec<u32> = (0..DEPTH as u32).map(|i| (i * 7919 + 13) % 1000).collect();
    let ids: Vec<i64> = prompt.iter().map(|&id| i64::from(id)).collect();
    let mut sequence = model.new_sequence(&SessionOptions::new().with_context_length(1024))?;

    let (mut prefill, mut decode, mut own) = ([vec![], vec![]], [vec![], vec![]], vec![]);
    for round in 0..=ROUNDS {
        bare.rewind(0);
        let started = Instant::now();
        let mut token = bare.append(&ids)?;
        let bare_prefill = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for _ in 1..DECODED {
            token = bare.append(&[token])?;
        }
        let bare_decode = started.elapsed().as_secs_f64();

        sequence.rewind(0)?;
        let timings = generate(&model, &mut sequence, &prompt)?;
        // The first round warms both.
        if round > 0 {
            prefill[0].push(bare_prefill);
            prefill[1].push(timings.first_token.as_secs_f64());
            decode[0].push(bare_decode);
            decode[1].push(timings.decode.as_secs_f64());
            own.push(1.0 - timings.engine_decode.as_secs_f64() / timings.decode.as_secs_f64());
        }
    }
    report("prefill of 512", DEPTH, &prefill);
    report("decode at depth 512", DECODED - 1, &decode);
    println!("own cost outside the engine: {:.2}% of a step", median(&own) * 100.0);
    drop((model, bare));
    compare_load(directory, threads)
}

fn generate(model: &TextModel, sequence: &mut Sequence, prompt: &[u32]) -> Result<tandem::Timings> {
    let stop = StopOptions { end_tokens: Vec::new(), stop_strings: Vec::new() };
    let options = tandem::GenerateOptions::new(Some(DECODED), SamplingOptions::greedy(), stop);
    let mut generation = model.generate(sequence, prompt, options)?;
    let mut text = String::new();
    for event in &mut generation {
        if let Event::Token { text: piece, .. } = event? {
            text += &piece;
        }
    }
    std::hint::black_box(text);
    Ok(generation.timings())
}

fn report(what: &str, n_tokens: usize, [bare, ours]: &[Vec<f64>; 2]) {
    let speed = |seconds: &[f64]| n_tokens as f64 / median(seconds);
    println!(
        "{what}: bare {:.1} tokens/s, tandem {:.1} tokens/s, ratio {:.3} ({} rounds in turns)",
        speed(bare),
        speed(ours),
        ratio_of_medians(bare, ours),
        bare.len()
    );
}

/// One process each, in turns: `[seconds to load, peak bytes after a prefill and 16 tokens]`.
fn compare_load(directory: &Path, threads: usize) -> Result<()> {
    let (mut seconds, mut bytes) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..5 {
        for (i, which) in ["bare", "tandem"].into_iter().enumerate() {
            let output =
                Command::new(std::env::current_exe()?).args(["load", which]).arg(directory).arg(threads.to_string()).output()?;
            let text = String::from_utf8(output.stdout)?;
            let mut figures = text.split_whitespace().map(str::parse::<f64>);
            seconds[i].push(figures.next().with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())??);
            bytes[i].push(figures.next().context("two figures")??);
        }
    }
    println!(
        "load: bare {:.3} s, tandem {:.3} s, ratio {:.3}",
        median(&seconds[0]),
        median(&seconds[1]),
        ratio_of_medians(&seconds[1], &seconds[0])
    );
    let mib = |bytes: &[f64]| median(bytes) / f64::from(1 << 20);
    println!(
        "peak memory: bare {:.0} MiB, tandem {:.0} MiB, difference {:.0} MiB",
        mib(&bytes[0]),
        mib(&bytes[1]),
        mib(&bytes[1]) - mib(&bytes[0])
    );
    Ok(())
}

fn load_only(which: &str, directory: &Path, threads: usize) -> Result<()> {
    let prompt: Vec<u32> = (0..DEPTH as u32).map(|i| (i * 7919 + 13) % 1000).collect();
    let seconds = if which == "bare" {
        let environment = environment()?;
        let started = Instant::now();
        let session = Bare::session(&environment, &graph(directory)?, threads)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut bare = Bare::new(session, 1024)?;
        let mut token = bare.append(&prompt.iter().map(|&id| i64::from(id)).collect::<Vec<_>>())?;
        for _ in 0..16 {
            token = bare.append(&[token])?;
        }
        seconds
    } else {
        // The engine's start is outside both.
        environment()?;
        let started = Instant::now();
        let model = load(directory, threads)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut sequence = model.new_sequence(&SessionOptions::new().with_context_length(1024))?;
        generate(&model, &mut sequence, &prompt)?;
        seconds
    };
    println!("{seconds} {}", peak_rss_bytes().context("the system tells no peak")?);
    Ok(())
}

fn load(directory: &Path, threads: usize) -> Result<TextModel> {
    let load = LoadOptions::new().with_threads(std::num::NonZeroUsize::new(threads));
    Ok(tandem::load(&directory.display().to_string(), &Settings { load, ..Settings::default() })?)
}

fn environment() -> Result<ort::environment::Environment> {
    Ok(tandem_backend_onnx::library::environment(None)?)
}

fn graph(directory: &Path) -> Result<PathBuf> {
    let model = directory.join("model.onnx");
    if model.is_file() { Ok(model) } else { bail!("`{}` is not there", model.display()) }
}
