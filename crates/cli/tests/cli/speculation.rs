//! `--lookup` and `--draft`: the same tokens, in fewer steps.

use serde_json::Value;

use crate::support::{Place, place_with_engine};

const PROMPT: &str = "The fox and the river and the fox and the";

fn run(place: &Place, more: &[&str]) -> Value {
    place.json(&[&["run", "model", PROMPT, "--raw", "--max-tokens", "60", "--seed=3", "--json"], more].concat())
}

#[test]
fn drafts_do_not_change_the_output() {
    let Some(place) = place_with_engine() else { return };
    for temperature in ["--temperature=0", "--temperature=0.9"] {
        let alone = run(&place, &[temperature]);
        assert_eq!(alone["timings"]["tokens_drafted"], 0);
        let text = place.path("text.txt");
        std::fs::write(&text, format!("{PROMPT} {}", alone["text"].as_str().unwrap())).unwrap();
        for guess in ["--lookup", "--lookup=text.txt", "--draft=model"] {
            let guessed = run(&place, &[temperature, guess]);
            assert_eq!(guessed["tokens"], alone["tokens"], "{guess}");
            assert_eq!((&guessed["text"], &guessed["finish_reason"]), (&alone["text"], &alone["finish_reason"]));
        }
    }
    let own = run(&place, &["--temperature=0", "--draft=model"]);
    let timings = &own["timings"];
    assert!(timings["tokens_accepted"].as_u64() > Some(20), "{timings}");
    assert_eq!(timings["tokens_accepted"], timings["tokens_drafted"], "a model accepts its own drafts");
}

#[test]
fn unusable_drafts_are_errors() {
    let Some(place) = place_with_engine() else { return };
    let refused = |more: &[&str], code: i32, parts: &[&str]| {
        let outcome = place.tandem(&[&["run", "model", PROMPT], more].concat());
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
        for part in parts {
            assert!(outcome.stderr.contains(part), "`{part}`: {}", outcome.stderr);
        }
    };
    refused(&["--lookup=nosuch.txt"], 1, &["nosuch.txt"]);
    refused(&["--draft=nosuch"], 1, &["nosuch"]);
    refused(&["--draft=model", "--lookup"], 2, &["cannot be used with"]);
    place.write("prompts.jsonl", "\"The fox\"");
    let outcome = place.tandem(&["run", "model", "--prompts", "prompts.jsonl", "--lookup"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("speculative decoding has no place with `--prompts`"), "{}", outcome.stderr);
}
