//! `tandem score`, `show`, `devices`, `setup` and `completions`.

use serde_json::{Value, json};

use crate::support::{Place, engine, has_onnx, place_with_engine, place_with_onnx, weights};

#[test]
fn scores_are_probabilities() {
    let Some(place) = place_with_engine() else { return };
    let report = place.json(&["score", "model", "The fox and the rain", "--json", "--top", "288"]);
    let tokens = report["tokens"].as_array().unwrap();
    assert_eq!(report["n_tokens"], tokens.len());
    assert_eq!((&tokens[0]["logprob"], &tokens[0]["rank"]), (&Value::Null, &Value::Null));
    let mut sum = 0.0;
    for token in &tokens[1..] {
        let top = token["top"].as_array().unwrap();
        let total: f64 = top.iter().map(|entry| entry["logprob"].as_f64().unwrap().exp()).sum();
        assert!((total - 1.0).abs() < 1e-6, "{total}");
        assert_eq!(top[token["rank"].as_u64().unwrap() as usize]["id"], token["id"]);
        sum += token["logprob"].as_f64().unwrap();
    }
    let perplexity = (-sum / (tokens.len() - 1) as f64).exp();
    assert!((report["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-9);
    let text: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(text, "The fox and the rain");

    let table = place.tandem(&["score", "model", "The fox and the rain"]);
    assert_eq!(table.code, Some(0));
    assert!(table.stdout.contains(&format!("perplexity {perplexity:.4}")), "{}", table.stdout);
    assert_eq!(table.stdout.lines().count(), 1 + tokens.len() + 3, "{}", table.stdout);
}

#[test]
fn greedy_tokens_have_rank_zero() {
    let Some(place) = place_with_engine() else { return };
    let run = place.json(&[
        "run",
        "model",
        "The fox",
        "--raw",
        "--temperature",
        "0",
        "--max-tokens",
        "12",
        "--json",
        "--stop",
        "\u{fffd}",
    ]);
    let text = format!("The fox{}", run["text"].as_str().unwrap());
    let report = place.json(&["score", "model", &text, "--json"]);
    let ids = |tokens: &Value| tokens.as_array().unwrap().iter().map(|token| token["id"].clone()).collect::<Vec<_>>();
    let prompt = run["prompt_tokens"].as_array().unwrap();
    let scored = ids(&report["tokens"]);
    // As far as the text is cut into the same tokens again, they are the most probable ones.
    let drawn = run["tokens"].as_array().unwrap();
    let n_same = scored[prompt.len()..].iter().zip(drawn).take_while(|(a, b)| a == b).count();
    assert!(n_same > 0, "{report}");
    for token in &report["tokens"].as_array().unwrap()[prompt.len()..prompt.len() + n_same] {
        assert_eq!(token["rank"], 0, "{token}");
    }
}

#[test]
fn show_says_what_a_model_is_and_where_it_runs() {
    let Some(place) = place_with_engine() else { return };
    place.write("model/README.md", "---\nlicense: apache-2.0\n---\n");
    let report = place.json(&["show", "model", "--json", "--hashes"]);
    for (field, value) in [
        ("architecture", json!("qwen2")),
        ("n_layers", json!(2)),
        ("vocab_size", json!(288)),
        ("max_context", json!(256)),
        ("chat_template", json!(true)),
        ("end_tokens", json!([285, 287])),
        ("licence", json!("apache-2.0")),
    ] {
        assert_eq!(report[field], value, "{report}");
    }
    let loaded = &report["loaded"];
    assert_eq!((&loaded["backend"], &loaded["device"], &loaded["dtype"]), (&json!(engine()), &json!("cpu"), &json!("f32")));
    if has_onnx() {
        assert!(loaded["placement"][0]["provider"].as_str().unwrap().starts_with("CPU"), "{loaded}");
    }
    assert!(loaded["kv_bytes_per_token"].as_u64().unwrap() > 0);
    for file in report["files"].as_array().unwrap() {
        assert_eq!(file["sha256"].as_str().unwrap().len(), 64, "{file}");
    }
    let text = place.tandem(&["show", "model"]).stdout;
    let of_engine = if has_onnx() { ["CPUExecutionProvider", "onnx 1."] } else { ["candle", "cpu"] };
    for part in [&["qwen2", "256 tokens", "apache-2.0", weights()], &of_engine[..]].concat() {
        assert!(text.contains(part), "`{part}`: {text}");
    }
}

#[test]
fn show_can_leave_the_engine_alone() {
    let place = Place::new().with_external_data();
    let report = place.json(&["show", "model", "--json", "--no-load", "--ort-library", "/no/such.so"]);
    assert_eq!(report["loaded"], Value::Null);
    assert_eq!(report["end_tokens"], json!([285, 287]));
    let names: Vec<_> = report["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"model/onnx/model.onnx.data"), "{names:?}");
    let Some(place) = place_with_onnx() else { return };
    place.tandem(&["show", "model", "--ort-library", "/no/such.so"]).fails(1, &["/no/such.so"]);
}

#[test]
fn devices_lists_every_backend_that_is_known() {
    let place = Place::new();
    let report = place.json(&["devices", "--json"]);
    let backends = report["backends"].as_array().unwrap();
    assert_eq!(backends.iter().map(|backend| backend["backend"].as_str().unwrap()).collect::<Vec<_>>(), ["onnx", "candle"]);
    for (backend, kind) in backends.iter().zip(tandem::backends::KNOWN_BACKENDS) {
        let is_compiled = tandem::backends::compiled().contains(&kind);
        assert_eq!((backend["compiled"].as_bool(), backend["hint"].is_string()), (Some(is_compiled), !is_compiled), "{kind}");
    }
    for device in backends.iter().flat_map(|backend| backend["devices"].as_array().unwrap()) {
        assert_eq!(device["usable"].as_bool().unwrap(), device["reason"].is_null(), "{device}");
    }
    let text = place.tandem(&["devices"]);
    assert_eq!(text.code, Some(0));
    let is_whole = tandem::backends::compiled().len() == tandem::backends::KNOWN_BACKENDS.len();
    assert_eq!(text.stdout.contains("not part of this build"), !is_whole, "{}", text.stdout);

    let Some(place) = place_with_onnx() else { return };
    let missing = place.json(&["devices", "--json", "--ort-library", "/no/such.so"]);
    let cpu = &missing["backends"][0]["devices"][0];
    assert_eq!(cpu["usable"], false);
    assert!(cpu["reason"].as_str().unwrap().contains("/no/such.so") && cpu["hint"].is_string(), "{cpu}");
}

#[test]
fn setup_refuses_a_wheel_that_is_not_the_pinned_one() {
    let Some(place) = place_with_onnx() else {
        return Place::new().tandem(&["setup"]).fails(1, &["backend `onnx` is not part of this build", "--features onnx"]);
    };
    place.write("onnxruntime.whl", "no wheel");
    let outcome = place.tandem(&["setup", "--wheel", "onnxruntime.whl"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: ") && outcome.stderr.contains("onnxruntime.whl"), "{}", outcome.stderr);
}

#[test]
fn completions_are_scripts() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = place.tandem(&["completions", shell]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
        assert!(
            outcome.stdout.contains("tandem") && outcome.stdout.contains("execution") | outcome.stdout.contains("max-tokens")
        );
    }
    assert_eq!(place.tandem(&["completions", "cmd"]).code, Some(2));
}
