//! `--adapter`, `/adapter`, and `tandem adapter`.

use std::time::Duration;

use crate::support::{Place, has_onnx, place_with_engine};

/// A place with the model `base` and the adapter `style`, which is of it.
fn place() -> Option<Place> {
    let place = place_with_engine()?;
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        place.copy(&format!("../qwen2-tied/{file}"), &format!("base/{file}"));
    }
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        place.copy(&format!("../adapters/qwen2-all-linear/{file}"), &format!("style/{file}"));
    }
    Some(place)
}

fn has_candle() -> bool {
    tandem::backends::compiled().contains(&tandem::BackendKind::Candle)
}

const RUN: [&str; 8] = ["run", "base", "The fox", "--temperature", "0", "--max-tokens", "8", "--json"];

fn tokens(place: &Place, more: &[&str]) -> serde_json::Value {
    place.json(&[&RUN[..], more].concat())["tokens"].clone()
}

#[test]
fn run_says_which_adapters_were_applied() {
    let Some(place) = place() else { return };
    let report = place.json(&[&RUN[..], &["--adapter", "style", "--adapter", "style=-0.5"]].concat());
    let applied = report["adapters"].as_array().unwrap();
    assert_eq!((&applied[0]["name"], applied[0]["scale"].as_f64()), (&"style".into(), Some(1.0)));
    assert_eq!((applied.len(), applied[1]["scale"].as_f64()), (2, Some(-0.5)));
    assert_eq!(applied[0]["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(report["tokens"], tokens(&place, &["--adapter", "style=0.5"]));
    assert_ne!(tokens(&place, &["--adapter", "style"]), tokens(&place, &[]));
    assert_eq!(tokens(&place, &["--adapter", "style=0"]), tokens(&place, &[]));
    if has_candle() && has_onnx() {
        let of = |backend: &str| tokens(&place, &["--adapter", "style", "--backend", backend, "--dtype", "f32"]);
        assert_eq!(of("candle"), of("onnx"));
    }
}

#[test]
fn parity_looks_into_adapted_models() {
    let Some(place) = place() else { return };
    let Some([reference, candidate]) = (has_candle() && has_onnx()).then_some(["candle:f32", "onnx:f32"]) else { return };
    place.write("prompts.txt", "The fox\n");
    let sides = ["parity", "base", "--random-weights", "--reference", reference, "--candidate", candidate, "--adapter", "style"];
    let report = place.json(
        &[&sides[..], &["--adapter", "style=-0.5", "--corpus", "prompts.txt", "--generate", "0"], &["--bisect", "--json"]]
            .concat(),
    );
    let found = &report["pairs"][0]["bisect"];
    assert_eq!((&found["method"], &found["finding"]["is"]), (&"replay".into(), &"nothing".into()), "{report}");
}

#[test]
fn adapter_of_a_configuration_file_gives_way_to_the_flag() {
    let Some(place) = place() else { return };
    place.write("tandem.toml", "adapter = [\"style\"]\n");
    assert_eq!(tokens(&place, &[]), tokens(&place, &["--adapter", "style"]));
    assert_ne!(tokens(&place, &[]), tokens(&place, &["--adapter", "style=0"]));
}

#[test]
fn chat_switches_adapters() {
    let Some(place) = place() else { return };
    let talk = |input: &str| {
        let outcome = place.tandem_with_input(&["chat", "base", "--temperature", "0", "--max-tokens", "8"], input);
        (outcome.code, outcome.stdout, outcome.stderr)
    };
    let answers = |input: &str| talk(input).1;
    assert_eq!(answers("/adapter style\n/adapter off\nThe fox\n"), answers("The fox\n"));
    assert_ne!(answers("/adapter style\nThe fox\n"), answers("The fox\n"));
    assert!(answers("/adapter style\n/adapter off\n/adapter\n").contains("* off\n  style"));
    let (code, _, stderr) = talk("/adapter none\nThe fox\n");
    assert!(code == Some(1) && stderr.contains("no adapter is at this path"), "{stderr}");
}

#[test]
fn adapters_that_do_not_fit_are_errors() {
    let Some(place) = place() else { return };
    let run = |adapter: &str| place.tandem(&["run", "base", "The fox", "--adapter", adapter]);
    run("style=half").fails(2, &["`half`"]);
    run("none").fails(1, &["`none`", "no adapter is at this path"]);
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        place.copy(&format!("../adapters/llama3-all-linear/{file}"), &format!("other/{file}"));
    }
    run("other").fails(1, &["q_proj"]);
    place.truncate("style/adapter_model.safetensors", 100);
    run("style").fails(1, &["adapter_model.safetensors"]);
}

#[test]
fn adapter_is_shown_checked_and_converted_there_and_back() {
    let Some(place) = place() else { return };
    let listed = place.json(&["adapter", "list", "--json"]);
    assert_eq!(listed["adapters"][0]["format"], "peft");
    let shown = place.json(&["adapter", "show", "style", "--json"]);
    assert_eq!((shown["modules"].as_array().map(Vec::len), &shown["format"]), (Some(14), &"peft".into()));
    assert!(place.tandem(&["adapter", "show", "style"]).stdout.contains("q_proj"));
    let verified = place.json(&["adapter", "verify", "style", "--base", "base", "--json"]);
    assert_eq!((&verified["fits"], &verified["n_modules"]), (&true.into(), &14.into()));
    place.tandem(&["adapter", "verify", "style", "--base", "model"]).fails(1, &[]);

    for (form, path) in [("mlx", "as-mlx"), ("onnx-adapter", "as.onnx_adapter"), ("peft", "as-peft")] {
        let converted = place.tandem(&["adapter", "convert", "style", "--to", form, "-o", path, "--base", "base"]);
        assert_eq!((converted.code, converted.stdout.trim()), (Some(0), path), "{}", converted.stderr);
        assert_eq!(tokens(&place, &["--adapter", path]), tokens(&place, &["--adapter", "style"]), "{form}");
    }
    place.tandem(&["adapter", "convert", "style", "--to", "peft", "-o", "as-peft"]).fails(1, &["as-peft"]);
    place.tandem(&["adapter", "convert", "style", "--to", "mlx", "-o", "x", "--scale", "2"]).fails(2, &["`--to merged`"]);
    assert_eq!(place.tandem(&["adapter", "convert", "style", "--to", "merged", "-o", "x"]).code, Some(2));

    place.json(&["adapter", "convert", "style", "--to", "merged", "-o", "merged", "--base", "base", "--json"]);
    let merged = place.json(&[&["run", "merged"], &RUN[2..]].concat());
    assert_eq!(merged["tokens"], tokens(&place, &["--adapter", "style"]));
}

#[test]
fn export_merges_adapters() {
    let Some(place) = place() else { return };
    if !has_onnx() {
        return eprintln!("skipped: this build has no backend `onnx`");
    }
    let exported = place.json(&["export", "base", "--dtype", "f32", "--adapter", "style", "-o", "made", "--json"]);
    assert_eq!(exported["adapters"][0]["name"], "style");
    let run = place.json(&[&["run", "made"], &RUN[2..]].concat());
    assert_eq!(run["tokens"], tokens(&place, &["--adapter", "style"]));
}

fn write_chats(place: &Place) {
    let answer = |i: usize| ["river and wood", "fell on the hill"][i % 2];
    let question = |i: usize| ["The fox", "The rain", "A boat"][i % 3];
    let line = |i: usize| format!("{{\"prompt\": \"{}\", \"completion\": \"{}\"}}\n", question(i), answer(i));
    place.write("chats.jsonl", (0..20).map(line).collect::<String>());
}

const TRAIN: [&str; 11] =
    ["adapter", "train", "base", "--data", "chats.jsonl", "--rank", "4", "--learning-rate", "0.01", "--save-every", "1"];

#[test]
fn training_that_was_killed_goes_on_to_the_same_adapter() {
    let Some(place) = place() else { return };
    if !has_candle() {
        return eprintln!("skipped: this build has no backend `candle`");
    }
    write_chats(&place);
    let report = place.json(&[&TRAIN[..], &["--steps", "60", "-o", "whole", "--json"]].concat());
    let loss = |name: &str| report[name].as_f64().unwrap();
    assert!(loss("held_out_loss_after") < 0.8 * loss("held_out_loss_before"), "{report}");
    assert_eq!(report["losses"].as_array().map(Vec::len), Some(60));

    let more = [&TRAIN[..], &["--steps", "60", "-o", "parts"]].concat();
    let mut child = place.command(&more).stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let state = place.path("parts.training/state.safetensors");
    while !state.is_file() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !place.path("parts").exists() {
        let resumed = place.tandem(&[&more[..], &["--resume"]].concat());
        assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
        assert!(resumed.stderr.contains("going on after update"), "{}", resumed.stderr);
    }
    let weights = |name: &str| std::fs::read(place.path(name).join("adapter_model.safetensors")).unwrap();
    assert!(weights("whole") == weights("parts"));
    assert!(!place.path("parts.training").exists());
    assert_ne!(tokens(&place, &["--adapter", "whole"]), tokens(&place, &[]));
}

#[test]
fn training_data_that_cannot_be_used_are_errors_with_their_line() {
    let Some(place) = place() else { return };
    if !has_candle() {
        return eprintln!("skipped: this build has no backend `candle`");
    }
    let train = |data: &str, more: &[&str]| {
        place.write("chats.jsonl", data);
        place.tandem(&[&TRAIN[..], &["--steps", "2", "-o", "none"], more].concat())
    };
    train("", &[]).fails(1, &["chats.jsonl", "has no conversations"]);
    train("{\"prompt\": \"a\", \"completion\": \"b\"}\n\n{\"text\": 1}\n", &[]).fails(1, &["line 3"]);
    train("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", &[]).fails(1, &["line 1", "assistant"]);
    train("\u{0}\u{1}", &[]).fails(1, &["line 1"]);
    let good = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    train(good, &["--targets", "no_proj"]).fails(2, &["`no_proj`", "`q_proj`"]);
    train(good, &["--warmup", "5"]).fails(2, &["warmup"]);
    train(good, &["--resume"]).fails(1, &["none.training"]);
    train(good, &["--rank", "0"]).fails(2, &[]);
    assert!(!place.path("none").exists());
}
