//! What `--help` says. `INSTA_UPDATE=always cargo test -p tandem-cli` takes what it says now as right.

use crate::support::Place;

#[track_caller]
fn check(args: &[&str]) {
    let outcome = Place::new().tandem(args);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!(args.join(" ").replace(['-', ' '], "_"), outcome.stdout);
}

#[test]
fn every_command_explains_itself() {
    let outcome = Place::new().tandem(&[]);
    assert_eq!(outcome.code, Some(0));
    assert_eq!(outcome.stdout, Place::new().tandem(&["-h"]).stdout);
    check(&["--help"]);
    let commands = [
        "run",
        "chat",
        "embed",
        "rerank",
        "fingerprint",
        "verify-index",
        "score",
        "bench",
        "show",
        "export",
        "adapter",
        "parity",
        "pull",
        "list",
        "rm",
        "devices",
        "doctor",
        "setup",
    ];
    for command in commands.into_iter().chain(["completions"]) {
        check(&[command, "--help"]);
        let help = Place::new().tandem(&[command, "--help"]).stdout;
        assert!(help.contains("\nExamples:\n"), "{command}");
        assert!(help.lines().all(|line| line.chars().count() <= 130), "{command}");
    }
    check(&["run", "-h"]);
}

#[test]
fn the_version_names_exactly_the_backends_that_can_be_asked_for() {
    let place = Place::new();
    let version = place.tandem(&["--version"]).stdout;
    assert!(version.starts_with(concat!("tandem ", env!("CARGO_PKG_VERSION"), " (backends: ")), "{version}");
    for backend in ["onnx", "candle"] {
        let refused = place.tandem(&["run", "demo", "hi", "--backend", backend, "--max-tokens", "1"]);
        let is_missing = refused.stderr.contains(&format!("backend `{backend}` is not part of this build"));
        assert_eq!(version.contains(backend), !is_missing, "{version}{}", refused.stderr);
    }
}
