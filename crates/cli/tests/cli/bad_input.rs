//! What is wrong with the input is said with file, field and value, and what to do.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{ENDLESS, Place, missing_backend, place_with_engine, place_with_onnx, weights};

const RUN: [&str; 5] = ["run", "model", "The fox", "--max-tokens", "3"];

/// Runs the model after `damage` and checks the message.
#[track_caller]
fn check(place: Option<Place>, damage: impl FnOnce(&Place), parts: &[&str]) {
    let Some(place) = place else { return };
    damage(&place);
    place.tandem(&RUN).fails(1, parts);
}

#[test]
fn a_model_that_is_not_there_is_missed_by_name() {
    let place = Place::new();
    place.tandem(&["run", "modle", "x"]).fails(1, &["no model `modle`", "hint: did you mean `model`"]);
    place.tandem(&["run", "deno", "x"]).fails(1, &["no model `deno`", "hint: did you mean `demo`"]);
    place.tandem(&["run", "./modle", "x"]).fails(1, &["no model `./modle`", "`model`"]);
    place.tandem(&["run", "owner/name", "x"]).fails(1, &["no model `owner/name`", "`HF_HUB_OFFLINE` is set", "hint: "]);
    place.tandem(&["run", "a/b/c", "x"]).fails(1, &["no model `a/b/c`", "nor of the form `owner/name[@revision]`", "hint: "]);
}

#[test]
fn an_empty_directory_is_no_model() {
    let place = Place::new();
    std::fs::create_dir(place.path("empty")).unwrap();
    place.tandem(&["run", "empty", "x"]).fails(1, &["`empty` is empty", "hint: give a directory with a `config.json`"]);
}

#[test]
fn a_missing_config_is_named() {
    check(Some(Place::new()), |place| place.remove("model/config.json"), &["`model/config.json`", "no such file", "hint: "]);
}

#[test]
fn a_truncated_config_is_named() {
    check(
        Some(Place::new()),
        |place| place.truncate("model/config.json", 100),
        &["`model/config.json`: is truncated JSON", "caused by: EOF"],
    );
}

#[test]
fn a_missing_tokenizer_is_named() {
    check(place_with_engine(), |place| place.remove("model/tokenizer.json"), &["`tokenizer.json`", "`model`", "hint: "]);
}

#[test]
fn a_truncated_tokenizer_is_named() {
    check(
        place_with_engine(),
        |place| place.truncate("model/tokenizer.json", 1000),
        &["`model/tokenizer.json`: the file is truncated"],
    );
}

#[test]
fn missing_weights_are_missed() {
    check(Some(Place::new()), |place| place.remove(weights()), &["`model`", "neither weights nor graphs", "hint: "]);
}

#[test]
fn a_truncated_graph_is_named() {
    check(
        place_with_onnx(),
        |place| place.truncate("model/onnx/model.onnx", 9000),
        &["`model/onnx/model.onnx`: at byte ", "truncated", "hint: "],
    );
}

#[test]
fn missing_external_data_is_named() {
    check(
        place_with_onnx().map(Place::with_external_data),
        |place| place.remove("model/onnx/model.onnx.data"),
        &["`model/onnx/model.onnx`: field `graph.initializer[0].external_data.location`: `model.onnx.data`", "hint: "],
    );
}

#[test]
fn truncated_external_data_is_named() {
    check(
        place_with_onnx().map(Place::with_external_data),
        |place| place.truncate("model/onnx/model.onnx.data", 5000),
        &["external_data.offset", "exceeds the size of `model.onnx.data`, 5000 bytes", "hint: "],
    );
}

#[test]
fn external_data_outside_the_directory_is_refused() {
    check(
        place_with_onnx().map(Place::with_external_data),
        |place| {
            std::fs::rename(place.path("model/onnx/model.onnx.data"), place.path("model/model.onnx.d")).unwrap();
            let graph = std::fs::read(place.path("model/onnx/model.onnx")).unwrap();
            place.write("model/onnx/model.onnx", replaced(&graph, b"model.onnx.data", b"../model.onnx.d"));
        },
        &["external_data.location`: `../model.onnx.d` is not a path within the graph's directory", "hint: "],
    );
}

#[test]
fn a_graph_that_is_no_decoder_is_refused() {
    check(
        place_with_onnx(),
        |place| {
            let graph = std::fs::read(place.path("model/onnx/model.onnx")).unwrap();
            place.write("model/onnx/model.onnx", replaced(&graph, b"input_ids", b"pixel_ids"));
        },
        &["`model/onnx/model.onnx`", "input_ids"],
    );
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    check(
        place_with_engine(),
        |place| place.edit_json("model/config.json", |config| config["vocab_size"] = 100.into()),
        &["`model/tokenizer.json`: 288 tokens do not fit the 100 embedding rows of `model/config.json`", "hint: "],
    );
}

#[test]
fn a_template_that_loops_for_ever_ends() {
    let template =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    check(
        place_with_engine(),
        |place| place.edit_json("model/tokenizer_config.json", |config| config["chat_template"] = json!(template)),
        &["chat template of `model/tokenizer_config.json`: it did not end within"],
    );
}

#[test]
fn a_prompt_without_tokens_is_refused() {
    let place = Place::new();
    for args in [["run", "model", ""], ["run", "model", "-"], ["score", "model", ""]] {
        place.tandem(&args).fails(1, &["error: the prompt has no tokens", "hint: "]);
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let Some(place) = place_with_engine() else { return };
    let text = "the fox ".repeat(300);
    place.tandem(&["run", "model", &text]).fails(1, &["the context is full: ", "256 fit", "hint: shorten the prompt"]);
    place.tandem(&["score", "model", &text]).fails(1, &["the context is full: ", "256 fit"]);
    place.tandem(&["run", "model", "x", "--context", "9999"]).fails(2, &["option `context`", "`9999`", "256"]);
}

#[test]
fn input_that_is_no_utf8_is_located() {
    let place = Place::new();
    let input = b"caf\xe9".to_vec();
    place
        .tandem_with_input(&["run", "model", "-"], input.clone())
        .fails(1, &["standard input", "byte 0xe9 at offset 3", "hint: "]);
    place.tandem_with_input(&["score", "model"], input).fails(1, &["byte 0xe9 at offset 3"]);
}

#[test]
fn input_that_is_no_utf8_ends_a_chat() {
    let Some(place) = place_with_engine() else { return };
    let outcome = place.tandem_with_input(&["chat", "model", "--max-tokens", "1"], b"/stats\ncaf\xe9\n".to_vec());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("byte 0xe9 at offset 10"), "{}", outcome.stderr);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let Some(place) = place_with_engine().map(Place::with_long_context) else { return };
    let args = ["run", "model", "The fox", "--max-tokens", "1000000", ENDLESS[0], ENDLESS[1]];
    let mut child = place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn what_this_build_or_machine_lacks_is_said() {
    let place = Place::new();
    if let Some(missing) = missing_backend() {
        place
            .tandem(&["run", "model", "x", "--backend", &missing])
            .fails(1, &[&format!("backend `{missing}` is not part of this build"), "hint: "]);
    }
    let Some(place) = place_with_onnx() else { return };
    place
        .tandem(&["run", "model", "x", "--ort-library", "/no/such.so"])
        .fails(1, &["the path that was given names `/no/such.so`", "hint: "]);
    place.tandem(&["run", "model", "x", "--device", "cuda:99"]).fails(1, &["device `cuda:99` cannot be used", "hint: "]);
    place.tandem(&["run", "model", "x", "--dtype", "int4"]).fails(1, &["`int4`", "`model.onnx` (f32)", "hint: "]);
    place.tandem(&["run", "model", "x", "--graph", "no.onnx"]).fails(1, &["`no.onnx`", "hint: "]);
}

/// `bytes` with every `from` replaced by `to`, of the same length, so that the messages of the file stay whole.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = bytes.windows(from.len()).enumerate().filter(|(_, part)| *part == from).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}
