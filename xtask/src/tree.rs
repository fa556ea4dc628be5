//! What each crate must not depend on; the layers of the project, asserted on cargo's own tree.

use anyhow::{Result, ensure};

use crate::process;

/// A build of a crate, and beginnings of names that its tree must not hold.
struct Absent {
    build: &'static [&'static str],
    names: &'static [&'static str],
}

const RULES: [Absent; 11] = [
    Absent { build: &["tandem-core"], names: &["ort", "candle", "tandem-", "onig", "reqwest", "ureq", "hyper"] },
    Absent { build: &["tandem-onnx-graph"], names: &["ort", "candle", "tandem-"] },
    Absent { build: &["tandem-kernels"], names: &["ort", "candle", "tandem-backend", "tandem-hub", "tandem-onnx-graph", "onig"] },
    Absent { build: &["tandem-hub"], names: &["ort", "candle", "tandem-backend", "tandem-onnx-graph", "onig", "openssl-sys"] },
    Absent { build: &["tandem-bench"], names: &["ort", "candle", "tandem-backend", "tandem-onnx-graph"] },
    Absent { build: &["tandem-cli", "--no-default-features"], names: &["ort", "candle", "tandem-backend", "tandem-kernels"] },
    Absent { build: &["tandem-cli"], names: &["candle", "tandem-backend-candle"] },
    Absent {
        build: &["tandem-cli", "--no-default-features", "--features", "candle"],
        names: &["ort", "tandem-backend-onnx", "tandem-onnx-graph"],
    },
    Absent { build: &["tandem-backend-candle"], names: &["ort", "tandem-onnx-graph", "onig"] },
    Absent { build: &["tandem-cli", "--all-features"], names: &["onig", "openssl-sys", "native-tls"] },
    Absent { build: &["xtask"], names: &["tandem", "ort", "candle"] },
];

/// Checks every rule.
pub(crate) fn check() -> Result<()> {
    for rule in &RULES {
        let mut arguments = vec!["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}", "--package"];
        arguments.extend(rule.build);
        let mut names = Vec::new();
        process::lines(process::cargo(&arguments), |line| names.extend(line.split(' ').next().map(str::to_owned)))?;
        let unwanted = unwanted(&names, rule.names);
        ensure!(unwanted.is_empty(), "`{}` must not depend on {}", rule.build.join(" "), unwanted.join(", "));
    }
    Ok(())
}

/// The names of a tree, its root aside, that are forbidden: `ort` forbids `ort` and `ort-sys`, not `orthogonal`.
fn unwanted<'a>(names: &'a [String], forbidden: &[&str]) -> Vec<&'a str> {
    let is_forbidden = |name: &str| {
        forbidden.iter().any(|beginning| {
            let rest = name.strip_prefix(beginning);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']) || beginning.ends_with('-'))
        })
    };
    names.iter().skip(1).map(String::as_str).filter(|name| is_forbidden(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tree: &[&str], forbidden: &[&str], expected: &[&str]) {
        let names: Vec<_> = tree.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(unwanted(&names, forbidden), expected);
    }

    #[test]
    fn a_forbidden_name_is_found_below_the_root_only() {
        check(&["tandem-core", "serde", "ort-sys", "ort"], &["ort"], &["ort-sys", "ort"]);
        check(&["tandem-core", "orthogonal"], &["ort"], &[]);
        check(&["tandem-core", "tandem-bench"], &["tandem-"], &["tandem-bench"]);
        check(&["ort", "libloading"], &["ort"], &[]);
    }
}
