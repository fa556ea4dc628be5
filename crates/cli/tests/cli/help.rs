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
    let commands =
        ["run", "chat", "score", "bench", "show", "export", "parity", "pull", "list", "rm", "devices", "doctor", "setup"];
    for command in commands.into_iter().chain(["completions"]) {
        check(&[command, "--help"]);
        let help = Place::new().tandem(&[command, "--help"]).stdout;
        assert!(help.contains("\nExamples:\n"), "{command}");
        assert!(help.lines().all(|line| line.chars().count() <= 130), "{command}");
    }
    check(&["run", "-h"]);
}

#[test]
fn the_version_names_the_backends() {
    let outcome = Place::new().tandem(&["--version"]);
    let backends: Vec<String> = tandem::backends::compiled().iter().map(ToString::to_string).collect();
    let backends = if backends.is_empty() { "none".into() } else { backends.join(", ") };
    assert_eq!(outcome.stdout, format!("tandem {} (backends: {backends})\n", env!("CARGO_PKG_VERSION")));
}
