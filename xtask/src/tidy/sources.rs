//! Rules about every text, and about Rust's.

use super::{Files, check};

const MAX_RUST_LINES: usize = 500;

/// Beginnings of paths that exist on one machine only. Written in halves: this file is checked too.
const PRIVATE_PATHS: [&str; 5] =
    [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("C:", "\\")];

/// Ends of hosts that are reached from inside one network only.
const PRIVATE_HOSTS: [&str; 5] = [".internal", ".local", ".lan", ".corp", ".intra"];

/// Hosts that mean this machine, or nobody's (RFC 2606).
const OWN_HOSTS: [&str; 6] = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "example.com", "example.org"];

#[test]
fn texts_name_nothing_of_one_machine() {
    check(
        names_of_one_machine,
        [
            Files::from([("a.md", concat!("see /ro", "ot/x"))]),
            Files::from([("a.rs", concat!("\"/ho", "me/me/x\""))]),
            Files::from([("a.toml", concat!("url = \"https://", "pypi.mirror.internal/simple\""))]),
            Files::from([("a.py", concat!("http://", "10.0.0.7:8080/"))]),
        ],
    );
    let fine = Files::from([("a.md", "https://example.com/ http://127.0.0.1:80 https://github.com/x `~/.cache/` a/work/b")]);
    assert_eq!(names_of_one_machine(&fine), Vec::<String>::new());
}

fn names_of_one_machine(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.texts() {
        for (n, line) in text.lines().enumerate() {
            if let Some(found) = private_path(line).or_else(|| private_host(line)) {
                problems.push(format!("{path}:{}: names `{found}`, which exists on one machine only", n + 1));
            }
        }
    }
    problems
}

/// A private path where a path begins, not inside of another one.
fn private_path(line: &str) -> Option<&str> {
    let begins = |at: usize| !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-~}$".contains(before));
    PRIVATE_PATHS.into_iter().find(|path| line.match_indices(path).any(|(at, _)| begins(at)))
}

fn private_host(line: &str) -> Option<&str> {
    line.split("://").skip(1).find_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-_[:]@".contains(c))).unwrap_or(rest.len());
        let host = rest[..end].rsplit('@').next()?;
        let name = host.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':');
        let bare = if name.is_empty() || name.ends_with('.') { host } else { name };
        let bare = bare.split(':').next().filter(|bare| !bare.is_empty()).unwrap_or(bare);
        let is_address = bare.split('.').count() == 4 && bare.split('.').all(|part| part.parse::<u8>().is_ok());
        let is_private = PRIVATE_HOSTS.iter().any(|end| bare.ends_with(end)) || is_address;
        (is_private && !OWN_HOSTS.contains(&bare)).then_some(bare)
    })
}

#[test]
fn rust_files_are_of_one_thought() {
    let long = format!("//! What.\n{}", "\n".repeat(MAX_RUST_LINES));
    check(
        ill_formed_rust,
        [
            Files::from([("a.rs", long.as_str())]),
            Files::from([("a.rs", "fn without_a_word() {}\n")]),
            Files::from([("a/mod.rs", "//! What.\n")]),
            Files::from([("a.rs", concat!("//! What.\n#[ig", "nore]\nfn skipped() {}\n"))]),
        ],
    );
}

fn ill_formed_rust(files: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files.texts_named(".rs") {
        let n_lines = text.lines().count();
        if n_lines > MAX_RUST_LINES {
            problems.push(format!("{path}: {n_lines} lines exceed {MAX_RUST_LINES}: split it by what it does"));
        }
        if !text.starts_with("//!") {
            problems.push(format!("{path}: the first line is not `//!`, what the file is for"));
        }
        if path.ends_with("/mod.rs") {
            problems.push(format!("{path}: a module lies in `name.rs` beside `name/`"));
        }
        if text.contains(concat!("#[ig", "nore")) {
            problems.push(format!("{path}: a test is run, or skipped with a printed reason; never ignored"));
        }
    }
    problems
}
