//! What is measured: every backend with every dtype, number of threads and numerics that is named, and the peers.

mod peers;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tandem::{BackendKind, DType, Kernels, KvDType, LoadOptions, ModelFiles, Numerics, OnnxOptions};
use tandem_bench::run::{Lineup, Runner, TandemRunner};
use tandem_bench::work::EngineChoice;

use super::facts::Facts;
use super::worker::is_checkpoint;
use crate::args::{BenchArgs, DeviceChoice, EntryOptions};
use crate::failure::Usage;

/// Every runner that `args` name, and one of f32 to measure losses against.
pub(super) fn lineup(args: &BenchArgs, reference: &str, files: &ModelFiles, facts: &Facts) -> Result<Lineup> {
    let options = &args.entries;
    let backends = match options.backends.as_slice() {
        [] => tandem::backends::compiled(),
        named => named.to_vec(),
    };
    let is_embedder = facts.workload.embedding.is_some();
    let weights = weights(options, &backends, files, is_embedder)?;
    let threads: Vec<usize> = match options.threads.as_slice() {
        [] => vec![std::thread::available_parallelism().map_or(1, usize::from)],
        named => named.iter().copied().map(usize::from).collect(),
    };
    let mut runners: Vec<Box<dyn Runner>> = Vec::new();
    for &threads in &threads {
        for &backend in &backends {
            for weights in weights.iter().filter(|weights| weights.suit(backend)) {
                for numerics in numerics(options, weights) {
                    for ((spin, kernels), kv_dtype) in pairs(&settings_of_onnx(options, backend), &kv_dtypes(options)) {
                        for adapted in if options.adapter.is_empty() { &[false][..] } else { &[false, true] } {
                            let variant =
                                Variant { backend, weights, threads, numerics, kv_dtype, spin, kernels, adapted: *adapted };
                            runners.push(Box::new(tandem_runner(reference, options, variant, is_embedder)?));
                        }
                    }
                }
            }
        }
        for peer in &args.peers.peers {
            runners.extend(peers::runners(peer, args, reference, files, facts, threads)?);
        }
    }
    let f32_of = |backend: BackendKind| tandem_runner(reference, options, Variant::f32(backend, threads[0]), is_embedder);
    let outside = backends.first().filter(|_| is_checkpoint(files)).map(|&backend| f32_of(backend)).transpose()?;
    let reference = outside.map(|runner| Box::new(runner) as Box<dyn Runner>);
    Ok(Lineup { runners, reference, probe: facts.probe.clone() })
}

/// One set of options of Tandem.
struct Variant<'v> {
    backend: BackendKind,
    weights: &'v Weights,
    threads: usize,
    numerics: Option<Numerics>,
    kv_dtype: Option<KvDType>,
    spin: bool,
    kernels: Option<Kernels>,
    /// With the adapters that are named.
    adapted: bool,
}

impl Variant<'_> {
    fn f32(backend: BackendKind, threads: usize) -> Self {
        Self { backend, weights: &F32, threads, numerics: None, kv_dtype: None, spin: false, kernels: None, adapted: false }
    }
}

/// The weights that an entry computes with.
enum Weights {
    /// In this dtype, or in the one that the model has.
    Dtype(Option<DType>),
    /// Those of a graph.
    Graph(PathBuf),
}

const F32: Weights = Weights::Dtype(Some(DType::F32));

impl Weights {
    /// A graph is ONNX Runtime's alone.
    fn suit(&self, backend: BackendKind) -> bool {
        backend == BackendKind::Onnx || matches!(self, Self::Dtype(_))
    }
}

/// Every dtype and every graph that is named, or all dtypes of a checkpoint; a GGUF file is quantised already. Vectors of 4-bit weights are
/// too far off to be of use, so that they are measured only where they are asked for.
fn weights(options: &EntryOptions, backends: &[BackendKind], files: &ModelFiles, is_embedder: bool) -> Result<Vec<Weights>> {
    if !options.graphs.is_empty() && !backends.contains(&BackendKind::Onnx) {
        return Err(Usage::new("`--graph` is of ONNX Runtime", "add `onnx` to `--backend`, or leave out `--graph`").into());
    }
    let dtypes: Vec<Option<DType>> = match options.dtypes.as_slice() {
        [] if !options.graphs.is_empty() => Vec::new(),
        [] if is_checkpoint(files) && is_embedder => [DType::F32, DType::Int8].map(Some).to_vec(),
        [] if is_checkpoint(files) && files.gguf().is_none() => [DType::F32, DType::Int8, DType::Int4].map(Some).to_vec(),
        [] => vec![None],
        named => named.iter().copied().map(Some).collect(),
    };
    let graphs = options.graphs.iter().cloned().map(Weights::Graph);
    Ok(dtypes.into_iter().map(Weights::Dtype).chain(graphs).collect())
}

/// Numerics make a difference to quantised weights only.
fn numerics(options: &EntryOptions, weights: &Weights) -> Vec<Option<Numerics>> {
    let is_quantised = matches!(weights, Weights::Graph(_) | Weights::Dtype(None | Some(DType::Int8 | DType::Int4)));
    match options.numerics.as_slice() {
        named if is_quantised && !named.is_empty() => named.iter().copied().map(Some).collect(),
        _ => vec![None],
    }
}

/// The settings of ONNX Runtime to measure: whether idle threads spin, and which kernels it uses. candle has neither setting.
fn settings_of_onnx(options: &EntryOptions, backend: BackendKind) -> Vec<(bool, Option<Kernels>)> {
    if backend != BackendKind::Onnx {
        return vec![(false, None)];
    }
    let spins = if options.spin.is_empty() { &[false][..] } else { &options.spin };
    let kernels: Vec<Option<Kernels>> = match options.kernels.as_slice() {
        [] => vec![None],
        named => named.iter().copied().map(Some).collect(),
    };
    spins.iter().flat_map(|&spin| kernels.iter().map(move |&kernels| (spin, kernels))).collect()
}

fn kv_dtypes(options: &EntryOptions) -> Vec<Option<KvDType>> {
    match options.kv_dtypes.as_slice() {
        [] => vec![None],
        named => named.iter().copied().map(Some).collect(),
    }
}

/// Each of `first` with each of `second`.
fn pairs<A: Copy, B: Copy>(first: &[A], second: &[B]) -> Vec<(A, B)> {
    first.iter().flat_map(|&a| second.iter().map(move |&b| (a, b))).collect()
}

fn tandem_runner(reference: &str, options: &EntryOptions, variant: Variant<'_>, is_embedder: bool) -> Result<TandemRunner> {
    let Variant { backend, weights, threads, numerics, kv_dtype, spin, kernels, adapted } = variant;
    let adapters: Vec<String> = options.adapter.iter().filter(|_| adapted).map(ToString::to_string).collect();
    let program = options.programs.iter().find(|program| program.backend == backend).map(|program| program.path.clone());
    let program = program.map_or_else(|| std::env::current_exe().context("where this program lies"), Ok)?;
    let device = match options.device {
        None => None,
        Some(DeviceChoice::Exactly(device)) => Some(device),
        Some(DeviceChoice::Auto) => {
            return Err(Usage::new("a bench runs on a device that is named, not on `auto`", "`tandem devices` lists them").into());
        }
    };
    let (dtype, graph) = match weights {
        Weights::Dtype(dtype) => (*dtype, None),
        Weights::Graph(graph) => (None, Some(graph.clone())),
    };
    let mut name = backend.to_string();
    let mut shown = format!("--backend {backend}");
    let mut add = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            let kind = if flag == "kv-dtype" { "KV " } else { "" };
            name = format!("{name} {kind}{value}");
            shown = format!("{shown} --{flag} {value}");
        }
    };
    add("device", device.map(|device| device.to_string()));
    add("dtype", dtype.map(|dtype| dtype.to_string()));
    add("graph", graph.as_ref().map(|graph| graph.display().to_string()));
    add("numerics", numerics.map(|numerics| numerics.to_string()));
    add("kv-dtype", kv_dtype.map(|dtype| dtype.to_string()));
    add("kernels", kernels.map(|kernels| kernels.to_string()));
    add("adapter", (!adapters.is_empty()).then(|| adapters.join(" --adapter ")));
    let (spinning, flag) = if spin { (" spinning", " --spin") } else { ("", "") };
    let plural = if threads == 1 { "" } else { "s" };
    let library = options.library.ort_library.clone();
    let onnx = OnnxOptions::new().with_library(library).with_graph(graph).with_spin(spin).with_kernels(kernels);
    let load = LoadOptions::new()
        .with_device(device.unwrap_or_default())
        .with_dtype(dtype)
        .with_numerics(numerics.unwrap_or_default())
        .with_kv_dtype(kv_dtype)
        .with_threads(NonZeroUsize::new(threads))
        .with_huge_pages(true)
        .with_onnx(onnx);
    let engine = EngineChoice { is_transformers: false, is_embedder, backend: Some(backend), load, adapters };
    Ok(TandemRunner {
        name: format!("{name}, {threads}{spinning} thread{plural}"),
        options: format!("{shown} --threads {threads}{flag}"),
        program,
        reference: reference.into(),
        engine,
        weight_files: Vec::new(),
    })
}
