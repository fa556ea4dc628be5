//! `tandem bench`.

use serde_json::{Value, json};

use crate::support::{Outcome, Place, engine, missing_backend, place_with_engine, place_with_onnx};

/// As short as a bench can be.
const SHORT: [&str; 8] = ["--prompt", "4,8", "--depth", "0,8", "--generate", "4", "--rounds", "2"];

fn short<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "model", "--dtype", "f32"], &SHORT[..], more].concat()
}

/// What an entry of one thread is called.
fn entry() -> String {
    format!("{} f32, 1 thread", engine())
}

#[test]
fn every_sample_is_in_the_document() {
    let Some(place) = place_with_engine() else { return };
    let report = place.json(&short(&["--threads", "1,2", "--backend", engine(), "--json", "--html", "report.html"]));
    assert_eq!((&report["schema"], &report["is_complete"]), (&json!(2), &json!(true)));
    let entries = report["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for (entry, n) in entries.iter().zip([1, 2]) {
        assert_eq!(entry["loaded"]["threads"], n);
        assert_eq!(entry["failure"], Value::Null);
        let samples = entry["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 2);
        for sample in samples {
            assert_eq!(sample["prefill"].as_array().unwrap().len(), 2);
            let decoded = sample["decode"].as_array().unwrap();
            assert_eq!((decoded.len(), decoded[0]["step_ms"].as_array().unwrap().len()), (2, 4));
            assert!(sample["load_ms"].as_f64().unwrap() > 0.0 && sample["bandwidth"].as_f64().unwrap() > 0.0);
            assert!(sample["start_to_first_token_ms"].as_f64() >= sample["load_ms"].as_f64());
        }
    }
    assert!(report["machine"]["n_processors"].as_u64().unwrap() > 0);
    assert_eq!(report["model"]["files"][0]["sha256"].as_str().unwrap().len(), 64);
    assert!(report["advice"][0]["options"].as_str().unwrap().contains("--threads"), "{report}");
    let html = place.read("report.html");
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("What to use here"));
    // What was kept is the same document, and can be reported on again.
    let again = place.json(&["bench", "--report", "home/.cache/tandem/bench/last.json", "--json"]);
    assert_eq!(again["entries"], report["entries"]);
    let together =
        place.json(&["bench", "--report", "home/.cache/tandem/bench/last.json", "home/.cache/tandem/bench/last.json", "--json"]);
    assert_eq!(together["entries"][0]["samples"].as_array().unwrap().len(), 4);
}

#[test]
fn sequences_are_decoded_together() {
    let Some(place) = place_with_engine() else { return };
    let args = short(&["--backend", engine(), "--threads", "1", "--parallel", "3", "-o", "together.json"]);
    let outcome = place.tandem(&args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for part in ["decoded together", "1 sequence at depth 0", "3 sequences at depth 8"] {
        assert!(outcome.stdout.contains(part), "`{part}` is not in:\n{}", outcome.stdout);
    }
    let report: Value = serde_json::from_str(&place.read("together.json")).unwrap();
    let together = report["entries"][0]["samples"][0]["together"].as_array().unwrap();
    let numbers: Vec<_> = together.iter().map(|one| (one["together"]["n"].as_u64(), one["together"]["depth"].as_u64())).collect();
    assert_eq!(numbers, [(1, 0), (3, 0), (1, 8), (3, 8)].map(|(n, depth)| (Some(n), Some(depth))));
    assert!(together.iter().all(|one| one["step_ms"].as_array().unwrap().len() == 4 && one["ms"].as_f64().unwrap() > 0.0));
}

#[test]
fn a_table_says_what_to_use() {
    let Some(place) = place_with_engine() else { return };
    let outcome = place.tandem(&short(&["--backend", engine(), "--threads", "1"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let options = format!("--backend {} --dtype f32 --threads 1", engine());
    for part in ["decode at 8", &entry(), "medians of 2 rounds", &options] {
        assert!(outcome.stdout.contains(part), "`{part}` is not in:\n{}", outcome.stdout);
    }
}

#[test]
fn a_backend_that_is_not_there_leaves_the_others() {
    let Some(place) = place_with_engine() else { return };
    let Some(missing) = missing_backend() else { return };
    place
        .tandem(&short(&["--backend", &missing, "--quiet"]))
        .fails(1, &["nothing can be measured", &format!("backend `{missing}` is not part of this build")]);
    let both = format!("{},{missing}", engine());
    let outcome = place.tandem(&short(&["--backend", &both, "--threads", "1", "-o", "all.json"]));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&format!("{missing} f32, 1 thread failed: ")), "{}", outcome.stderr);
    assert!(outcome.stdout.contains(&entry()) && outcome.stdout.contains("not part of this build"), "{}", outcome.stdout);
    let kept: Value = serde_json::from_str(&place.read("all.json")).unwrap();
    assert_eq!(kept["entries"][0]["samples"].as_array().unwrap().len(), 2);
}

#[test]
fn a_report_that_cannot_be_written_loses_no_figure() {
    let Some(place) = place_with_engine() else { return };
    place.write("file", "");
    let outcome = place.tandem(&short(&["--backend", engine(), "--threads", "1", "-o", "file/out.json"]));
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("decode at 8"), "{}", outcome.stdout);
    for part in ["the samples cannot be saved", "error: ", "file/out.json", "hint: "] {
        assert!(outcome.stderr.contains(part), "`{part}` is not in:\n{}", outcome.stderr);
    }
    let outcome = place.tandem(&short(&["--backend", engine(), "--threads", "1", "--html", "file/out.html"]));
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("decode at 8") && outcome.stderr.contains("file/out.html"), "{}", outcome.stderr);
}

/// Measures the model into `now.json`, as if on a quiet machine: other tests run beside this one.
fn measure(place: &Place) {
    let arguments = [
        "--prompt",
        "4",
        "--depth",
        "0",
        "--generate",
        "4",
        "--rounds",
        "7",
        "--threads",
        "1",
        "--backend",
        engine(),
        "-o",
        "now.json",
    ];
    let measured = place.tandem(&[&["bench", "model"][..], &arguments].concat());
    assert_eq!(measured.code, Some(0), "{}", measured.stderr);
    disturb(place, "now.json", 0.0);
}

/// Gives each sample of `file` the speeds of its entry's first, and other programs this share of the processors.
fn disturb(place: &Place, file: &str, others: f64) {
    place.edit_json(file, |record| {
        let entries = record["entries"].as_array_mut().unwrap();
        for samples in entries.iter_mut().map(|entry| entry["samples"].as_array_mut().unwrap()) {
            disturb_samples(samples, others);
        }
    });
}

fn disturb_samples(samples: &mut [Value], others: f64) {
    let first = samples[0].clone();
    for sample in samples {
        (sample["prefill"], sample["decode"]) = (first["prefill"].clone(), first["decode"].clone());
        sample["conditions"] =
            json!({"load_before": 0.0, "load_after": 0.0, "others_share": others, "stolen_share": 0.0, "n_throttled": 0});
    }
}

/// The gate on `now.json`, against `baseline`.
fn gate(place: &Place, baseline: &str) -> Outcome {
    place.tandem(&["bench", "--report", "now.json", "--baseline", baseline, "--gate"])
}

#[test]
fn the_gate_fails_on_a_loss_and_on_what_it_cannot_judge() {
    let Some(place) = place_with_engine() else { return };
    measure(&place);
    let compare = |baseline: &str| gate(&place, baseline);
    // The same run against itself, and against one that was far faster.
    let same = compare("now.json");
    assert_eq!(same.code, Some(0), "{}{}", same.stdout, same.stderr);
    assert!(same.stdout.contains("no difference"), "{}", same.stdout);
    place.write("faster.json", place.read("now.json"));
    place.edit_json("faster.json", |record| {
        for sample in record["entries"][0]["samples"].as_array_mut().unwrap() {
            sample["decode"][0]["ms"] = json!(sample["decode"][0]["ms"].as_f64().unwrap() / 1000.0);
        }
    });
    let slower = compare("faster.json");
    assert_eq!(slower.code, Some(3), "{}{}", slower.stdout, slower.stderr);
    assert!(slower.stdout.contains("slower") && slower.stderr.contains("gate failed: "), "{}{}", slower.stdout, slower.stderr);
    // A baseline of too few rounds.
    place.write("few.json", place.read("now.json"));
    place.edit_json("few.json", |record| record["entries"][0]["samples"].as_array_mut().unwrap().truncate(3));
    let too_few = compare("few.json");
    assert_eq!(too_few.code, Some(1), "{}{}", too_few.stdout, too_few.stderr);
    assert!(
        too_few.stderr.contains("gate failed: it cannot judge ") && too_few.stderr.contains("fewer than 6"),
        "{}",
        too_few.stderr
    );
    // Another machine's figures say nothing here.
    place.edit_json("faster.json", |record| record["machine"]["n_processors"] = json!(1000));
    let elsewhere = compare("faster.json");
    assert_eq!(elsewhere.code, Some(1));
    assert!(elsewhere.stderr.contains("another machine"), "{}", elsewhere.stderr);
}

#[test]
fn the_gate_does_not_judge_disturbed_runs() {
    let Some(place) = place_with_engine() else { return };
    measure(&place);
    place.write("disturbed.json", place.read("now.json"));
    disturb(&place, "disturbed.json", 0.5);
    let disturbed = gate(&place, "disturbed.json");
    assert_eq!(disturbed.code, Some(1), "{}{}", disturbed.stdout, disturbed.stderr);
    let cause = "gate failed: a disturbed run cannot be judged; measure again while nothing else runs: the baseline: other programs used the processors in ";
    assert!(disturbed.stderr.contains(cause), "{}", disturbed.stderr);
}

#[test]
fn what_cannot_be_is_said_before_the_work() {
    let Some(place) = place_with_onnx() else { return };
    place.write("other.json", "{\"schema\": 99}");
    place.write("none.json", "{}");
    place.tandem(&["bench"]).fails(2, &[]);
    place.tandem(&["bench", "model", "--shape", "qwen2.5-0.5b"]).fails(2, &[]);
    place.tandem(&["bench", "--shape", "gpt-4"]).fails(2, &["gpt-4", "qwen2.5-0.5b"]);
    place.tandem(&["bench", "model", "--gate"]).fails(2, &[]);
    place.tandem(&["bench", "model", "--prompt", "0"]).fails(2, &["`0` is less than 1"]);
    place.tandem(&["bench", "model", "--prompt", "100000000", "--depth", "100000000"]).fails(2, &["holds", "--prompt"]);
    place.tandem(&["bench", "model", "--peer", "llama-bench=./none"]).fails(2, &["--gguf"]);
    place.tandem(&["bench", "model", "--peer", "ollama"]).fails(2, &[]);
    place.tandem(&["bench", "--report", "other.json"]).fails(1, &["other.json", "schema", "99"]);
    place.tandem(&["bench", "--report", "none.json"]).fails(1, &["none.json", "schema"]);
    place.tandem(&["bench", "--report", "no-such.json"]).fails(1, &["no-such.json"]);
    place.tandem(&["bench", "model", "--baseline", "no-such.json"]).fails(1, &["no-such.json"]);
}

#[test]
fn a_peer_that_is_not_there_leaves_the_others() {
    let Some(place) = place_with_engine() else { return };
    let more =
        ["--backend", engine(), "--threads", "1", "--peer", "llama-bench=./no-such-program", "--gguf", "model/config.json"];
    let outcome = place.tandem(&short(&more));
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains(&entry()), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("no-such-program` cannot be run"), "{}", outcome.stderr);
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_was_measured() {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let Some(place) = place_with_engine() else { return };
    let arguments = [
        "bench",
        "model",
        "--dtype",
        "f32",
        "--prompt",
        "4",
        "--depth",
        "0",
        "--generate",
        "4",
        "--rounds",
        "10000",
        "--threads",
        "1",
    ];
    let mut command = place.command(&[&arguments[..], &["--backend", engine(), "-o", "kept.json"]].concat());
    // A terminal sends the signal to all of a group.
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    let started = Instant::now();
    while !place.path("kept.json").exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "no round was done");
        std::thread::sleep(Duration::from_millis(50));
    }
    let workers = children(child.id());
    assert!(Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status().unwrap().success());
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(stderr.ends_with("error: cancelled\n") && !stderr.contains("failed"), "{stderr}");
    assert!(stdout.contains("of 10000 rounds") && stdout.contains(&entry()), "{stdout}");
    let kept: Value = serde_json::from_str(&place.read("kept.json")).unwrap();
    assert_eq!(kept["is_complete"], false);
    assert!(!kept["entries"][0]["samples"].as_array().unwrap().is_empty());
    for worker in workers {
        assert!(!std::path::Path::new(&format!("/proc/{worker}")).exists(), "worker {worker} goes on");
    }
}

/// Processes that `parent` has started, where the system shows them (proc(5): the fourth field of `stat`).
#[cfg(unix)]
fn children(parent: u32) -> Vec<u32> {
    let of = |entry: std::fs::DirEntry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let of_parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()? == parent;
        of_parent.then_some(process)
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of).collect()
}

#[cfg(unix)]
#[test]
fn a_full_disk_loses_no_figure() {
    let Some(place) = place_with_engine() else { return };
    let more = ["--backend", engine(), "--threads", "1", "-o", "out.json", "--html", "out.html"];
    let outcome = place.tandem_on_full_disk(1, &short(&more));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("decode at 8") && outcome.stdout.contains(&entry()), "{}", outcome.stdout);
    for part in [
        "the samples cannot be saved: `out.json`: cannot be written: ",
        "; the benchmark continues",
        "error: ",
        "hint: make room",
    ] {
        assert!(outcome.stderr.contains(part), "`{part}` is not in:\n{}", outcome.stderr);
    }
    assert!(!place.path("out.json").exists() && !place.path("out.html").exists(), "half a report is left");
}

#[test]
fn bench_measures_graphs_beside_dtypes() {
    let Some(place) = place_with_onnx() else { return };
    place.copy("onnx/optimum_f32/model.onnx", "other/model.onnx");
    let graphs = "model/onnx/model.onnx,other/model.onnx";
    let more = ["--backend", engine(), "--threads", "1", "--graph", graphs, "--dtype", "f32", "--rounds", "1", "--json"];
    let arguments = ["bench", "model", "--prompt", "4", "--depth", "0", "--generate", "4"];
    let report = place.json(&[&arguments[..], &more].concat());
    let names: Vec<&str> = report["entries"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["onnx f32, 1 thread", "onnx model/onnx/model.onnx, 1 thread", "onnx other/model.onnx, 1 thread"]);
    assert_eq!(report["entries"][2]["options"], "--backend onnx --graph other/model.onnx --threads 1");
    assert!(report["entries"][1]["loaded"]["step_bytes"].as_u64() <= report["entries"][1]["loaded"]["model_bytes"].as_u64());
    place.tandem(&["bench", "model", "--backend", "candle", "--graph", "other/model.onnx"]).fails(2, &["`--graph`", "onnx"]);
}

#[test]
fn what_the_model_does_not_hold_is_left_out_and_said() {
    let Some(place) = place_with_engine() else { return };
    let more =
        ["--backend", engine(), "--threads", "1", "--rounds", "1", "--generate", "4", "--depth", "0", "--prompt", "4,100000"];
    let outcome = place.tandem(&[&["bench", "model"], &more[..]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("left out: a prompt of 100000; the model holds 256 tokens"), "{}", outcome.stderr);
}
