//! `tandem parity`: exit codes, reports, and what goes wrong.

use std::fs;

use serde_json::Value;

use crate::support::{Place, engine, missing_backend, place_with_engine, place_with_onnx};

/// Compares logits on `prompts.txt`, generating nothing.
pub(crate) fn compare_prompts() -> Vec<&'static str> {
    "parity model --corpus prompts.txt --generate 0 --json --reference".split(' ').chain([engine()]).collect()
}

#[test]
fn what_cannot_run_is_said_beside_what_was_measured() {
    let Some(place) = place_with_onnx() else { return };
    fs::write(place.path("prompts.txt"), "Once upon a time\nThe fox\n").unwrap();
    let args = ["parity", "demo", "--reference", "onnx:f32", "--candidate", "onnx:bf16", "--candidate", "onnx:f32"];
    let more = ["--corpus", "prompts.txt", "--generate", "4", "--texts", "1", "--report", "prompts.txt/report.json", "--json"];
    let outcome = place.tandem(&[&args[..], &more].concat());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&report["schema"], &report["verdict"]), (&"tandem.parity/2".into(), &"incomplete".into()));
    assert_eq!(report["pairs"].as_array().unwrap().len(), 1, "the candidate that runs is measured");
    assert_eq!(report["pairs"][0]["logits"]["max_abs"], 0.0, "an engine agrees with itself");
    assert_eq!(report["pairs"][0]["verdict"], "same");
    let problems: Vec<&str> =
        report["problems"].as_array().unwrap().iter().map(|problem| problem["at"].as_str().unwrap()).collect();
    assert_eq!(problems, ["candidate `onnx:bf16`", "report `prompts.txt/report.json`"]);
    assert!(outcome.stderr.starts_with("error: not everything could be measured: 2 problems"), "{}", outcome.stderr);
}

#[test]
fn a_gate_that_is_not_met_is_exit_code_3() {
    let Some(place) = place_with_engine() else { return };
    let limits = "version = 1\n[[pair]]\nname = \"none\"\nreference = \"f32\"\ncandidate = \"int4\"\ntie = 0.0\nreason = \"a test\"\nlimits = { max_abs = 0.0 }\n";
    fs::write(place.path("limits.toml"), limits).unwrap();
    fs::write(place.path("prompts.txt"), "Once upon a time\n").unwrap();
    let [reference, candidate] = ["f32", "int4"].map(|dtype| format!("{}:{dtype}", engine()));
    let args = ["parity", "demo", "--reference", &reference, "--candidate", &candidate, "--thresholds", "limits.toml"];
    let outcome = place
        .tandem(&[&args[..], &["--corpus", "prompts.txt", "--generate", "0", "--report", "r.json", "--html", "r.html"]].concat());
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("not met"), "{}", outcome.stdout);
    let report: Value = serde_json::from_slice(&fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["verdict"], "different");
    let page = fs::read_to_string(place.path("r.html")).unwrap();
    assert!(page.contains("Not every candidate is within the limits") && page.contains("<svg"), "{page}");
}

#[test]
fn what_is_wrong_with_the_arguments_is_said_before_anything_is_loaded() {
    let place = Place::new();
    fs::write(place.path("gap.txt"), "one\n\ntwo\n").unwrap();
    let outcome = place.tandem(&["parity", "demo", "--candidate", "onnx", "--corpus", "gap.txt"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(
        outcome.stderr,
        "error: `gap.txt`: field `line 2`: is empty, and a prompt of no tokens cannot be compared\nhint: remove the line\n"
    );
    let check = |args: &[&str], code, expected: &str| {
        let outcome = place.tandem(&[&["parity", "demo"], args].concat());
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    };
    check(&[], 2, "--candidate <SIDE>");
    check(&["--candidate", "tensorflow"], 2, "`tensorflow` is not a backend");
    check(&["--candidate", "onnx:int3"], 2, "int3");
    check(&["--candidate", "onnx", "--corpus", "none.txt"], 1, "none.txt");
    if let Some(missing) = missing_backend() {
        let args = ["--reference", &missing, "--candidate", engine()];
        check(&args, 1, &format!("backend `{missing}` is not part of this build"));
    }
}

#[test]
fn a_model_that_one_side_cannot_run_is_named() {
    let Some(place) = place_with_onnx() else { return };
    place.write("prompts.txt", "The fox\n");
    // It has a graph and no weights beside it.
    let more = ["--corpus", "prompts.txt", "--generate", "0", "--candidate", "candle", "--candidate", "onnx", "--json"];
    let outcome = place.tandem(&[&["parity", "model", "--reference", "onnx"], &more[..]].concat());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let report = outcome.json();
    let problem = &report["problems"][0];
    assert_eq!(problem["at"], "candidate `candle`");
    let expected = match tandem::backends::compiled().contains(&tandem::BackendKind::Candle) {
        true => "candle reads checkpoints (safetensors), not graphs",
        false => "backend `candle` is not part of this build",
    };
    assert!(problem["message"].as_str().unwrap().contains(expected), "{problem}");
    assert_eq!(report["pairs"][0]["logits"]["max_abs"], 0.0, "the other candidate is measured");
    // A reference that cannot run leaves nothing to measure.
    place.tandem(&["parity", "no-such-model", "--reference", "onnx", "--candidate", "onnx"]).fails(1, &["no-such-model"]);
}

#[test]
fn a_prompt_of_100000_tokens_is_named_and_the_others_are_measured() {
    let Some(place) = place_with_engine() else { return };
    place.write("prompts.txt", format!("The fox\n{}\nA lantern\n", "word ".repeat(100_000)));
    let outcome = place.tandem(&[compare_prompts(), vec!["--candidate", engine()]].concat());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let report = outcome.json();
    let problem = &report["pairs"][0]["problems"][0];
    assert_eq!(problem["at"], "prompt `line 2`");
    assert!(problem["message"].as_str().unwrap().contains("and 256 fit"), "{problem}");
    assert_eq!(report["pairs"][0]["logits"]["prompts"].as_array().unwrap().len(), 2);
}

#[cfg(unix)]
#[test]
fn a_full_disk_costs_the_files_and_no_figure() {
    let Some(place) = place_with_engine() else { return };
    place.write("prompts.txt", "The fox\n");
    let outcome = place.tandem_on_full_disk(
        1,
        &[compare_prompts(), vec!["--candidate", engine(), "--report", "r.json", "--html", "r.html"]].concat(),
    );
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let report = outcome.json();
    assert_eq!(report["pairs"][0]["verdict"], "same");
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{problems:?}");
    for (problem, file) in problems.iter().zip(["r.json", "r.html"]) {
        assert_eq!(problem["at"], format!("report `{file}`"));
        assert!(problem["message"].as_str().unwrap().starts_with(&format!("`{file}`: cannot be written: ")), "{problem}");
        assert_eq!(problem["hint"], "make room on the disk, or name another file");
        assert!(!place.path(file).exists(), "half a report is left");
    }
}
