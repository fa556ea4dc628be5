//! Engines against each other on the same weights, in turns within one run: prefill, and decoding at a short and a long context.
//!
//! `cargo bench -p tandem-bench --bench engines -- CHECKPOINT [GRAPH_DIRECTORY [THREADS]]`, where CHECKPOINT is a directory with
//! safetensors and GRAPH_DIRECTORY one with the same weights as a graph of f32; without it, or with `-`, candle runs alone. The share of
//! what the memory allows is of the best speed at which all threads read a large array.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tandem_backend_candle::CandleBackend;
use tandem_backend_onnx::OnnxBackend;
use tandem_bench::{median, ratio_of_medians};
use tandem_core::backend::ThreadOptions;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, DType, LoadOptions, LogitsWanted, Model, Session, SessionOptions, TokenId};

const PREFILL: usize = 512;
const FAR: usize = 2048;
const DECODED: usize = 24;
const ROUNDS: usize = 5;

/// One engine with its model, and what was measured of it in seconds.
struct Contender {
    name: String,
    model: Arc<dyn Model>,
    /// Bytes of weights that a step reads, with scales; the head is taken to be the embedding.
    step_bytes: f64,
    prefill: Vec<f64>,
    near: Vec<f64>,
    far: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => println!("skipped: give a checkpoint: cargo bench -p tandem-bench --bench engines -- CHECKPOINT [GRAPH_DIRECTORY]"),
        [checkpoint] => compare(Path::new(checkpoint), None, 2)?,
        [checkpoint, graph] => compare(Path::new(checkpoint), path(graph), 2)?,
        [checkpoint, graph, threads] => compare(Path::new(checkpoint), path(graph), threads.parse()?)?,
        _ => bail!("usage: engines CHECKPOINT [GRAPH_DIRECTORY [THREADS]]"),
    }
    Ok(())
}

fn path(argument: &str) -> Option<&Path> {
    (argument != "-").then(|| Path::new(argument))
}

fn compare(checkpoint: &Path, graph: Option<&Path>, threads: usize) -> Result<()> {
    let mut contenders = Vec::new();
    for dtype in [DType::F32, DType::Int8, DType::Int4] {
        contenders.push(contender(&CandleBackend::new(), checkpoint, Some(dtype), threads)?);
    }
    if let Some(graph) = graph {
        contenders.push(contender(&OnnxBackend::new(None), graph, None, threads)?);
    }
    let mut reading = Vec::new();
    // The first round warms everything.
    for round in 0..=ROUNDS {
        reading.push(read(threads));
        for contender in &mut contenders {
            contender.measure(round > 0)?;
        }
    }
    // What the memory can do, not what it did beside others.
    let bandwidth = 1.0 / reading.iter().copied().fold(f64::INFINITY, f64::min);
    println!("{}, {threads} threads, {ROUNDS} rounds in turns, memory {:.1} GB/s", checkpoint.display(), bandwidth / 1e9);
    let of_first = &contenders[0];
    for contender in &contenders {
        let step = contender.step_bytes;
        println!(
            "{:<12} prefill of {PREFILL} {:>7.1}/s (x{:.2})  decode {:>6.1}/s (x{:.2}, {:.0}% of what memory allows)  at {FAR} {:>6.1}/s (x{:.2})",
            contender.name,
            PREFILL as f64 / median(&contender.prefill),
            ratio_of_medians(&of_first.prefill, &contender.prefill),
            DECODED as f64 / median(&contender.near),
            ratio_of_medians(&of_first.near, &contender.near),
            100.0 * step * DECODED as f64 / median(&contender.near) / bandwidth,
            DECODED as f64 / median(&contender.far),
            ratio_of_medians(&of_first.far, &contender.far),
        );
    }
    Ok(())
}

fn contender(backend: &dyn Backend, directory: &Path, dtype: Option<DType>, threads: usize) -> Result<Contender> {
    let files = ModelFiles::discover(directory, &directory.to_string_lossy())?;
    let threads = ThreadOptions { count: Some(NonZeroUsize::new(threads).context("at least one thread")?), spin: false };
    let model = backend.load(&files, &LoadOptions { dtype, threads, ..LoadOptions::default() })?;
    let name = format!("{} {}", model.info().backend, model.info().dtype);
    let bytes_of_weight = match model.info().dtype {
        DType::F32 => 4.0,
        DType::F16 | DType::Bf16 => 2.0,
        DType::Int8 => 1.125,
        DType::Int4 => 0.625,
    };
    let step_bytes = bytes_of_weight * ModelConfig::from_file(&files.config)?.n_parameters() as f64;
    Ok(Contender { name, model, step_bytes, prefill: Vec::new(), near: Vec::new(), far: Vec::new() })
}

impl Contender {
    /// A prefill, and decoding after it and far behind it; kept where `counts`.
    fn measure(&mut self, counts: bool) -> Result<()> {
        let options = SessionOptions { max_tokens: Some(FAR + DECODED), ..SessionOptions::default() };
        let mut session = self.model.new_session(&options)?;
        let prompt: Vec<TokenId> = (0..FAR as TokenId).map(|i| (i * 7919 + 13) % 1000).collect();
        let started = Instant::now();
        session.append(&prompt[..PREFILL], LogitsWanted::Last)?;
        let prefill = started.elapsed().as_secs_f64();
        session.rewind(16)?;
        let near = decode(&mut *session)?;
        session.rewind(0)?;
        session.append(&prompt, LogitsWanted::None)?;
        let far = decode(&mut *session)?;
        if counts {
            self.prefill.push(prefill);
            self.near.push(near);
            self.far.push(far);
        }
        Ok(())
    }
}

/// Seconds for [`DECODED`] steps.
fn decode(session: &mut dyn Session) -> Result<f64> {
    let started = Instant::now();
    let mut token = 5;
    for _ in 0..DECODED {
        let logits = session.append(&[token], LogitsWanted::Last)?;
        let row = logits.last().context("a row of logits")?;
        token = (0..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best }) as TokenId;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for a byte, when every thread reads a part of 1 GB: the best of four times.
fn read(threads: usize) -> f64 {
    const BYTES: usize = 1 << 30;
    let array = vec![1_u64; BYTES / size_of::<u64>()];
    let once = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in array.chunks(array.len().div_ceil(threads)) {
                scope.spawn(|| std::hint::black_box(part.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value))));
            }
        });
        started.elapsed().as_secs_f64()
    };
    (0..4).map(|_| once()).fold(f64::INFINITY, f64::min) / BYTES as f64
}
