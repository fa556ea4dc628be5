//! What an adapter costs: a model with it and without it in turns, decoding and in prompts, and how long it takes to apply.
//!
//! `cargo bench -p tandem-bench --bench adapters -- CHECKPOINT [BACKEND [THREADS [ROUNDS [RANK [DTYPE]...]]]]`, where BACKEND is `candle` or
//! `onnx`. The adapter has the factors of RANK, random numbers, on all projections. A ratio is that of speeds within a round, with the
//! adapter to without it: the median over the rounds, and in brackets the quartiles. In a second line it is that of processor time,
//! which other programs disturb less.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tandem_backend_candle::CandleBackend;
use tandem_backend_onnx::OnnxBackend;
use tandem_core::adapter::{Adapter, LowRankFactors, ScaledAdapter};
use tandem_core::config::{ModelConfig, WeightRole};
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, DType, LoadOptions, LogitsRequest, Model, Session, SessionOptions, TokenId};

/// What is timed: so many tokens, each alone or all at once.
const PHASES: [(&str, usize, bool); 4] =
    [("decode", 16, true), ("prompt of 16", 16, false), ("prompt of 64", 64, false), ("prompt of 512", 512, false)];

const DTYPES: [DType; 3] = [DType::F32, DType::Int8, DType::Int4];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let Some(checkpoint) = arguments.first() else {
        println!("skipped: give a checkpoint: cargo bench -p tandem-bench --bench adapters -- CHECKPOINT [BACKEND]");
        return Ok(());
    };
    let backend: Box<dyn Backend> = match arguments.get(1).map(String::as_str) {
        None | Some("candle") => Box::new(CandleBackend::new()),
        Some("onnx") => Box::new(OnnxBackend::new(None)),
        Some(other) => bail!("`{other}` is neither `candle` nor `onnx`"),
    };
    let number = |i: usize, default| arguments.get(i).map_or(Ok(default), |text| text.parse());
    let (threads, rounds, rank) = (number(2, 2)?, number(3, 9)?, number(4, 16)?);
    let named: Vec<DType> = arguments.iter().skip(5).map(|name| name.parse()).collect::<Result<_, _>>()?;
    let files = ModelFiles::discover(Path::new(checkpoint), checkpoint)?;
    let adapter = ScaledAdapter::new(Arc::new(adapter(&files.model_config()?, rank)?));
    println!("{checkpoint}, {threads} threads, {rounds} rounds, rank {rank}: {:.1} MB", adapter.adapter.bytes() as f64 / 1e6);
    for dtype in if named.is_empty() { DTYPES.to_vec() } else { named } {
        let threads = Some(NonZeroUsize::new(threads).context("at least one thread")?);
        let options = LoadOptions::new().with_dtype(Some(dtype)).with_threads(threads).with_huge_pages(true);
        compare(&*backend.load(&files, &options)?, &adapter, rounds)?;
    }
    Ok(())
}

fn compare(model: &dyn Model, adapter: &ScaledAdapter, rounds: usize) -> Result<()> {
    let mut applying = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        model.with_adapters(std::slice::from_ref(adapter))?;
        applying.push(1e3 * start.elapsed().as_secs_f64());
    }
    println!("{} {}: applied in {applying:.1?} ms", model.info().backend, model.info().dtype);
    let adapted = model.with_adapters(std::slice::from_ref(adapter))?;
    let mut sessions = [model.new_session(&SessionOptions::default())?, adapted.new_session(&SessionOptions::default())?];
    for (name, n, alone) in PHASES {
        let (mut walls, mut of_processor) = (Vec::new(), Vec::new());
        // The first round warms everything; each begins with the other model.
        for round in 0..=rounds {
            let mut seconds = [(0.0, 0.0); 2];
            for i in [round % 2, 1 - round % 2] {
                seconds[i] = time(&mut *sessions[i], n, alone)?;
            }
            if round > 0 {
                walls.push(seconds[0].0 / seconds[1].0);
                of_processor.push(seconds[0].1 / seconds[1].1);
            }
        }
        println!("  {name:<14} {}   processor {}", quartiles(walls), quartiles(of_processor));
    }
    Ok(())
}

/// Seconds of the clock and of the processor.
fn time(session: &mut dyn Session, n: usize, alone: bool) -> Result<(f64, f64)> {
    session.rewind(0)?;
    let tokens: Vec<TokenId> = (0..n).map(|i| ((i * 7919 + 13) % 300) as TokenId).collect();
    let (start, of_processor) = (Instant::now(), processor_seconds());
    for part in tokens.chunks(if alone { 1 } else { n }) {
        session.append(part, LogitsRequest::Last(1))?;
    }
    Ok((start.elapsed().as_secs_f64(), processor_seconds() - of_processor))
}

#[cfg(target_os = "linux")]
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

#[cfg(not(target_os = "linux"))]
fn processor_seconds() -> f64 {
    f64::NAN
}

fn quartiles(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let at = |quarter: usize| ratios[(ratios.len() - 1) * quarter / 4];
    format!("{:.3} ({:.3} to {:.3})", at(2), at(1), at(3))
}

/// Factors of `rank` for all projections of `config`.
fn adapter(config: &ModelConfig, rank: usize) -> Result<Adapter> {
    let mut state = 1_u32;
    let mut numbers = |n: usize| -> Vec<f32> {
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.02
        };
        (0..n).map(next).collect()
    };
    let projections = config.expected_weights().filter(|weight| weight.role == WeightRole::Projection);
    let factors = projections.map(|weight| LowRankFactors {
        module: weight.name.trim_end_matches(".weight").to_owned(),
        a: numbers(rank * weight.shape[1]),
        b: numbers(rank * weight.shape[0]),
        rank,
        scale: 2.0,
        magnitude: None,
    });
    Ok(Adapter::new("bench", factors.collect())?)
}
