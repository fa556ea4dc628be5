//! The dtype that is chosen where none is asked for, by memory and speed of the machine.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, json};
use tandem::machine::Memory;
use tandem::{DType, ModelConfig, OpenedModel, Resolver, Settings};

use crate::support::{CHECKPOINT, engines, golden, resolver};

/// A checkpoint in the sizes of Qwen2.5-0.5B whose weights, in bf16, are a hole in the file: enough to open it.
fn write_hollow_checkpoint(directory: &Path) {
    let config = json!({
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "vocab_size": 151_936,
        "tie_word_embeddings": true, "rope_theta": 1e6, "hidden_act": "silu", "torch_dtype": "bfloat16",
    })
    .to_string();
    for name in CHECKPOINT {
        fs::copy(golden("qwen2-tied").join(name), directory.join(name)).unwrap();
    }
    fs::write(directory.join("config.json"), &config).unwrap();
    let mut end = 0;
    let mut header = Map::new();
    for weight in ModelConfig::from_json("config.json", config.as_bytes()).unwrap().expected_weights() {
        let start = end;
        end += 2 * weight.shape.iter().product::<usize>();
        header.insert(weight.name, json!({ "dtype": "BF16", "shape": weight.shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(directory.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// Opens the checkpoint with each engine.
fn each(resolver: &Resolver, change: impl Fn(&mut Settings), check: impl Fn(OpenedModel)) {
    let directory = tempfile::tempdir().unwrap();
    write_hollow_checkpoint(directory.path());
    for mut settings in engines() {
        change(&mut settings);
        let files = resolver.find(&resolver.resolve(&directory.path().into(), &settings).unwrap(), &settings).unwrap();
        check(resolver.open(files, &settings).unwrap());
    }
}

#[test]
fn the_dtype_follows_the_speed_of_memory() {
    for (bandwidth, expected) in [(1e12, DType::F32), (18e9, DType::Int8), (9e9, DType::Int4), (1e9, DType::Int4)] {
        each(
            &resolver().with_bandwidth(bandwidth),
            |_| (),
            |opened| {
                let choice = opened.dtype_choice().unwrap();
                assert_eq!((opened.dtype(), choice.chosen().dtype()), (expected, expected), "{choice:?}");
                let speeds: Vec<f64> = choice.estimates.iter().map(|estimate| estimate.tokens_per_second).collect();
                assert!(speeds.is_sorted() && speeds[0] > 0.0, "{speeds:?}");
            },
        );
    }
}

#[test]
fn the_dtype_fits_the_memory() {
    let available = |bytes| Memory { total: bytes, available: bytes, control_group: None, address_space: None };
    each(
        &resolver().with_bandwidth(1e12).with_memory(available(800 << 20)),
        |_| (),
        |opened| {
            let choice = opened.dtype_choice().unwrap();
            assert!(opened.dtype() != DType::F32 && choice.chosen().fits && !choice.most_exact().fits, "{choice:?}");
        },
    );
}

#[test]
fn a_dtype_that_is_asked_for_is_not_chosen() {
    let slow = resolver().with_bandwidth(1e9);
    let published = |settings: &mut Settings| settings.as_published = true;
    each(&slow, published, |opened| assert_eq!((opened.dtype(), opened.dtype_choice()), (DType::F32, None)));
    let exactly = |settings: &mut Settings| settings.load.dtype = Some(DType::Int8);
    each(&slow, exactly, |opened| assert_eq!((opened.dtype(), opened.dtype_choice()), (DType::Int8, None)));
}

#[test]
fn tiny_models_run_as_published_on_any_machine() {
    for settings in engines() {
        let model = resolver().with_bandwidth(1.0).load(&"demo".into(), &settings).unwrap();
        assert_eq!((model.info().dtype, model.dtype_choice()), (DType::F32, None));
    }
}
