//! Rules that keep the documents true.

use super::{Files, check};

#[test]
fn the_architecture_names_every_crate() {
    check(
        unnamed_crates,
        [Files::from([("crates/new/Cargo.toml", "name = \"tandem-new\""), ("ARCHITECTURE.md", "`crates/core`")])],
    );
}

fn unnamed_crates(files: &Files) -> Vec<String> {
    let text = files.text("ARCHITECTURE.md");
    let crates = files.0.keys().filter_map(|path| path.strip_suffix("/Cargo.toml"));
    // What lies within a crate, such as its fuzz targets, belongs to it.
    let crates = crates.filter(|path| path.split('/').count() <= 2);
    crates
        .filter(|path| !text.contains(&format!("`{path}`")))
        .map(|path| format!("ARCHITECTURE.md: does not name `{path}`"))
        .collect()
}

#[test]
fn documents_quote_paths_that_exist() {
    check(
        missing_paths,
        [
            Files::from([("ARCHITECTURE.md", "see `crates/core/src/gone.rs`")]),
            Files::from([("CONTRIBUTING.md", "see `gone.rs`"), ("a.rs", "")]),
            Files::from([("README.md", "see [the notes](docs/gone.md)")]),
        ],
    );
    let fine = Files::from([("README.md", "`a/b.rs` `b.rs` `a/` `x::y/z` `--flag` `~/.cache/x` [a](a/b.rs)"), ("a/b.rs", "")]);
    assert_eq!(missing_paths(&fine), Vec::<String>::new());
}

/// Paths in backticks, and the targets of links, in the documents at the root.
fn missing_paths(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.texts_named(".md").filter(|(path, _)| !path.contains('/')) {
        let in_backticks = text.split('`').skip(1).step_by(2).filter(|quoted| is_path(quoted, files));
        let linked = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let linked = linked.filter(|target| !target.is_empty() && !target.contains("://"));
        for quoted in in_backticks.chain(linked) {
            let is_name = !quoted.contains('/') && files.0.keys().any(|file| file.rsplit('/').next() == Some(quoted));
            if !is_name && !files.has(quoted) {
                problems.push(format!("{path}: quotes `{quoted}`, which does not exist"));
            }
        }
    }
    problems
}

/// Whether backticks hold a path of this repository: a Rust file, or something below one of its directories.
fn is_path(quoted: &str, files: &Files) -> bool {
    let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let below = quoted.split_once('/').is_some_and(|(first, _)| !first.is_empty() && files.has(first));
    plain && (below || quoted.ends_with(".rs"))
}

#[test]
fn the_changelog_begins_with_what_is_unreleased() {
    check(
        ill_formed_changelog,
        [Files::from([("CHANGELOG.md", "# Changelog\n\n## [0.1.0] - 2026-01-01\n\n## [Unreleased]\n")]), Files::from([])],
    );
}

fn ill_formed_changelog(files: &Files) -> Vec<String> {
    let first = files.text("CHANGELOG.md").lines().find(|line| line.starts_with("## "));
    let is_unreleased = first.is_some_and(|heading| heading.trim_end() == "## [Unreleased]");
    if is_unreleased { vec![] } else { vec![format!("CHANGELOG.md: begins with {first:?}, not with `## [Unreleased]`")] }
}

#[test]
fn both_licences_are_there() {
    check(missing_licences, [Files::from([("LICENSE-MIT", "Permission is hereby granted")])]);
}

fn missing_licences(files: &Files) -> Vec<String> {
    let words =
        [("LICENSE-MIT", "Permission is hereby granted, free of charge"), ("LICENSE-APACHE", "END OF TERMS AND CONDITIONS")];
    words
        .into_iter()
        .filter(|(path, words)| !files.text(path).contains(words))
        .map(|(path, _)| format!("{path}: not the licence"))
        .collect()
}
