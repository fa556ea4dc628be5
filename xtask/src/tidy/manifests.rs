//! Rules about the manifests and the lock file.

use super::{Files, check};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn manifests_build_everywhere_alike() {
    let lints = "[lints]\nworkspace = true\n";
    check(
        ill_formed_manifests,
        [
            Files::from([("a/Cargo.toml", "[package]\nname = \"a\"\n")]),
            Files::from([("a/Cargo.toml", &*format!("{lints}x = {{ git = \"https://example.com\" }}\n"))]),
            Files::from([("Cargo.toml", "[patch.crates-io]\n")]),
            Files::from([(".cargo/config.toml", "rustflags = [\"-Ctarget-cpu=native\"]\n")]),
            Files::from([("Cargo.lock", "source = \"registry+https://example.com/index\"\n")]),
        ],
    );
}

fn ill_formed_manifests(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.texts_named("Cargo.toml") {
        // A manifest with a workspace of its own stands for itself.
        if !text.contains("[workspace]") && !text.contains("[lints]\nworkspace = true") {
            problems.push(format!("{path}: does not take the workspace's lints"));
        }
        for (n, line) in text.lines().enumerate() {
            if line.starts_with("[patch") || line.contains("git = \"") {
                problems.push(format!("{path}:{}: a dependency comes from the registry, unpatched", n + 1));
            }
        }
    }
    if files.text(".cargo/config.toml").contains("target-cpu") {
        problems.push(".cargo/config.toml: a build runs on every machine of its architecture".into());
    }
    for line in files.text("Cargo.lock").lines() {
        if let Some(source) = line.strip_prefix("source = ").map(|source| source.trim_matches('"'))
            && source != CRATES_IO
        {
            problems.push(format!("Cargo.lock: `{source}` is not crates.io"));
        }
    }
    problems
}
