//! `tandem doctor` and what `devices` proves.

use serde_json::Value;

use crate::support::{Outcome, Place, place_with_onnx};

/// Areas whose findings differ from machine to machine.
const OF_THE_MACHINE: [&str; 4] = ["engines", "machine", "catalog", "models"];

/// Things of those areas that every machine has. A finding's first line has its name after a state of eight columns.
const NAMES: [&str; 8] =
    ["onnx library", "onnx on cpu", "processor", "threads", "memory", "bandwidth", "disk of the cache", "disk of the state"];

/// The report with what differs from machine to machine masked: states and findings, not which things are looked at.
fn masked(report: &str) -> String {
    let mut area = "";
    let mut masked = String::new();
    for line in report.lines() {
        if !line.starts_with(' ') {
            area = line.trim();
            masked += line;
            masked += "\n";
        } else if !OF_THE_MACHINE.iter().any(|one| area.contains(one)) {
            masked += line;
            masked += "\n";
        } else if let Some(name) = NAMES.into_iter().find(|name| line.get(10..).is_some_and(|rest| rest.starts_with(name))) {
            masked += &format!("  [state] {name}\n");
        }
    }
    let backends = tandem::backends::compiled().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    masked.replace(&format!(" with {backends}"), " with [backends]")
}

#[test]
fn every_thing_that_is_looked_at_has_a_state_and_what_to_do() {
    let place = Place::new();
    let outcome = place.tandem(&["doctor", "--json"]);
    let report = outcome.json();
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(report["healthy"], outcome.code == Some(0), "{report}");
    for check in checks {
        assert!(["good", "warning", "bad", "absent"].contains(&check["state"].as_str().unwrap()), "{check}");
        assert!(check["state"] == "good" || check["remedy"].is_string(), "{check}");
    }
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in [
        "version",
        "configuration",
        "processor",
        "threads",
        "memory",
        "`auto`",
        "cache",
        "hub",
        "candle on Metal",
        "ANEMLL `.mlpackage`",
    ] {
        assert!(names.contains(&name), "`{name}`: {names:?}");
    }
    assert!(place.files_at_home().is_empty(), "to look changes nothing");
}

#[test]
fn the_report_fits_a_terminal() {
    let Some(place) = place_with_onnx() else { return };
    let Outcome { code, stdout, stderr } = place.tandem(&["doctor"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    // A path is not broken.
    let fits = |line: &str| line.chars().count() <= 80 || line.contains('/');
    assert!(stdout.lines().all(fits), "{stdout}");
    insta::assert_snapshot!("doctor", masked(&stdout));
    #[cfg(unix)]
    insta::assert_snapshot!("doctor_terminal", masked(&crate::terminal::on_terminal(place.command(&["doctor"])).1));
}

#[test]
fn a_device_proves_that_it_computes() {
    let Some(place) = place_with_onnx() else { return };
    let report = place.json(&["devices", "--json"]);
    let cpu = &report["backends"][0]["devices"][0];
    assert_eq!((&cpu["usable"], &cpu["proven_by"]), (&true.into(), &"CPUExecutionProvider".into()), "{cpu}");
    let doctor = place.json(&["doctor", "--json"]);
    let checks = doctor["checks"].as_array().unwrap();
    let check = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(check("onnx on cpu")["finding"], "a graph of one node ran on CPUExecutionProvider");
    assert!(check("onnx library")["finding"].as_str().unwrap().contains("as `ORT_DYLIB_PATH` says"), "{doctor}");
}

#[test]
fn a_flipped_byte_in_the_cache_is_found() {
    let place = Place::new();
    let model = "home/.cache/huggingface/hub/models--me--mine";
    let blob = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    let commit = "0123456789abcdef0123456789abcdef01234567";
    place.write(&format!("{model}/blobs/{blob}"), "hello world");
    place.write(&format!("{model}/refs/main"), commit);
    std::fs::create_dir_all(place.path(&format!("{model}/snapshots/{commit}"))).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(
        format!("../../blobs/{blob}"),
        place.path(&format!("{model}/snapshots/{commit}/model.safetensors")),
    )
    .unwrap();
    let contents = |args: &[&str]| {
        let report = place.tandem(args).json();
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "contents")
    };
    assert_eq!(contents(&["doctor", "--json"]), None, "reading gigabytes is asked for");
    if cfg!(unix) {
        let whole = contents(&["doctor", "--json", "--verify"]).unwrap();
        assert_eq!(whole["state"], "good", "{whole}");
        place.write(&format!("{model}/blobs/{blob}"), "hellp world");
        let flipped = contents(&["doctor", "--json", "--verify"]).unwrap();
        assert_eq!(flipped["state"], "bad", "{flipped}");
        assert!(flipped["finding"].as_str().unwrap().contains("`model.safetensors` of me/mine"), "{flipped}");
        assert!(flipped["remedy"].as_str().unwrap().contains("--repair"), "{flipped}");
    }
}

#[test]
fn what_is_broken_is_bad_and_fails() {
    let Some(place) = place_with_onnx() else { return };
    let outcome = place.tandem(&["doctor", "--json", "--ort-library", "/no/such.so"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let report = outcome.json();
    assert_eq!(report["healthy"], false);
    let bad: Vec<&Value> = report["checks"].as_array().unwrap().iter().filter(|check| check["state"] == "bad").collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(bad[0]["finding"].as_str().unwrap().contains("/no/such.so"), "{bad:?}");

    place.write("tandem.toml", "temprature = 1");
    let report = place.tandem(&["doctor", "--json"]).json();
    let named = |check: &&Value| check["name"] == "configuration";
    let check = report["checks"].as_array().unwrap().iter().find(named).unwrap();
    assert_eq!((&check["state"], &check["remedy"]), (&"bad".into(), &"did you mean `temperature`?".into()), "{check}");
}
