//! `tandem run`.

use serde_json::Value;

use crate::support::{Place, engine, place_with_engine};

fn run(place: &Place, more: &[&str]) -> Value {
    place.json(&[&["run", "model", "The fox", "--json", "--max-tokens", "24"], more].concat())
}

#[test]
fn the_report_has_every_field() {
    let Some(place) = place_with_engine() else { return };
    let report = run(&place, &["--raw", "--temperature", "0"]);
    for (field, value) in
        [("model", "model"), ("backend", engine()), ("device", "cpu"), ("dtype", "f32"), ("finish_reason", "length")]
    {
        assert_eq!(report[field], value, "{report}");
    }
    assert_eq!(report["seed"], Value::Null);
    assert_eq!(report["prompt_tokens"], serde_json::json!([51, 257, 279, 78, 87]));
    assert_eq!(report["tokens"].as_array().unwrap().len(), 24);
    assert!(!report["text"].as_str().unwrap().is_empty());
    assert!(report["engine_version"].as_str().unwrap().starts_with(char::is_numeric));
    assert!(report["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    let timings = report["timings"].as_object().unwrap();
    for name in ["load_ms", "prefill_ms", "first_token_ms", "decode_ms", "prefill_tokens_per_s", "decode_tokens_per_s"] {
        assert!(timings[name].as_f64().unwrap() > 0.0, "{name}: {report}");
    }
}

#[test]
fn greedy_and_seeded_runs_can_be_repeated() {
    let Some(place) = place_with_engine() else { return };
    let tokens = |more: &[&str]| run(&place, more)["tokens"].clone();
    assert_eq!(tokens(&["--raw", "--temperature", "0"]), tokens(&["--raw", "--temperature", "0"]));
    let seven = ["--temperature", "1", "--seed", "7"];
    assert_eq!(tokens(&seven), tokens(&seven));
    assert_ne!(tokens(&seven), tokens(&["--temperature", "1", "--seed", "8"]));
}

#[test]
fn a_seed_that_was_drawn_repeats_its_run() {
    let Some(place) = place_with_engine() else { return };
    let first = run(&place, &["--temperature", "1"]);
    let again = run(&place, &["--temperature", "1", "--seed", &first["seed"].to_string()]);
    assert_eq!((&first["tokens"], &first["seed"]), (&again["tokens"], &again["seed"]));
    assert_ne!(run(&place, &["--temperature", "1"])["seed"], first["seed"]);
    let outcome = place.tandem(&["run", "model", "The fox", "--temperature", "1", "-v", "--max-tokens", "1"]);
    assert!(outcome.stderr.contains("seed "), "{}", outcome.stderr);
}

#[test]
fn text_goes_to_stdout_and_figures_to_stderr() {
    let Some(place) = place_with_engine() else { return };
    let expected = run(&place, &[])["text"].as_str().unwrap().to_owned();
    let outcome = place.tandem(&["run", "model", "The fox", "--max-tokens", "24"]);
    assert_eq!(outcome.code, Some(0));
    assert_eq!(outcome.stdout.trim_end_matches('\n'), expected.trim_end_matches('\n'));
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    let side = format!("model · {} cpu f32 · ", engine());
    for part in [&*side, " prompt tokens at ", " · 24 tokens at ", " · first token ", " · length"] {
        assert!(outcome.stderr.contains(part), "`{part}`: {}", outcome.stderr);
    }
    let quiet = place.tandem(&["run", "model", "The fox", "--max-tokens", "24", "-q"]);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (outcome.stdout, ""));
}

#[test]
fn the_prompt_can_come_from_standard_input() {
    let Some(place) = place_with_engine() else { return };
    let given = run(&place, &[])["prompt_tokens"].clone();
    for args in [&["run", "model", "-", "--json"][..], &["run", "model", "--json"]] {
        let outcome = place.tandem_with_input(&[args, &["--max-tokens", "1"]].concat(), "The fox\n");
        assert_eq!(outcome.json()["prompt_tokens"], given);
    }
}

#[test]
fn a_system_message_and_the_template_are_in_the_prompt() {
    let Some(place) = place_with_engine() else { return };
    let n = |more: &[&str]| run(&place, more)["prompt_tokens"].as_array().unwrap().len();
    let (raw, templated, with_system) = (n(&["--raw"]), n(&[]), n(&["--system", "Be brief."]));
    assert!(raw < templated && templated < with_system, "{raw} {templated} {with_system}");
    place.tandem(&["run", "model", "x", "--raw", "--system", "y"]).fails(2, &["`--system` has no place with `--raw`"]);
}

#[test]
fn generation_ends_before_a_stop_string() {
    let Some(place) = place_with_engine() else { return };
    let text = run(&place, &["--raw"])["text"].as_str().unwrap().to_owned();
    let stop: String = text.chars().skip(4).take(3).collect();
    let report = run(&place, &["--raw", "--stop", &stop]);
    assert_eq!(report["finish_reason"], "stop");
    let expected = text.split(stop.as_str()).next().unwrap();
    assert_eq!(report["text"], expected);
}

#[test]
fn options_that_cannot_be_are_wrong_usage() {
    let place = Place::new();
    for (args, part) in [
        (["--temperature", "-1"], "option `temperature`: `-1` is less than 0"),
        (["--top-p", "1.5"], "option `top_p`: `1.5` is more than 1"),
        (["--stop", ""], "option `stop`"),
        (["--logit-bias", "3"], "`3` is not a bias"),
        (["--threads", "0"], "'--threads <N>'"),
        (["--device", "gpu"], "`gpu` is not one of `auto`, `cpu`"),
        (["--device", "metal"], "`coreml` with the backend `onnx`"),
        (["--backend", "torch"], "onnx, candle"),
        (["--frobnicate", "1"], "--frobnicate"),
    ] {
        let outcome = place.tandem(&[&["run", "model", "x"], &args[..]].concat());
        outcome.fails(2, &[part]);
    }
}

#[test]
fn a_failure_is_one_document_too() {
    let place = Place::new();
    let outcome = place.tandem(&["run", "nosuch", "x", "--json"]);
    assert_eq!(outcome.code, Some(1));
    let error = &outcome.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("no model `nosuch`"), "{error}");
    assert!(error["causes"].is_array() && error["hint"].is_string(), "{error}");
    assert!(outcome.stderr.starts_with("error: no model `nosuch`"), "{}", outcome.stderr);

    let outcome = place.tandem(&["run", "model", "x", "--json", "--frobnicate"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.json()["error"]["message"].as_str().unwrap().contains("--frobnicate"));
}

#[test]
fn an_option_without_effect_is_remarked_on() {
    let Some(place) = place_with_engine() else { return };
    let outcome = place.tandem(&["run", "model", "x", "--top-k", "5", "--max-tokens", "1"]);
    assert!(outcome.stderr.contains("--top-k has no effect"), "{}", outcome.stderr);
    let outcome = place.tandem(&["run", "model", "x", "--top-k", "5", "--temperature", "1", "--max-tokens", "1"]);
    assert!(!outcome.stderr.contains("no effect"), "{}", outcome.stderr);
}

#[test]
fn the_built_in_model_tells_a_story() {
    let Some(place) = place_with_engine() else { return };
    let report = place.json(&["run", "demo", "Tell me a story about a fox.", "--json", "--temperature", "0"]);
    assert_eq!((&report["model"], &report["backend"]), (&Value::from("demo"), &Value::from(engine())));
    assert!(report["text"].as_str().unwrap().split_whitespace().count() > 20, "{report}");
    let shown = place.json(&["show", "demo", "--no-load", "--json"]);
    assert_eq!(shown["chat_template"], true);
}

#[test]
fn nothing_is_written_at_home() {
    let Some(place) = place_with_engine() else { return };
    run(&place, &[]);
    place.json(&["run", "demo", "Hello", "--json", "--max-tokens", "2"]);
    place.json(&["score", "model", "The fox", "--json"]);
    assert_eq!(place.tandem_with_input(&["chat", "model", "--max-tokens", "2"], "The fox\n").code, Some(0));
    assert_eq!(place.files_at_home(), Vec::<std::path::PathBuf>::new());
}
