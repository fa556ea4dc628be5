//! A run that is under way ends when it is cancelled, and the session goes on from where it was.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use safetensors::tensor::{Dtype, TensorView};
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::conformance::{describe, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, CancelToken, Error, LoadOptions, LogitsRequest, Model, SessionOptions, TokenId};

const HIDDEN: usize = 512;
const INTERMEDIATE: usize = 2048;
const LAYERS: usize = 6;
const HEADS: usize = 8;
const VOCAB: usize = 1024;
const CONTEXT: usize = 4096;

#[test]
fn cancel_ends_a_running_prefill() {
    with_fixture(|| library::find(None).map_err(|error| describe(&error)), |_| check_cancelled_prefill());
}

fn check_cancelled_prefill() {
    let directory = tempfile::tempdir().unwrap();
    let model = slow_model(directory.path());
    let cancel = CancelToken::new();
    let mut session = model.new_session(&SessionOptions::new().with_cancel(cancel.clone())).unwrap();
    let tokens: Vec<TokenId> = (0..CONTEXT as TokenId - 100).map(|i| i * 31 % VOCAB as TokenId).collect();
    session.append(&tokens[..50], LogitsRequest::None).unwrap();

    // The whole prompt takes seconds; a run that could not be ended would succeed. The cancel comes while it is under way: should it
    // come before the start on a busy machine, it is seen there, which the suite tests as well.
    let canceller = std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            std::thread::sleep(Duration::from_millis(150));
            cancel.cancel();
        }
    });
    let ended = session.append(&tokens[50..], LogitsRequest::Last(1));
    canceller.join().unwrap();
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    assert_eq!(session.n_tokens(), 50, "nothing is held of the call");

    cancel.reset();
    let after = session.append(&tokens[50..60], LogitsRequest::Last(1)).unwrap();
    let whole = model.new_session(&SessionOptions::default()).unwrap().append(&tokens[..60], LogitsRequest::Last(1)).unwrap();
    let difference = after.values().iter().zip(whole.values()).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(difference < 1e-3, "the cache is what it was: {difference}");
}

/// A model that is large enough for a prompt to take its time, with weights of a fixed sequence.
fn slow_model(directory: &Path) -> Arc<dyn Model> {
    let config = serde_json::json!({
        "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu",
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
        shapes().into_iter().map(|(name, shape)| (name.clone(), shape.clone(), weights(&name, &shape))).collect();
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
    let files = ModelFiles::discover(directory, "slow").unwrap();
    OnnxBackend::new(None).load(&files, &LoadOptions::default()).unwrap()
}

fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes =
        vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]), ("model.norm.weight".to_owned(), vec![HIDDEN])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for projection in ["q", "k", "v"] {
            add(&format!("self_attn.{projection}_proj.weight"), &[HIDDEN, HIDDEN]);
            add(&format!("self_attn.{projection}_proj.bias"), &[HIDDEN]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[INTERMEDIATE, HIDDEN]);
        add("mlp.up_proj.weight", &[INTERMEDIATE, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, INTERMEDIATE]);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
    }
    shapes
}

/// Norms of ones, all else small numbers of a linear congruential sequence (Numerical Recipes' constants).
fn weights(name: &str, shape: &[usize]) -> Vec<u8> {
    let n: usize = shape.iter().product();
    if name.contains("norm") {
        return std::iter::repeat_n(1.0_f32.to_le_bytes(), n).flatten().collect();
    }
    let mut state = name.bytes().fold(1_u32, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut bytes = Vec::with_capacity(4 * n);
    for _ in 0..n {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend((((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.1).to_le_bytes());
    }
    bytes
}
