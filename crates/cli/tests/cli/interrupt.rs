//! Ctrl-C.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::parity::compare_prompts;
use crate::support::{ENDLESS, Place, engine, place_with_engine};

/// More than any test waits for.
const SOON: Duration = Duration::from_secs(60);

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

fn start(place: &Place, more: &[&str]) -> Child {
    let args = [&["run", "model", "The fox", "--max-tokens", "1000000"], &ENDLESS[..], more].concat();
    place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for `event`, and fails when that takes too long.
fn until(mut event: impl FnMut() -> bool) {
    let started = Instant::now();
    while !event() {
        assert!(started.elapsed() < SOON, "it did not happen within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether who writes to this pipe has to wait: a page is not free any more.
fn is_full(pipe: &impl std::os::fd::AsFd) -> bool {
    const PIPE: u64 = 65536;
    rustix::io::ioctl_fionread(pipe).unwrap() > PIPE - 4096 - 100
}

/// Whether the signal that was sent came to the process.
#[cfg(target_os = "linux")]
fn has_taken(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() & 1 << (libc::SIGINT - 1) == 0
}

#[cfg(not(target_os = "linux"))]
fn has_taken(_child: &Child) -> bool {
    std::thread::sleep(Duration::from_millis(500));
    true
}

/// Waits for the child, and fails when that takes too long.
fn ends(child: &mut Child) -> std::process::ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > SOON {
            child.kill().unwrap();
            panic!("it did not end within {SOON:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_first_ends_the_generation() {
    let Some(place) = place_with_engine().map(Place::with_long_context) else { return };
    let mut child = start(&place, &[]);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    let rest = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()).unwrap());
    interrupt(&child);
    let status = ends(&mut child);
    rest.join().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.trim_end().ends_with(" · cancelled"), "{stderr}");
}

#[test]
fn a_document_says_that_it_was_cancelled() {
    let Some(place) = place_with_engine().map(Place::with_long_context) else { return };
    let mut child = start(&place, &["--json", "-v"]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("the first token is there") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before");
    }
    interrupt(&child);
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(ends(&mut child).code(), Some(1));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["finish_reason"], "cancelled");
    assert!(!report["tokens"].as_array().unwrap().is_empty());
}

#[test]
fn the_second_ends_the_process() {
    let Some(place) = place_with_engine().map(Place::with_long_context) else { return };
    // A token of 4096 letters, and nobody who reads them: the pipe is soon full, and the process waits for it.
    let long = "a".repeat(4096);
    place.edit_json("model/tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let token = vocabulary.iter().find(|(_, id)| **id == json!(144)).map(|(token, _)| token.clone()).unwrap();
        vocabulary.remove(&token);
        vocabulary.insert(long, json!(144));
    });
    let mut child = start(&place, &["--logit-bias=144=1000"]);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    until(|| is_full(&stdout));
    interrupt(&child);
    until(|| has_taken(&child));
    assert!(child.try_wait().unwrap().is_none(), "the first one ended it");
    interrupt(&child);
    assert_eq!(ends(&mut child).signal(), Some(2));
}

#[test]
fn a_comparison_keeps_what_was_measured() {
    let Some(place) = place_with_engine() else { return };
    place.write("prompts.txt", "The fox\n");
    let args = [compare_prompts(), vec!["--report", "r.json"]].concat();
    // More candidates than there is time for.
    let candidates = ["--candidate", engine()].repeat(1000);
    let mut child =
        place.command(&[&args[..], &candidates].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while !place.path("r.json").exists() {
        assert!(started.elapsed() < 6 * SOON, "no candidate was measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    interrupt(&child);
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(ends(&mut child).code(), Some(1));
    for text in [stdout, place.read("r.json")] {
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&report["verdict"], &report["pairs"][0]["verdict"]), (&json!("incomplete"), &json!("same")));
        assert!(report["problems"].as_array().unwrap().iter().any(|problem| problem["message"] == "cancelled"), "{report}");
    }
}
