//! The dtype that suits the machine: what is said of it, and which commands choose one.

use serde_json::json;
use tandem::plan::Measurements;
use tandem_core::conformance::write_hollow_checkpoint;

use crate::export::checkpoint;
use crate::support::{Place, engine, place_with_engine};

/// A checkpoint of 59 million weights on a machine whose memory gives `bandwidth`, with two threads.
fn place(bandwidth: f64) -> Option<Place> {
    let place = place_with_engine()?;
    checkpoint(&place);
    let config = json!({
        "model_type": "qwen2", "hidden_size": 512, "intermediate_size": 8192, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 4, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "vocab_size": 288,
        "tie_word_embeddings": true,
    });
    write_hollow_checkpoint(&place.path("checkpoint"), &config);
    let mut measured = Measurements::default();
    measured.set_bandwidth(2, bandwidth);
    measured.write(&place.path("home/state/tandem/memory.json")).unwrap();
    Some(place)
}

const RUN: [&str; 9] = ["run", "checkpoint", "The fox", "--raw", "--max-tokens", "1", "--threads", "2", "--json"];

#[test]
fn run_chooses_and_says_what_suits_the_machine() {
    let Some(place) = place(1e9) else { return };
    let outcome = place.tandem(&RUN);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let note = outcome.stderr.lines().find(|line| line.starts_with("chose dtype `")).unwrap();
    assert!(note.contains(" tokens/s here, `f32` would give "), "{note}");
    let report = outcome.json();
    let dtype = report["dtype"].as_str().unwrap();
    assert!(note.contains(&format!("`{dtype}`")) && dtype != "f32", "{report}");
    let (chosen, exact) = ("estimated_tokens_per_second", "most_exact_tokens_per_second");
    let speed = |field| report["dtype_choice"][field].as_f64().unwrap();
    assert!(speed(chosen) > speed(exact) && speed(exact) > 0.0 && speed(exact) < 15.0, "{report}");
    assert_eq!(report["dtype_choice"]["kl_nats"], json!(null));
}

#[test]
fn the_most_exact_dtype_is_not_remarked_on() {
    let Some(place) = place(100e9) else { return };
    let outcome = place.tandem(&RUN);
    assert!(outcome.code == Some(0) && !outcome.stderr.contains("chose dtype"), "{}", outcome.stderr);
    let report = outcome.json();
    assert_eq!(report["dtype"], "f32");
    assert!(report["dtype_choice"]["estimated_tokens_per_second"].as_f64().unwrap() >= 15.0, "{report}");
}

#[test]
fn what_is_asked_for_or_measured_is_not_chosen() {
    let Some(place) = place(1e9) else { return };
    for dtype in ["published", "f32"] {
        let report = place.json(&[&RUN[..], &["--dtype", dtype]].concat());
        assert_eq!((&report["dtype"], &report["dtype_choice"]), (&json!("f32"), &json!(null)));
    }
    let scored = place.json(&["score", "checkpoint", "The fox", "--threads", "2", "--json"]);
    assert_eq!(scored["dtype"], "f32");
    let chosen = place.json(&["score", "checkpoint", "The fox", "--threads", "2", "--json", "--dtype", "auto"]);
    assert_ne!(chosen["dtype"], "f32");
    let shown = place.json(&["show", "checkpoint", "--backend", engine(), "--threads", "2", "--json", "--no-load"]);
    assert_ne!(shown["memory"]["dtype"], "f32", "what a run would take");
}
