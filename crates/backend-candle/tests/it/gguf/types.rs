//! Each type against a checkpoint of the values that candle dequantises from the same blocks.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tandem_backend_candle::CandleBackend;
use tandem_core::backend::Numerics;
use tandem_core::conformance::GgufWriter;
use tandem_core::files::ModelFiles;
use tandem_core::gguf::{Gguf, TensorType};
use tandem_core::{Backend, DType, LoadOptions};

use super::files::{restored, stored};
use super::{load, logits};

const QUANTISED: [TensorType; 8] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

/// Maps a weight: `(published name, shape, values)`.
type Change<'c> = &'c dyn Fn(&str, &[usize], &[f32]) -> Vec<f32>;

/// The type of each matrix, by its name in the GGUF file.
type Kinds<'k> = &'k dyn Fn(&str) -> TensorType;

#[test]
fn every_type_matches_candle_dequantisation() {
    for model_type in ["qwen2", "llama"] {
        for kind in QUANTISED {
            // Only Q6_K is quantised again, to 8 bits.
            let allowed = if kind == TensorType::Q6K { 2e-2 } else { 2e-5 };
            check(&format!("{model_type}-{kind}"), model_type, &|_| kind, None, allowed);
            check(&format!("{model_type}-{kind}-as-f32"), model_type, &|_| kind, Some(DType::F32), 2e-5);
        }
    }
}

#[test]
fn mixed_types_match_candle_dequantisation() {
    // As in llama.cpp's Q4_K_M, and with floats: projections that share a matrix take the widest form.
    let medium = |name: &str| match name {
        name if name.contains("attn_v") || name.contains("ffn_down") || name.starts_with("token_embd") => TensorType::Q6K,
        _ => TensorType::Q4K,
    };
    check("medium", "llama", &medium, None, 2e-2);
    let fallback = |name: &str| match name {
        name if name.contains("attn_v") || name.starts_with("token_embd") => TensorType::Q8_0,
        name if name.contains("attn_k") => TensorType::Q4_1,
        name if name.contains("attn_q") => TensorType::Q5_0,
        name if name.contains("ffn_gate") => TensorType::F16,
        _ => TensorType::Q4K,
    };
    check("fallback", "llama", &fallback, None, 2e-5);
}

/// Compares the logits of a GGUF file with matrices of `kinds` and of a checkpoint with the values that candle dequantises; they may
/// differ by `allowed` times the largest.
#[track_caller]
fn check(name: &str, model_type: &str, kinds: Kinds<'_>, dtype: Option<DType>, allowed: f32) {
    let directory = tempfile::tempdir().unwrap();
    let weights = weights(model_type);
    write(directory.path(), model_type, &weights, &|_, _, values| values.to_vec());
    let kind_of = |name: &str, shape: &[usize]| if shape.len() > 1 { kinds(name) } else { TensorType::F32 };
    let writer = GgufWriter::of_checkpoint(directory.path(), &|name, shape, values| {
        let kind = kind_of(name, shape);
        (kind, stored(kind, shape, values))
    });
    let options = LoadOptions::new().with_dtype(dtype).with_numerics(Numerics::Exact);
    let computed = logits(&*load(&writer, name, &options).unwrap());

    write(directory.path(), model_type, &weights, &|published, shape, values| {
        let name = Gguf::name_of(published).unwrap();
        let halves: Vec<u8> = stored(TensorType::F16, shape, values);
        match kind_of(&name, shape) {
            TensorType::F16 => halves.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect(),
            kind => restored(kind, shape, values),
        }
    });
    let files = ModelFiles::discover(directory.path(), name).unwrap();
    let expected = logits(&*CandleBackend::new().load(&files, &LoadOptions::default()).unwrap());
    let scale = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let difference = computed.iter().zip(&expected).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / scale;
    assert!(difference <= allowed, "{name}: {difference:e} of the largest logit");
    assert!(expected.iter().all(|value| value.is_finite()) && scale > 0.1, "{name}: {scale}");
}

const HIDDEN: usize = 256;
const VOCAB: usize = 96;

fn config(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": HIDDEN, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": VOCAB, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "attention_bias": model_type == "llama", "sliding_window": null
    })
}

/// Random weights by name, with their shapes.
fn weights(model_type: &str) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let mut shapes: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN]), ("model.norm.weight".into(), vec![HIDDEN])];
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        shapes
            .extend(["input_layernorm", "post_attention_layernorm"].map(|part| (name(&format!("{part}.weight")), vec![HIDDEN])));
        for (part, rows, columns) in [
            ("self_attn.q_proj", 256, HIDDEN),
            ("self_attn.k_proj", 128, HIDDEN),
            ("self_attn.v_proj", 128, HIDDEN),
            ("self_attn.o_proj", HIDDEN, 256),
            ("mlp.gate_proj", 512, HIDDEN),
            ("mlp.up_proj", 512, HIDDEN),
            ("mlp.down_proj", HIDDEN, 512),
        ] {
            shapes.push((name(&format!("{part}.weight")), vec![rows, columns]));
            let biased = part.starts_with("self_attn") && (model_type == "llama" || !part.ends_with("o_proj"));
            if biased {
                shapes.push((name(&format!("{part}.bias")), vec![rows]));
            }
        }
    }
    let mut state = 1_u32;
    // Numerical Recipes' constants: -1 to 1.
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut values = |name: &str, n: usize| -> Vec<f32> {
        let (middle, width) = if name.contains("norm") { (1.0, 0.2) } else { (0.0, 0.1) };
        (0..n).map(|_| middle + width * next()).collect()
    };
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = values(&name, shape.iter().product());
            (name, (shape, values))
        })
        .collect()
}

/// Writes a checkpoint of `weights`, mapped by `change`.
fn write(directory: &Path, model_type: &str, weights: &HashMap<String, (Vec<usize>, Vec<f32>)>, change: Change<'_>) {
    std::fs::write(directory.join("config.json"), config(model_type).to_string()).unwrap();
    let bytes = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| {
        let changed = change(name, shape, values);
        (name.clone(), shape.clone(), changed.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    };
    let all: Vec<_> = weights.iter().map(bytes).collect();
    let views = all.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
}
