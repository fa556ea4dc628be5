//! `tandem export`, and checkpoints that are exported when they are loaded.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::loopback::outcome;
#[cfg(target_os = "linux")]
use crate::privacy::without_sync;
use crate::support::{Place, place_with_onnx};

/// A checkpoint without a graph.
pub(crate) fn checkpoint(place: &Place) {
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        place.copy(file, &format!("checkpoint/{file}"));
    }
}

fn names(place: &Place, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(place.path(directory)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_exported_runs_and_says_the_same() {
    let Some(place) = place_with_onnx() else { return };
    checkpoint(&place);
    let report = place.json(&["export", "checkpoint", "--json"]);
    assert_eq!((&report["directory"], &report["dtype"]), (&"checkpoint-f32".into(), &"f32".into()));
    assert_eq!(report["graph"], "checkpoint-f32/model.onnx");
    let files = report["files"].as_array().unwrap();
    let on_disk: Vec<Value> = names(&place, "checkpoint-f32").into_iter().map(Value::from).collect();
    assert_eq!(files.iter().map(|file| file["name"].clone()).collect::<Vec<_>>(), on_disk);
    assert_eq!(report["bytes"].as_u64().unwrap(), files.iter().map(|file| file["bytes"].as_u64().unwrap()).sum::<u64>());

    let tokens = |model: &str, more: &[&str]| {
        let args = ["run", model, "The fox", "--raw", "--temperature", "0", "--max-tokens", "20", "--json"];
        place.json(&[&args[..], more].concat())["tokens"].clone()
    };
    assert_eq!(tokens("checkpoint-f32", &[]), tokens("checkpoint", &[]));

    let outcome = place.tandem(&["export", "checkpoint", "--dtype", "int4", "-o", "made/small"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "made/small\n"));
    assert!(outcome.stderr.starts_with("int4: ") && outcome.stderr.contains(" in 7 files, "), "{}", outcome.stderr);
    assert_eq!(tokens("made/small", &["--dtype", "int4"]), tokens("checkpoint", &["--dtype", "int4"]));
    place.tandem(&["run", "made/small", "The fox", "--dtype", "int8"]).fails(1, &["`int8` was requested", "are int4"]);
    assert!(place.files_at_home().is_empty(), "nothing is kept of a small model");
}

/// A graph whose bytes did not reach the disk could be found half empty after a crash.
#[cfg(target_os = "linux")]
#[test]
fn a_graph_that_cannot_be_synced_is_not_published() {
    let Some(place) = place_with_onnx() else { return };
    checkpoint(&place);
    let exported = outcome(without_sync(place.command(&["export", "checkpoint"])));
    exported.fails(1, &["checkpoint-f32", "Input/output error"]);
    assert!(!place.path("checkpoint-f32").exists());
}

#[test]
fn the_built_in_model_is_exported_too() {
    let Some(place) = place_with_onnx() else { return };
    let report = place.json(&["export", "demo", "--dtype", "int8", "--json", "-q"]);
    assert_eq!(report["directory"], "demo-int8");
    assert!(names(&place, "demo-int8").contains(&"genai_config.json".to_owned()));
}

#[test]
fn the_form_of_a_graph_can_be_said() {
    let Some(place) = place_with_onnx() else { return };
    let int4 = place.json(&["export", "demo", "--dtype", "int4", "--json", "-o", "plain"]);
    let more = ["--block-size", "128", "--zero-points", "--head-dtype", "int8", "--outputs", "both", "--adapter-inputs"];
    let report = place.json(&[&["export", "demo", "--dtype", "int4", "--json", "-o", "made"][..], &more].concat());
    assert_eq!((&report["block_size"], &report["zero_points"]), (&128.into(), &true.into()));
    assert_eq!((&report["head_dtype"], &report["outputs"]), (&"int8".into(), &"both".into()));
    assert_eq!((&int4["head_dtype"], &int4["outputs"]), (&"int4".into(), &"logits".into()));
    assert_eq!((&report["adapter_inputs"], &int4["adapter_inputs"]), (&true.into(), &false.into()));
    assert_ne!(report["bytes"], int4["bytes"]);

    place.json(&["export", "demo", "--outputs", "hidden-states", "--json", "-o", "hidden"]);
    assert!(!names(&place, "hidden").contains(&"genai_config.json".to_owned()), "nothing to generate with");
    place.tandem(&["export", "demo", "--block-size", "48"]).fails(2, &["48", "16, 32, 64, 128"]);
    place.tandem(&["export", "demo", "--head-dtype", "f16"]).fails(1, &["head", "16-bit floats"]);
}

/// The disk fills while the weights are written: how much room there is was asked before, and others write too.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    let Some(place) = place_with_onnx() else { return };
    checkpoint(&place);
    let before = names(&place, ".");
    let full = place.tandem_on_full_disk(60, &["export", "checkpoint", "-o", "made"]);
    full.fails(1, &["`: cannot be written", "hint: the disk is full"]);
    assert_eq!(names(&place, "."), before);
}

#[test]
fn what_is_there_is_not_lost() {
    let Some(place) = place_with_onnx() else { return };
    checkpoint(&place);
    let export = |more: &[&str]| place.tandem(&[&["export", "checkpoint", "-o", "out"], more].concat());
    assert_eq!(export(&[]).code, Some(0));
    export(&[]).fails(1, &["`out`: exists and is not empty", "--force"]);
    assert_eq!(export(&["--force", "--dtype", "int4"]).code, Some(0));
    place.write("out/diary.txt", "dear diary");
    export(&["--force"]).fails(1, &["contains `diary.txt`, which an export does not write"]);
    place.tandem(&["export", "checkpoint", "--dtype", "bf16"]).fails(2, &["bf16"]);
    place.tandem(&["export", "model", "-o", "other"]).fails(1, &["no safetensors weights"]);
    assert_eq!(names(&place, "."), ["checkpoint", "home", "model", "out"]);
}

/// A checkpoint that takes seconds to export: the golden one with a million rows of the embedding.
#[cfg(unix)]
fn large(place: &Place) {
    checkpoint(place);
    place.edit_json("checkpoint/config.json", |config| {
        config["vocab_size"] = 1_000_000.into();
    });
    let bytes = std::fs::read(place.path("checkpoint/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (mut grown, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let [start, end] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().unwrap() as usize + 8 + length);
        let mut tensor = tensor.clone();
        let offset = data.len();
        match name.contains("embed_tokens") || name.contains("lm_head") {
            true => {
                let row_bytes = (end - start) / tensor["shape"][0].as_u64().unwrap() as usize;
                tensor["shape"][0] = 1_000_000.into();
                data.extend(bytes[start..end].iter().cycle().take(row_bytes * 1_000_000));
            }
            false => data.extend_from_slice(&bytes[start..end]),
        }
        tensor["data_offsets"] = serde_json::json!([offset, data.len()]);
        grown.insert(name.clone(), tensor);
    }
    let header = serde_json::to_vec(&grown).unwrap();
    place.write("checkpoint/model.safetensors", [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat());
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing() {
    let Some(place) = place_with_onnx() else { return };
    large(&place);
    let mut child =
        place.command(&["export", "checkpoint", "--dtype", "int4", "-o", "out"]).stderr(Stdio::piped()).spawn().unwrap();
    // Until something is written, which the interrupt is to take away.
    let begun = std::time::Instant::now();
    while names(&place, ".").len() < 4 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(names(&place, ".").len(), 4, "the export has begun");
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(stderr.trim_end(), "error: cancelled");
    assert_eq!(names(&place, "."), ["checkpoint", "home", "model"]);
}

#[cfg(unix)]
#[test]
fn a_large_checkpoint_is_exported_into_the_cache_when_it_is_run() {
    let Some(place) = place_with_onnx() else { return };
    large(&place);
    let run = || place.json(&["run", "checkpoint", "The", "--raw", "--max-tokens", "1", "--dtype", "int8", "--json"]);
    let first = run();
    let made = place.files_at_home();
    assert!(made.iter().any(|path| path.ends_with("model.onnx.data")), "{made:?}");
    let second = run();
    assert_eq!(first["tokens"], second["tokens"]);
    let n_graphs = |paths: &[std::path::PathBuf]| paths.iter().filter(|path| path.ends_with("model.onnx")).count();
    assert_eq!((n_graphs(&made), n_graphs(&place.files_at_home())), (1, 1));
}
