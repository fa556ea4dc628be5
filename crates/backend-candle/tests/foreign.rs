//! Families that candle-transformers runs: what is refused, and what a window does.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tandem_backend_candle::CandleBackend;
use tandem_core::conformance::describe;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, CancelToken, DType, Error, LoadOptions, LogitsRequest, Model, Result, SessionOptions};

const FAMILIES: [&str; 3] = ["gemma2", "gemma3", "phi3"];

#[test]
fn what_is_not_exact_is_refused_with_a_remedy() {
    let linear = json!({"rope_type": "linear", "factor": 8.0});
    for (name, field, value, expected) in [
        ("gemma2", "rope_scaling", linear.clone(), "rope scaling"),
        ("gemma3", "rope_scaling", linear.clone(), "rope scaling"),
        ("phi3", "rope_scaling", linear, "rope scaling"),
        ("gemma2", "tie_word_embeddings", json!(false), "head that is not the embedding"),
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
fn other_dtypes_are_refused_with_a_remedy() {
    for name in FAMILIES {
        for dtype in [DType::F16, DType::Bf16, DType::Int8, DType::Int4] {
            let options = LoadOptions::new().with_dtype(dtype);
            let Err(error) = load(&golden(name), &options) else { panic!("{name} in {dtype} is refused") };
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.to_string().contains("dtype `f32`")), "{}", describe(&error));
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
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
fn a_context_ends_where_a_window_would_begin_to_matter() {
    for name in ["gemma2", "phi3"] {
        let windowed = edited(name, |config| config["sliding_window"] = json!(40), |_| true);
        let (windowed, whole) =
            (load(windowed.path(), &LoadOptions::default()).unwrap(), load(&golden(name), &LoadOptions::default()).unwrap());
        assert_eq!((windowed.info().max_context, whole.info().max_context), (40, 256), "{name}");
        let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 340).collect();
        let last = |model: &dyn Model| {
            let mut session = model.new_session(&SessionOptions::default()).unwrap();
            session.append(&tokens, LogitsRequest::Last(1)).unwrap()
        };
        assert_eq!(last(&*windowed), last(&*whole), "{name}");
        let mut session = windowed.new_session(&SessionOptions::default()).unwrap();
        session.append(&tokens, LogitsRequest::None).unwrap();
        assert!(matches!(session.append(&[1], LogitsRequest::Last(1)), Err(Error::ContextFull { max: 40, .. })), "{name}");
    }
}

#[test]
fn a_context_that_nobody_has_memory_for_is_bounded() {
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
fn a_text_that_was_cut_short_is_made_again() {
    // A token that is set while a text is computed: nothing of it is held, and what was before is.
    let model = load(&golden("gemma3"), &LoadOptions::default()).unwrap();
    let tokens: Vec<u32> = (0..100).map(|i| i * 29 % 340).collect();
    let mut whole = model.new_session(&SessionOptions::default()).unwrap();
    let expected = whole.append(&tokens, LogitsRequest::Last(1)).unwrap();
    for _ in 0..8 {
        let cancel = CancelToken::new();
        let mut session = model.new_session(&SessionOptions::new().with_cancel(cancel.clone())).unwrap();
        session.append(&tokens[..60], LogitsRequest::None).unwrap();
        let from_another_thread = std::thread::spawn({
            let cancel = cancel.clone();
            move || cancel.cancel()
        });
        let first = session.append(&tokens[60..], LogitsRequest::Last(1));
        from_another_thread.join().unwrap();
        cancel.reset();
        let logits = match first {
            Ok(logits) => logits,
            Err(error) => {
                assert!(matches!(error, Error::Cancelled), "{error}");
                assert_eq!(session.n_tokens(), 60);
                session.append(&tokens[60..], LogitsRequest::Last(1)).unwrap()
            }
        };
        let scale = expected.values().iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        for (logit, expected) in logits.values().iter().zip(expected.values()) {
            assert!((logit - expected).abs() <= 2e-5 * scale, "{logit} {expected}");
        }
    }
}

fn load(directory: &Path, options: &LoadOptions) -> Result<Arc<dyn Model>> {
    CandleBackend::new().load(&ModelFiles::discover(directory, "model").unwrap(), options)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

/// The checkpoint `name` with another configuration and without some weights.
fn edited(name: &str, change: impl Fn(&mut Value), keep: impl Fn(&str) -> bool) -> tempfile::TempDir {
    let (source, directory) = (golden(name), tempfile::tempdir().unwrap());
    let mut config: Value = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<(String, TensorView<'_>)> =
        tensors.iter().map(|(name, view)| (name.to_owned(), view)).filter(|(name, _)| keep(name)).collect();
    safetensors::serialize_to_file(kept, None, &directory.path().join("model.safetensors")).unwrap();
    directory
}
