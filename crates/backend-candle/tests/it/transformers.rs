//! Families that candle-transformers runs: refused configurations, windows, and cancellation.

use serde_json::{Value, json};
use tandem_core::conformance::describe;
use tandem_core::{CancelToken, DType, Error, LoadOptions, LogitsRequest, Model, SessionOptions};

use crate::{edited, golden, load};

const FAMILIES: [&str; 3] = ["gemma2", "gemma3", "phi3"];

#[test]
fn configuration_that_would_be_inexact_is_refused_with_a_hint() {
    let linear = json!({"rope_type": "linear", "factor": 8.0});
    for (name, field, value, expected) in [
        ("gemma2", "rope_scaling", linear.clone(), "rope scaling"),
        ("gemma3", "rope_scaling", linear.clone(), "rope scaling"),
        ("phi3", "rope_scaling", linear, "rope scaling"),
        ("gemma2", "tie_word_embeddings", json!(false), "output head separate from the embedding"),
        ("gemma3", "layer_types", json!(["full_attention", "sliding_attention", "sliding_attention"]), "order of layers"),
        ("phi3", "head_dim", json!(16), "`head_dim` of `16`"),
    ] {
        let directory = edited(name, |config| config[field] = value.clone(), |_| true);
        let Err(error) = load(directory.path(), &LoadOptions::default()) else { panic!("{name} with {field} is refused") };
        assert!(matches!(error, Error::Unsupported { .. }), "{name}, {field}: {}", describe(&error));
        assert!(error.to_string().contains(expected) && error.hint().is_some(), "{name}, {field}: {}", describe(&error));
    }
}

#[test]
fn dtypes_other_than_f32_are_refused_with_a_hint() {
    for name in FAMILIES {
        for dtype in [DType::F16, DType::Bf16, DType::Int8, DType::Int4] {
            let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
            let Err(error) = load(&golden(name), &options) else { panic!("{name} in {dtype} is refused") };
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("--dtype f32")), "{}", describe(&error));
        }
    }
}

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
fn context_is_limited_to_the_window_of_gemma2_and_phi3() {
    for name in ["gemma2", "phi3"] {
        let windowed = edited(name, |config| config["sliding_window"] = json!(40), |_| true);
        let (windowed, whole) =
            (load(windowed.path(), &LoadOptions::default()).unwrap(), load(&golden(name), &LoadOptions::default()).unwrap());
        assert_eq!((windowed.info().max_context, whole.info().max_context), (40, 256), "{name}");
        let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 340).collect();
        let last = |model: &dyn Model| {
            let mut session = model.new_session(&SessionOptions::default()).unwrap();
            session.append(&tokens, LogitsRequest::Last).unwrap()
        };
        assert_eq!(last(&*windowed), last(&*whole), "{name}");
        let mut session = windowed.new_session(&SessionOptions::default()).unwrap();
        session.append(&tokens, LogitsRequest::None).unwrap();
        assert!(matches!(session.append(&[1], LogitsRequest::Last), Err(Error::ContextFull { max: 40, .. })), "{name}");
    }
}

#[test]
fn max_context_is_bounded_for_huge_configurations() {
    for name in FAMILIES {
        let change = |config: &mut Value| {
            config["max_position_embeddings"] = json!(1 << 30);
            config["sliding_window"] = json!(1 << 29);
        };
        let model = load(edited(name, change, |_| true).path(), &LoadOptions::default()).unwrap();
        assert!(model.info().max_context <= 32_768, "{name}: {}", model.info().max_context);
    }
}

#[test]
fn cancelled_append_is_recomputed() {
    // After a cancelled append the session holds what it held before.
    let model = load(&golden("gemma3"), &LoadOptions::default()).unwrap();
    let tokens: Vec<u32> = (0..100).map(|i| i * 29 % 340).collect();
    let mut whole = model.new_session(&SessionOptions::default()).unwrap();
    let expected = whole.append(&tokens, LogitsRequest::Last).unwrap();
    for _ in 0..8 {
        let cancel = CancelToken::new();
        let mut session = model.new_session(&SessionOptions { cancel: cancel.clone(), ..SessionOptions::default() }).unwrap();
        session.append(&tokens[..60], LogitsRequest::None).unwrap();
        let from_another_thread = std::thread::spawn({
            let cancel = cancel.clone();
            move || cancel.cancel()
        });
        let first = session.append(&tokens[60..], LogitsRequest::Last);
        from_another_thread.join().unwrap();
        cancel.reset();
        let logits = match first {
            Ok(logits) => logits,
            Err(error) => {
                assert!(matches!(error, Error::Cancelled), "{error}");
                assert_eq!(session.n_tokens(), 60);
                session.append(&tokens[60..], LogitsRequest::Last).unwrap()
            }
        };
        let scale = expected.values().iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        for (logit, expected) in logits.values().iter().zip(expected.values()) {
            assert!((logit - expected).abs() <= 2e-5 * scale, "{logit} {expected}");
        }
    }
}
