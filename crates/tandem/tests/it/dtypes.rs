//! The dtype that is chosen where none is asked for, by memory and speed of the machine.

use serde_json::json;
use tandem::machine::Memory;
use tandem::{DType, OpenedModel, Resolver, Settings};
use tandem_core::conformance::write_hollow_checkpoint;

use crate::support::{copy_checkpoint, engines, resolver};

/// Opens a checkpoint in the sizes of Qwen2.5-0.5B with each engine.
fn each(resolver: &Resolver, change: impl Fn(&mut Settings), check: impl Fn(OpenedModel)) {
    let directory = tempfile::tempdir().unwrap();
    copy_checkpoint(directory.path());
    let qwen = json!({
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "vocab_size": 151_936,
        "tie_word_embeddings": true,
    });
    write_hollow_checkpoint(directory.path(), &qwen);
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
