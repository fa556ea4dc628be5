//! `tandem run --prompts`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{ENDLESS, Place, place_with_engine};

const PROMPTS: [&str; 5] =
    ["The fox", "A", "Once upon a time there was a small house by the river", "The fox and the hare", "Rain"];

const FLAGS: [&str; 5] = ["--temperature", "0.8", "--seed=5", "--max-tokens", "20"];

fn write(place: &Place, prompts: &[&str]) {
    let lines: Vec<String> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| if i % 2 == 0 { json!(prompt).to_string() } else { json!({ "id": i, "prompt": prompt }).to_string() })
        .collect();
    place.write("prompts.jsonl", lines.join("\n"));
}

fn many(place: &Place, more: &[&str]) -> Value {
    place.json(&[&["run", "model", "--prompts", "prompts.jsonl", "--json"], &FLAGS[..], more].concat())
}

#[test]
fn each_prompt_gets_what_it_gets_alone() {
    let Some(place) = place_with_engine() else { return };
    write(&place, &PROMPTS);
    let alone = PROMPTS.map(|prompt| place.json(&[&["run", "model", prompt, "--json"], &FLAGS[..]].concat()));
    for parallel in ["1", "3", "8"] {
        let report = many(&place, &["--parallel", parallel]);
        let results = report["results"].as_array().unwrap();
        assert_eq!((results.len(), &report["parallel"]), (PROMPTS.len(), &json!(parallel.parse::<u64>().unwrap())));
        for (result, alone) in results.iter().zip(&alone) {
            for field in ["model", "seed", "prompt_tokens", "tokens", "text", "finish_reason"] {
                assert_eq!(result[field], alone[field], "{field}, {parallel} at once");
            }
            let keys = |report: &Value| report.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(result), keys(alone), "a result has the form of a run's");
        }
        assert!(report["tokens_per_s"].as_f64().unwrap() > 0.0 && report["total_ms"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn texts_are_in_the_order_of_the_file() {
    let Some(place) = place_with_engine() else { return };
    write(&place, &PROMPTS);
    let results = many(&place, &["--raw"]);
    let texts = results["results"].as_array().unwrap().iter().map(|result| result["text"].as_str().unwrap().to_owned());
    let expected: String = texts.map(|text| if text.ends_with('\n') { text } else { text + "\n" }).collect();
    let args = [&["run", "model", "--prompts", "-", "--raw", "--parallel", "2"], &FLAGS[..]].concat();
    let outcome = place.tandem_with_input(&args, place.read("prompts.jsonl"));
    assert_eq!((outcome.code, &outcome.stdout), (Some(0), &expected), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(" · 5 prompts · "), "{}", outcome.stderr);
}

#[test]
fn a_common_beginning_is_computed_once() {
    let Some(place) = place_with_engine() else { return };
    let common = "Once upon a time there was a small house by the river where a fox and a hare lived. ".repeat(2);
    let prompts = ["The fox", "The hare", "The river"].map(|end| common.clone() + end);
    write(&place, &prompts.each_ref().map(String::as_str));
    let [with, without] = [&["--parallel", "1"][..], &["--parallel", "1", "--no-prefix-cache"]].map(|more| many(&place, more));
    let texts = |report: &Value| report["results"].as_array().unwrap().iter().map(|r| r["text"].clone()).collect::<Vec<_>>();
    assert_eq!(texts(&with), texts(&without));
    assert_eq!(without["n_reused"], 0);
    let sum = |report: &Value| report["n_reused"].as_u64().unwrap() + report["n_prefilled"].as_u64().unwrap();
    assert_eq!(sum(&with), sum(&without));
    assert!(with["n_reused"].as_u64().unwrap() > 20, "{}", with["n_reused"]);
}

#[test]
fn bad_lines_fail_before_anything_runs() {
    let place = Place::new();
    for (text, problem) in [
        ("\"a\"\n{\"text\": 1}", "line 2 is neither a JSON string nor an object with a string `prompt`"),
        ("\"a\"\n\nhello", "line 3 is not valid JSON"),
        ("", "holds no prompts"),
    ] {
        place.write("prompts.jsonl", text);
        place.tandem(&["run", "nosuch", "--prompts", "prompts.jsonl"]).fails(1, &["`prompts.jsonl`: ", problem, "hint: "]);
    }
    place.tandem(&["run", "nosuch", "--prompts", "missing.jsonl"]).fails(1, &["`missing.jsonl`: is not there"]);
    place.tandem(&["run", "nosuch", "x", "--prompts", "prompts.jsonl"]).fails(2, &["cannot be used with"]);
    place.tandem(&["run", "nosuch", "x", "--parallel", "2"]).fails(2, &["`--parallel` has no place without `--prompts`"]);
    place.tandem(&["run", "nosuch", "x", "--no-prefix-cache"]).fails(2, &["`--no-prefix-cache`", "hint: "]);
}

#[test]
fn a_prompt_that_fails_leaves_the_others() {
    let Some(place) = place_with_engine() else { return };
    write(&place, &["The fox", &"a very long text ".repeat(100), "Rain"]);
    let args = ["run", "model", "--prompts", "prompts.jsonl", "--raw", "--max-tokens", "4"];
    let outcome = place.tandem(&[&args[..], &["--json"]].concat());
    let report = outcome.json();
    assert_eq!(outcome.code, Some(1));
    assert!(report["results"][1]["error"]["message"].as_str().unwrap().contains("the context is full"), "{report}");
    for i in [0, 2] {
        assert_eq!(report["results"][i]["tokens"].as_array().unwrap().len(), 4);
    }
    let outcome = place.tandem(&args);
    assert_eq!((outcome.code, outcome.stdout.lines().count() >= 2), (Some(1), true), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the context is full") && outcome.stderr.contains("1 failed"), "{}", outcome.stderr);
}

#[test]
fn ctrl_c_keeps_what_is_finished() {
    let Some(place) = place_with_engine().map(Place::with_long_context) else { return };
    let greedy = [&["--temperature", "0", "--raw"], &ENDLESS[..]].concat();
    let text = |prompt: &str| {
        let report = place.json(&[&["run", "model", prompt, "--json", "--max-tokens", "200"], &greedy[..]].concat());
        report["text"].as_str().unwrap().to_owned()
    };
    let texts = PROMPTS.map(text);
    // A stop string that ends one prompt and not another, which goes on for ever.
    let stops = texts.each_ref().map(|text| text.chars().skip(4).take(4).collect::<String>());
    let pairs = (0..PROMPTS.len()).flat_map(|a| (0..PROMPTS.len()).map(move |b| (a, b)));
    let (ends, goes_on) = pairs.filter(|(a, b)| a != b).find(|(a, b)| !texts[*b].contains(&stops[*a])).unwrap();
    write(&place, &[PROMPTS[goes_on], PROMPTS[ends], PROMPTS[goes_on]]);
    let stop = format!("--stop={}", stops[ends]);
    let args =
        ["run", "model", "--prompts", "prompts.jsonl", "--max-tokens", "1000000", "--parallel", "2", "--json", "-v", &stop];
    let mut child = place.command(&[&args[..], &greedy].concat());
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("1 of 3 prompts are done") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let reasons: Vec<&str> = (0..3).map(|i| report["results"][i]["finish_reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["cancelled", "stop", "cancelled"]);
    assert_eq!(report["results"][1]["text"], texts[ends].split(&stops[ends]).next().unwrap());
    assert!(!report["results"][0]["tokens"].as_array().unwrap().is_empty());
}
