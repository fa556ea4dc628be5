//! What adapters do to the matrices of this engine, beside the conformance suite: blocks, packed projections, tied heads, probes.

use std::sync::Arc;

use tandem_core::adapter::{Adapter, LowRankFactors, ScaledAdapter};
use tandem_core::backend::{Numerics, ProbePoint, Stage, TokenBatch};
use tandem_core::gguf::TensorType;
use tandem_core::{CancelToken, DType, Error, LoadOptions, LogitsRequest, Model, SessionOptions};

use crate::gguf::files::{golden_in, model_files};
use crate::{golden, load};

#[test]
fn blocks_take_adapters_as_the_same_values_in_f32_do() {
    for kind in [TensorType::Q4_0, TensorType::Q4_1, TensorType::Q5_1, TensorType::Q8_0] {
        let files = model_files(&golden_in("llama-yarn", kind), &format!("adapted-{kind}"));
        let of = |dtype, magnitudes| {
            let options = LoadOptions::new().with_dtype(dtype).with_numerics(Numerics::Exact);
            let model = tandem_core::Backend::load(&tandem_backend_candle::CandleBackend::new(), &files, &options).unwrap();
            let plain = logits(&*model);
            let factors = projections(&*model, magnitudes);
            (plain, logits(&*adapted(&*model, factors)))
        };
        for magnitudes in [false, true] {
            let ((_, blocks), (plain, floats)) = (of(None, magnitudes), of(Some(DType::F32), magnitudes));
            // Factors beside blocks have 11 bits.
            close(&blocks, &floats, 1e-3, &format!("{kind}, magnitudes: {magnitudes}"));
            assert!(difference(&plain, &floats) > 0.05, "{kind}: the adapter changes something");
        }
    }
}

#[test]
fn packed_projections_take_both_names() {
    for name in ["phi3", "qwen2-untied"] {
        let model = load(&golden(name), &LoadOptions::default()).unwrap();
        let config = tandem_core::files::ModelFiles::discover(&golden(name), name).unwrap().model_config().unwrap();
        let (queries, keys) = (config.n_heads * config.head_dim(), config.n_kv_heads * config.head_dim());
        for (packed, parts) in [
            ("self_attn.qkv_proj", vec![("self_attn.q_proj", queries), ("self_attn.k_proj", keys), ("self_attn.v_proj", keys)]),
            ("mlp.gate_up_proj", vec![("mlp.gate_proj", config.intermediate_size), ("mlp.up_proj", config.intermediate_size)]),
        ] {
            let layer = |module: &str| format!("model.layers.1.{module}");
            let rows = parts.iter().map(|(_, rows)| rows).sum();
            for magnitudes in [false, true] {
                let all = factors(&layer(packed), [rows, config.hidden_size], 5, magnitudes);
                let mut first = 0;
                let separate = parts.iter().map(|(part, n)| {
                    first += n;
                    let own = first - n..first;
                    LowRankFactors {
                        module: layer(part),
                        b: all.b[own.start * all.rank..own.end * all.rank].to_vec(),
                        magnitude: all.magnitude.as_ref().map(|magnitude| magnitude[own.clone()].to_vec()),
                        ..all.clone()
                    }
                });
                let separate = logits(&*adapted(&*model, separate.collect()));
                let packed_logits = logits(&*adapted(&*model, vec![all]));
                close(&packed_logits, &separate, 2e-5, &format!("{name}, `{packed}`"));
                assert!(difference(&packed_logits, &logits(&*model)) > 1e-3);
            }
        }
    }
}

#[test]
fn head_that_is_the_embedding_is_adapted_alone() {
    let model = load(&golden("qwen2-tied"), &LoadOptions::default()).unwrap();
    let (hidden, vocab) = (model.info().hidden_size, model.info().vocab_size);
    let head = factors("lm_head", [vocab, hidden], 3, false);
    let with_head = adapted(&*model, vec![head.clone()]);
    // The embedding is as it was: so are the states that the head reads.
    let encode = |model: &dyn Model| model.encode(&TokenBatch::new(&[TOKENS]).unwrap(), &CancelToken::new()).unwrap().values;
    let states = encode(&*model);
    assert_eq!(encode(&*with_head), states);
    let all = |model: &dyn Model| {
        let mut session = model.new_session(&SessionOptions::default()).unwrap();
        session.append(&TOKENS, LogitsRequest::All).unwrap().values().to_vec()
    };
    let mut expected = all(&*model);
    add(&head, &states, &mut expected);
    close(&all(&*with_head), &expected, 2e-5, "logits");
}

#[test]
fn probes_show_the_adapted_values() {
    let model = load(&golden("qwen3"), &LoadOptions::default()).unwrap();
    let points = [Stage::AttentionNorm, Stage::Key].map(|stage| ProbePoint { layer: Some(0), stage });
    let probe = |model: &dyn Model| {
        let probes = model.prober().unwrap().probe(&TOKENS, &points).unwrap();
        (probes[0].values.clone(), probes[1].values.clone())
    };
    let (norms, mut keys) = probe(&*model);
    let module = factors("model.layers.0.self_attn.k_proj", [keys.len() / TOKENS.len(), model.info().hidden_size], 4, false);
    add(&module, &norms, &mut keys);
    close(&probe(&*adapted(&*model, vec![module])).1, &keys, 2e-5, "keys");
}

#[test]
fn encoders_refuse_adapters() {
    let model = load(&golden("embedders").join("bert-mean"), &LoadOptions::default()).unwrap();
    assert!(matches!(model.with_adapters(&[]), Err(Error::Unsupported { .. })));
}

const TOKENS: [u32; 11] = [3, 90, 17, 4, 250, 61, 8, 33, 120, 99, 5];

/// The logits of a prompt and of some tokens after it, one at a time.
fn logits(model: &dyn Model) -> Vec<f32> {
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    let n = model.info().vocab_size as u32;
    let prompt: Vec<u32> = (0..40).map(|i| i * 29 % n).collect();
    let mut all = session.append(&prompt, LogitsRequest::All).unwrap().values().to_vec();
    TOKENS[..3].iter().for_each(|token| all.extend(session.append(&[*token % n], LogitsRequest::Last(1)).unwrap().values()));
    all
}

fn adapted(model: &dyn Model, factors: Vec<LowRankFactors>) -> Arc<dyn Model> {
    let adapter = Adapter::new("mine", factors).unwrap();
    model.with_adapters(&[ScaledAdapter::new(Arc::new(adapter))]).unwrap()
}

/// Factors of all projections of a Llama of the size of `model`.
fn projections(model: &dyn Model, magnitudes: bool) -> Vec<LowRankFactors> {
    let config = tandem_core::files::ModelFiles::discover(&golden("llama-yarn"), "llama").unwrap().model_config().unwrap();
    assert_eq!(config.n_layers, model.info().n_layers);
    let weights = config.expected_weights().filter(|weight| weight.name.ends_with("_proj.weight"));
    let of = |(i, weight): (usize, tandem_core::config::ExpectedWeight)| {
        let shape = weight.shape.try_into().unwrap();
        factors(weight.name.trim_end_matches(".weight"), shape, 1 + i % 4, magnitudes)
    };
    weights.enumerate().map(of).collect()
}

fn factors(module: &str, [n_outputs, n_inputs]: [usize; 2], rank: usize, magnitudes: bool) -> LowRankFactors {
    let numbers = |n: usize, seed: usize| -> Vec<f32> {
        (0..n).map(|i| (((i * i + 7 * i + (seed + module.len()) * 131) % 997) as f32 * 0.71).sin()).collect()
    };
    LowRankFactors {
        module: module.into(),
        a: numbers(rank * n_inputs, 1).into_iter().map(|value| value / (n_inputs as f32).sqrt()).collect(),
        b: numbers(rank * n_outputs, 2).into_iter().map(|value| 0.3 * value).collect(),
        rank,
        scale: 0.5,
        magnitude: magnitudes.then(|| numbers(n_outputs, 3).into_iter().map(|value| 1.0 + 0.3 * value).collect()),
    }
}

/// Adds `s B A x` to each row of `out`.
fn add(factors: &LowRankFactors, x: &[f32], out: &mut [f32]) {
    let dot = |left: &[f32], right: &[f32]| left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum::<f64>();
    for (x, out) in x.chunks(factors.inputs()).zip(out.chunks_mut(factors.outputs())) {
        let low: Vec<f32> = factors.a.chunks(factors.inputs()).map(|a| dot(a, x) as f32).collect();
        for (out, b) in out.iter_mut().zip(factors.b.chunks(factors.rank)) {
            *out += factors.scale * dot(b, &low) as f32;
        }
    }
}

fn difference(computed: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(computed.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    computed.iter().zip(expected).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / scale
}

#[track_caller]
fn close(computed: &[f32], expected: &[f32], allowed: f32, what: &str) {
    let difference = difference(computed, expected);
    assert!(difference <= allowed, "{what}: {difference:e} of the largest, {allowed:e} is allowed");
}
