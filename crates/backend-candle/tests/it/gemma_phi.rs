//! What Gemma 2, Gemma 3 and Phi-3 have beyond the other families: other weights, and windows.

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::json;
use tandem_backend_candle::CandleBackend;
use tandem_core::conformance::{Fixture, Golden, describe, greedy_tokens_match_golden, logits_match_golden};
use tandem_core::files::ModelFiles;
use tandem_core::{Error, LoadOptions, LogitsRequest, SessionOptions};

use crate::{edited, golden, load};

const FAMILIES: [&str; 3] = ["gemma2", "gemma3", "phi3"];

#[test]
fn mismatched_weight_is_an_error_that_names_it() {
    for (what, directory, expected) in [
        ("a missing norm", edited("gemma2", |_| {}, |name| !name.ends_with("1.pre_feedforward_layernorm.weight")), "feedforward"),
        ("a missing norm of queries", edited("gemma3", |_| {}, |name| !name.ends_with("2.self_attn.q_norm.weight")), "q_norm"),
        ("a missing head", edited("phi3", |_| {}, |name| name != "lm_head.weight"), "lm_head.weight"),
        ("a larger vocabulary", edited("gemma3", |config| config["vocab_size"] = json!(512), |_| true), "embed_tokens.weight"),
        ("another width inside", edited("phi3", |config| config["intermediate_size"] = json!(48), |_| true), "gate_up_proj"),
        ("more layers", edited("gemma2", |config| config["num_hidden_layers"] = json!(3), |_| true), "model.layers.2."),
    ] {
        let Err(error) = load(directory.path(), &LoadOptions::default()) else { panic!("{what} is an error") };
        assert!(matches!(error, Error::BadField { .. }), "{what}: {}", describe(&error));
        assert!(error.to_string().contains(expected), "{what}: {error}");
    }
}

#[test]
fn sliding_window_gives_equal_logits_for_prompt_and_steps() {
    for name in FAMILIES {
        let directory = edited(name, |config| config["sliding_window"] = json!(7), |_| true);
        let model = load(directory.path(), &LoadOptions::default()).unwrap();
        let tokens: Vec<u32> = (0..60).map(|i| i * 37 % 340).collect();
        let whole = model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::All).unwrap();
        let unlimited = load(&golden(name), &LoadOptions::default()).unwrap();
        let all = unlimited.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::Last(1)).unwrap();
        assert_ne!(all.row(0), whole.row(59), "{name}: the window is used");
        let mut session = model.new_session(&SessionOptions::default()).unwrap();
        let scale = whole.values().iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        for (i, token) in tokens.iter().enumerate() {
            let row = session.append(&[*token], LogitsRequest::Last(1)).unwrap();
            for (step, whole) in row.row(0).iter().zip(whole.row(i)) {
                assert!((step - whole).abs() <= 2e-5 * scale, "{name}, position {i}: {step} {whole}");
            }
        }
    }
}

/// As published from 4B on. A model whose one key/value head is written twice is the same model, so the golden holds.
#[test]
fn gemma3_with_two_kv_heads_matches_golden() {
    let directory = edited("gemma3", |config| config["num_key_value_heads"] = json!(2), |_| true);
    let bytes = std::fs::read(golden("gemma3").join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let doubled: Vec<(&str, Vec<usize>, Vec<u8>, _)> = tensors
        .iter()
        .map(|(name, view)| {
            let n = if [".k_proj.", ".v_proj."].iter().any(|part| name.contains(part)) { 2 } else { 1 };
            let mut shape = view.shape().to_vec();
            shape[0] *= n;
            (name, shape, view.data().repeat(n), view.dtype())
        })
        .collect();
    let views = doubled.iter().map(|(name, shape, data, dtype)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
    let fixture = Fixture {
        backend: Box::new(CandleBackend::new()),
        files: ModelFiles::discover(directory.path(), "gemma3").unwrap(),
        options: LoadOptions::default(),
        tolerance: 2e-5,
        golden: Some(Golden::read(&golden("gemma3"), Golden::MADE)),
    };
    logits_match_golden(&fixture);
    greedy_tokens_match_golden(&fixture);
}
