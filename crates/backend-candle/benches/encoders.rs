//! Speed of encoding with random weights in the shape of all-MiniLM-L6-v2: tokens a second, best of several rounds. With one thread it is
//! seconds of the processor, so that other programs disturb it less.
//!
//! `cargo bench -p tandem-backend-candle --bench encoders -- [threads] [dtype]...`
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a program for a terminal")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tandem_backend_candle::CandleBackend;
use tandem_core::backend::TokenBatch;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, CancelToken, DType, LoadOptions, Model};

const HIDDEN: usize = 384;
const INNER: usize = 1536;
const LAYERS: usize = 6;
const VOCAB: usize = 2000;
const SHAPES: [(usize, usize); 5] = [(1, 16), (8, 32), (8, 128), (4, 256), (1, 512)];
const ROUND: Duration = Duration::from_millis(1500);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let threads: usize = arguments.first().map_or(1, |threads| threads.parse().unwrap());
    let named: Vec<DType> = arguments.iter().skip(1).map(|name| name.parse().unwrap()).collect();
    let directory = tempfile::tempdir().unwrap();
    write_checkpoint(directory.path());
    let files = ModelFiles::discover(directory.path(), "minilm").unwrap();
    for dtype in CandleBackend::new().dtypes(&files) {
        if !named.is_empty() && !named.contains(&dtype) {
            continue;
        }
        let mut options = LoadOptions::new().with_threads(NonZeroUsize::new(threads));
        options.dtype = Some(dtype);
        let model = CandleBackend::new().load(&files, &options).unwrap();
        print!("{dtype:5} {threads} threads:");
        for (n, length) in SHAPES {
            print!("  {n}x{length} {:6.0}", tokens_per_second(&*model, n, length, threads == 1));
        }
        println!();
    }
}

/// The best of the rounds that fit the time.
fn tokens_per_second(model: &dyn Model, n: usize, length: usize, of_processor: bool) -> f64 {
    let sequences: Vec<Vec<u32>> =
        (0..n).map(|i| (0..length).map(|j| ((i * 7919 + j * 104_729) % VOCAB) as u32).collect()).collect();
    let batch = TokenBatch::new(&sequences).unwrap();
    let (began, mut best) = (Instant::now(), f64::INFINITY);
    let now = || match of_processor {
        true => Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap().as_secs_f64(),
        false => began.elapsed().as_secs_f64(),
    };
    while began.elapsed() < ROUND {
        let start = now();
        model.encode(&batch, &CancelToken::new()).unwrap();
        best = best.min(now() - start);
    }
    (n * length) as f64 / best
}

fn write_checkpoint(directory: &Path) {
    let config = format!(
        r#"{{"model_type":"bert","hidden_size":{HIDDEN},"intermediate_size":{INNER},"num_hidden_layers":{LAYERS},
        "num_attention_heads":12,"vocab_size":{VOCAB},"max_position_embeddings":512,"type_vocab_size":2,"hidden_act":"gelu"}}"#
    );
    std::fs::write(directory.join("config.json"), config).unwrap();
    let mut shapes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut norm = |name: &str| {
        shapes.insert(format!("{name}.weight"), vec![HIDDEN]);
        shapes.insert(format!("{name}.bias"), vec![HIDDEN]);
    };
    norm("embeddings.LayerNorm");
    for layer in 0..LAYERS {
        norm(&format!("encoder.layer.{layer}.attention.output.LayerNorm"));
        norm(&format!("encoder.layer.{layer}.output.LayerNorm"));
    }
    for (name, rows) in [("word", VOCAB), ("position", 512), ("token_type", 2)] {
        shapes.insert(format!("embeddings.{name}_embeddings.weight"), vec![rows, HIDDEN]);
    }
    for layer in 0..LAYERS {
        for (name, rows, columns) in [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ] {
            shapes.insert(format!("encoder.layer.{layer}.{name}.weight"), vec![rows, columns]);
            shapes.insert(format!("encoder.layer.{layer}.{name}.bias"), vec![rows]);
        }
    }
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let n: usize = shape.iter().product();
            // Norms are near one, so that states keep their size.
            let of = |value: f32| if name.ends_with("LayerNorm.weight") { 1.0 + 0.1 * value } else { 0.06 * value };
            let bytes = (0..n).flat_map(|_| of(next()).to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = values.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &directory.join("model.safetensors")).unwrap();
}
