//! Loading checkpoints: errors for what is refused, and variants of configurations and weights that must work.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tandem_core::backend::Kernels;
use tandem_core::conformance::describe;
use tandem_core::{DType, Device, Error, LoadOptions, LogitsRequest, OnnxOptions, SessionOptions};

use crate::{edited, golden, load};

#[test]
fn mismatched_weight_is_an_error_that_names_it() {
    let shapes = |field: &str, value: Value| edited("qwen2-untied", |config| config[field] = value.clone(), |_| true);
    for (what, directory, expected) in [
        ("a missing norm", edited("qwen2-untied", |_| {}, |name| name != "model.norm.weight"), "`model.norm.weight`"),
        ("a missing bias", edited("qwen2-untied", |_| {}, |name| name != "model.layers.1.self_attn.k_proj.bias"), "k_proj.bias`"),
        ("a missing head", edited("qwen2-untied", |_| {}, |name| name != "lm_head.weight"), "`lm_head.weight`"),
        ("a missing norm of queries", edited("qwen3", |_| {}, |name| !name.ends_with("0.self_attn.q_norm.weight")), "q_norm"),
        ("another width inside", shapes("intermediate_size", json!(48)), "gate_proj.weight`"),
        ("more layers", shapes("num_hidden_layers", json!(3)), "`model.layers.2."),
        ("a larger vocabulary", shapes("vocab_size", json!(1024)), "embed_tokens.weight`"),
        ("more heads", shapes("num_attention_heads", json!(6)), "q_proj."),
    ] {
        let Err(error) = load(directory.path(), &LoadOptions::default()) else { panic!("{what} is an error") };
        assert!(matches!(error, Error::BadField { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
    }
}

#[test]
fn broken_safetensors_is_an_error_that_names_the_file() {
    let whole = std::fs::read(golden("qwen3").join("model.safetensors")).unwrap();
    let header_of = |n: u64| [&n.to_le_bytes()[..], &whole[8..]].concat();
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("seven bytes", whole[..7].to_vec()),
        ("a header cut short", whole[..100].to_vec()),
        ("the last byte missing", whole[..whole.len() - 1].to_vec()),
        ("a header longer than the file", header_of(u64::MAX)),
        ("a header of half its length", header_of(whole.len() as u64)),
        ("no JSON", [&16_u64.to_le_bytes()[..], b"no JSON, no JSON"].concat()),
        ("offsets past the end", {
            let header = br#"{"model.norm.weight":{"dtype":"F32","shape":[32],"data_offsets":[0,128]}}"#;
            [&(header.len() as u64).to_le_bytes()[..], header, &[0; 64]].concat()
        }),
        ("a shape that overflows", {
            let header = br#"{"model.norm.weight":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,64]}}"#;
            [&(header.len() as u64).to_le_bytes()[..], header, &[0; 64]].concat()
        }),
    ] {
        let directory = edited("qwen3", |_| {}, |_| true);
        std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
        let Err(error) = load(directory.path(), &LoadOptions::default()) else { panic!("{what} is an error") };
        assert!(matches!(error, Error::BadFile { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("model.safetensors"), "{what}: {error}");
    }
}

#[test]
fn unsupported_dtype_device_and_graph_are_errors_with_a_hint() {
    for (what, options, expected) in [
        ("f16", LoadOptions::new().with_dtype(DType::F16), "f32"),
        ("bf16", LoadOptions::new().with_dtype(DType::Bf16), "f32"),
        ("a graph", LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(PathBuf::from("model.onnx"))), "backend `onnx`"),
        ("a GPU that is not there", LoadOptions::new().with_device(Device::Cuda(99)), "device `cpu`"),
        ("CoreML", LoadOptions::new().with_device(Device::CoreMl), "backend `onnx`"),
    ] {
        let Err(error) = load(&golden("qwen2-tied"), &options) else { panic!("{what} is refused") };
        assert!(error.hint().is_some_and(|hint| hint.to_string().contains(expected)), "{what}: {}", describe(&error));
    }
    let quantised = edited("qwen3", |config| config["quantization_config"] = json!({"quant_method": "gptq"}), |_| true);
    let Err(error) = load(quantised.path(), &LoadOptions::default()) else { panic!("GPTQ is refused") };
    assert!(error.to_string().contains("`gptq`"), "{error}");
}

#[test]
fn sliding_window_is_ignored_when_null_or_unused() {
    let logits = |change: &dyn Fn(&mut Value)| {
        let directory = edited("qwen2-tied", |config| change(config), |_| true);
        let model = load(directory.path(), &LoadOptions::default()).unwrap();
        let tokens: Vec<u32> = (0..40).collect();
        model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::Last(1)).unwrap()
    };
    let plain = logits(&|_| {});
    assert_eq!(logits(&|config| config["sliding_window"] = Value::Null), plain);
    // A number that stands there without being in use: candle-transformers applies it all the same.
    assert_eq!(logits(&|config| config["sliding_window"] = json!(4)), plain);
    let windowed = logits(&|config| {
        config["sliding_window"] = json!(4);
        config["use_sliding_window"] = json!(true);
        config["max_window_layers"] = json!(0);
    });
    assert_ne!(windowed, plain);
}

#[test]
fn sliding_window_gives_equal_logits_for_prompt_and_steps() {
    let change = |config: &mut Value| {
        config["sliding_window"] = json!(7);
    };
    let directory = edited("mistral", change, |_| true);
    let model = load(directory.path(), &LoadOptions::default()).unwrap();
    let tokens: Vec<u32> = (0..90).map(|i| i * 37 % 340).collect();
    let whole = model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::All).unwrap();
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    for (i, token) in tokens.iter().enumerate() {
        let row = session.append(&[*token], LogitsRequest::Last(1)).unwrap();
        close(row.row(0), whole.row(i), &format!("position {i}"));
    }
}

#[test]
fn weights_kept_in_16_bits_give_bit_identical_logits() {
    let logits = |directory: &Path| {
        let model = load(directory, &LoadOptions::default()).unwrap();
        let mut session = model.new_session(&SessionOptions::default()).unwrap();
        let tokens: Vec<u32> = (0..40).collect();
        let prompt = session.append(&tokens, LogitsRequest::All).unwrap();
        (model.info().dtype, model.info().memory_dtype, prompt, session.append(&[7], LogitsRequest::Last(1)).unwrap())
    };
    for name in ["qwen2-tied", "qwen2-untied", "qwen3"] {
        for narrow in [safetensors::Dtype::F16, safetensors::Dtype::BF16] {
            let all = stored_as(name, |_| narrow, narrow);
            let none = stored_as(name, |_| safetensors::Dtype::F32, narrow);
            // One of the two that become one matrix.
            let some = |name: &str| if name.contains("up_proj") { narrow } else { safetensors::Dtype::F32 };
            let some = stored_as(name, some, narrow);
            let (dtype, memory, prompt, step) = logits(all.path());
            assert_eq!(
                (dtype, memory == DType::F16, memory == DType::F32),
                (DType::F32, narrow == safetensors::Dtype::F16, false)
            );
            for wide in [none, some] {
                let wide = logits(wide.path());
                assert_eq!(wide.1, DType::F32);
                assert!(wide.2 == prompt && wide.3 == step, "{name}, {narrow:?}");
            }
        }
    }
}

#[test]
fn rope_theta_is_read_from_old_and_new_configurations() {
    // transformers 5 has moved `rope_theta`; a reader of the older form would silently use its default.
    let of = |directory: &Path| {
        let model = load(directory, &LoadOptions::default()).unwrap();
        let tokens: Vec<u32> = (3..30).collect();
        model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::Last(1)).unwrap()
    };
    let newer = edited(
        "qwen2-tied",
        |config| {
            config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": config["rope_theta"]});
            config["dtype"] = json!("float32");
            let object = config.as_object_mut().unwrap();
            for key in ["rope_theta", "rope_scaling", "torch_dtype"] {
                object.remove(key);
            }
        },
        |_| true,
    );
    assert_eq!(of(newer.path()), of(&golden("qwen2-tied")));
}

#[test]
fn weights_without_the_model_prefix_are_found() {
    let (source, directory) = (golden("qwen3"), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let bare = tensors.iter().map(|(name, view)| (name.trim_start_matches("model.").to_owned(), view));
    safetensors::serialize_to_file(bare, None, &directory.path().join("model.safetensors")).unwrap();
    std::fs::copy(source.join("config.json"), directory.path().join("config.json")).unwrap();
    let of = |directory: &Path| {
        let model = load(directory, &LoadOptions::default()).unwrap();
        model.new_session(&SessionOptions::default()).unwrap().append(&[1, 2, 3], LogitsRequest::Last(1)).unwrap()
    };
    assert_eq!(of(directory.path()), of(&source));
}

#[test]
fn second_prompt_attends_to_decoded_tokens() {
    // candle's quantised Qwen3 forgets decoded tokens here, because its two caches differ.
    let model = load(&golden("qwen3"), &LoadOptions::default()).unwrap();
    let tokens: Vec<u32> = (0..60).map(|i| i * 29 % 304).collect();
    let whole = model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::Last(1)).unwrap();
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    session.append(&tokens[..20], LogitsRequest::None).unwrap();
    for token in &tokens[20..30] {
        session.append(&[*token], LogitsRequest::Last(1)).unwrap();
    }
    let after = session.append(&tokens[30..], LogitsRequest::Last(1)).unwrap();
    close(after.row(0), whole.row(0), "the second prompt");
}

#[test]
fn rope_is_accurate_far_into_a_context() {
    // Within a window only differences of positions matter, so the same tokens after 8,000 others have the same logits. Tables in half
    // precision, as other implementations compute them, are off by whole turns there.
    let change = |config: &mut Value| {
        config["sliding_window"] = json!(7);
        config["max_position_embeddings"] = json!(9000);
    };
    let directory = edited("mistral", change, |_| true);
    let model = load(directory.path(), &LoadOptions::default()).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 340).collect();
    let near = model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::Last(1)).unwrap();
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    let before: Vec<u32> = (0..8000).map(|i| i * 11 % 340).collect();
    session.append(&before, LogitsRequest::None).unwrap();
    let far = session.append(&tokens, LogitsRequest::Last(1)).unwrap();
    let scale = near.row(0).iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let difference = far.row(0).iter().zip(near.row(0)).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / scale;
    // An angle of 8,000 in f32 is off by 2e-4 at most.
    assert!(difference <= 2e-3, "{difference:e}");
}

#[test]
fn head_dim_and_attention_bias_are_respected() {
    // candle-transformers' Llama computes hidden_size / heads instead of the one, and ignores the other.
    let plain = golden("llama-linear");
    let of = |directory: &Path| {
        let model = load(directory, &LoadOptions::default())?;
        model.new_session(&SessionOptions::default())?.append(&[1, 2, 3], LogitsRequest::Last(1))
    };
    let wider = edited("llama-linear", |config| config["head_dim"] = json!(32), |_| true);
    let error = of(wider.path()).unwrap_err();
    assert!(error.to_string().contains("q_proj.weight"), "another width is not derived: {error}");
    let biased = edited("llama-linear", |config| config["attention_bias"] = json!(true), |_| true);
    assert!(of(biased.path()).unwrap_err().to_string().contains("q_proj.bias"), "a bias that is declared must be there");

    let bytes = std::fs::read(plain.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<(String, TensorView<'_>)> = tensors.iter().map(|(name, view)| (name.to_owned(), view)).collect();
    let halves = half::bf16::from_f32(0.5).to_le_bytes().repeat(64);
    for (name, view) in tensors.iter().filter(|(name, _)| name.contains("self_attn")) {
        let (rows, dtype) = (view.shape()[0], safetensors::Dtype::BF16);
        all.push((name.replace(".weight", ".bias"), TensorView::new(dtype, vec![rows], &halves[..2 * rows]).unwrap()));
    }
    safetensors::serialize_to_file(all, None, &biased.path().join("model.safetensors")).unwrap();
    assert_ne!(of(biased.path()).unwrap(), of(&plain).unwrap());
}

fn close(left: &[f32], right: &[f32], what: &str) {
    let scale = right.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    for (left, right) in left.iter().zip(right) {
        assert!((left - right).abs() <= 2e-5 * scale, "{what}: {left} {right}");
    }
}

/// The checkpoint `name` with all weights rounded to `rounded`, and each stored in the dtype of its name.
fn stored_as(name: &str, dtype: impl Fn(&str) -> safetensors::Dtype, rounded: safetensors::Dtype) -> tempfile::TempDir {
    let directory = edited(name, |_| {}, |_| true);
    let file = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let narrow = |value: f32| match rounded {
        safetensors::Dtype::F16 => (f16::from_f32(value).to_bits(), f16::from_f32(value).to_f32()),
        _ => (bf16::from_f32(value).to_bits(), bf16::from_f32(value).to_f32()),
    };
    let stored = |(name, view): (&str, TensorView<'_>)| {
        let wide: Vec<f32> = match view.dtype() {
            safetensors::Dtype::F32 => view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            dtype => {
                assert_eq!(dtype, safetensors::Dtype::BF16);
                view.data().as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
            }
        };
        let values = wide.into_iter().map(narrow);
        let bytes: Vec<u8> = match dtype(name) {
            safetensors::Dtype::F32 => values.flat_map(|(_, wide)| wide.to_le_bytes()).collect(),
            _ => values.flat_map(|(bits, _)| bits.to_le_bytes()).collect(),
        };
        (name.to_owned(), dtype(name), view.shape().to_vec(), bytes)
    };
    let stored: Vec<_> = tensors.iter().map(stored).collect();
    let view = |(name, dtype, shape, bytes)| (name, TensorView::new(dtype, shape, bytes).unwrap());
    let views: Vec<(&String, TensorView<'_>)> =
        stored.iter().map(|(name, dtype, shape, bytes)| view((name, *dtype, shape.clone(), bytes.as_slice()))).collect();
    std::fs::remove_file(&file).unwrap();
    safetensors::serialize_to_file(views, None, &file).unwrap();
    directory
}

#[test]
fn kernels_of_the_other_engine_are_refused() {
    let with = |kernels| load(&golden("qwen2-tied"), &LoadOptions::new().with_onnx(OnnxOptions::new().with_kernels(kernels)));
    assert!(with(None).is_ok() && with(Some(Kernels::Tandem)).is_ok());
    let error = with(Some(Kernels::Runtime)).err().unwrap();
    assert!(matches!(&error, Error::InvalidOption { option, .. } if option == "kernels"), "{error}");
    assert!(error.hint().is_some());
}
