//! A library does not know the program above it: only `crates/cli` and `xtask` name flags and commands in what they say.

use super::{Files, check};

/// The crates that may.
const PROGRAMS: [&str; 2] = ["crates/cli/", "xtask/"];

/// How a flag or a command of the program begins where a message quotes it. Written in halves, as `xtask` is a program.
const QUOTES: [&str; 2] = [concat!("`", "--"), concat!("`", "tandem ")];

#[test]
fn libraries_name_no_flags_and_no_commands() {
    check(
        names_of_the_program,
        [
            Files::from([("crates/core/src/a.rs", "//! What.\nconst HINT: &str = \"use `--dtype f32`\";\n")]),
            Files::from([("crates/hub/src/a/b.rs", "//! What.\nfn f() {\n    \"`tandem list` shows them\".into()\n}\n")]),
        ],
    );
    let fine = Files::from([
        ("crates/core/src/a.rs", "//! As `tandem list`.\n/// See `--dtype`.\n#[cfg(test)]\nmod tests {\n    \"`--dtype`\"\n}\n"),
        ("crates/core/src/a/tests.rs", "//! What.\n\"`--dtype`\"\n"),
        ("crates/cli/src/a.rs", "//! What.\n\"`--dtype`\"\n"),
    ]);
    assert_eq!(names_of_the_program(&fine), Vec::<String>::new());
}

fn names_of_the_program(files: &Files) -> Vec<String> {
    let is_library = |path: &str| path.starts_with("crates/") && path.contains("/src/") && !path.ends_with("/tests.rs");
    let libraries =
        files.texts_named(".rs").filter(|(path, _)| is_library(path) && !PROGRAMS.iter().any(|own| path.starts_with(own)));
    let mut problems = Vec::new();
    for (path, text) in libraries {
        let source = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
        for (n, line) in source.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(quote) = QUOTES.iter().find(|quote| line.contains(**quote)) {
                problems.push(format!("{path}:{}: a library says {quote}…`: give a `Remedy`, which the program renders", n + 1));
            }
        }
    }
    problems
}
