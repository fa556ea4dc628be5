//! Every test of the workspace, with the sum of their counts and the reasons of those that were skipped.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Profile};

/// Why a test may be skipped: the beginning of its reason, and what lies behind it. Any other reason fails the run.
const MAY_BE_SKIPPED: [(&str, &str); 6] = [
    ("this system has no huge pages", "the kernel of a container may have them switched off"),
    ("this system makes no huge page on request", "MADV_COLLAPSE came with Linux 6.1"),
    ("no control group can be made here", "a container is often denied its own control groups"),
    ("this user may write anywhere", "root ignores the permissions of a directory"),
    ("this build has every backend", "it is tested in the build with one"),
    ("`TANDEM_LLAMA_CPP` does not say where", "the vocabularies of llama.cpp are 50 MB, and no test downloads anything"),
];

/// On candle alone, what needs ONNX Runtime may be skipped as well.
const WITHOUT_ONNX: (&str, &str) = ("this build has no backend `onnx`", "it is tested in the build with both");

/// The build that has everything: another choice of packages has other features of their dependencies, which are then built again.
pub(crate) const BUILD: [&str; 3] = ["--workspace", "--features", "tandem/candle,tandem-cli/candle,tandem-cli/parquet"];

/// Builds the tests, sets up with the `tandem` that cargo builds for the program's own tests, and runs them with both engines.
pub(crate) fn run() -> Result<()> {
    process::run(process::cargo(&[&["test", "--no-run"], &BUILD[..]].concat()))?;
    process::setup(Profile::Dev)?;
    run_tests(&BUILD, &MAY_BE_SKIPPED)
}

/// Runs the tests of the library and the program in a build that has candle and nothing of ONNX Runtime.
pub(crate) fn run_on_candle() -> Result<()> {
    let build = ["-p", "tandem", "-p", "tandem-cli", "--no-default-features", "--features", "candle"];
    run_tests(&build, &[&MAY_BE_SKIPPED[..], &[WITHOUT_ONNX]].concat())
}

fn run_tests(build: &[&str], may_be_skipped: &[(&str, &str)]) -> Result<()> {
    let mut counts = Counts::default();
    let mut output = Output::default();
    // `--show-output` for the sake of the reasons of skipped tests; a test that passes says nothing else of interest.
    let mut command = process::cargo(&[&["test", "--no-fail-fast"], build, &["--", "--show-output"]].concat());
    // The engines' libraries were obtained before: a test that does not find one has failed.
    command.env("TANDEM_REQUIRE_ENGINES", "1");
    let outcome = process::lines(command, |line| {
        counts.add(line);
        if output.is_of_interest(line) {
            println!("{line}");
        }
    });
    for (reason, tests) in &output.skipped {
        println!("skipped {} tests ({}): {reason}", tests.len(), shortened(tests));
    }
    let n_skipped: usize = output.skipped.values().map(Vec::len).sum();
    println!("all tests: {} passed ({n_skipped} of them skipped), {} failed", counts.passed, counts.failed);
    outcome.context("some tests failed")?;
    ensure!(counts.passed > 0, "no test ran");
    let unexpected = output.skipped_otherwise(may_be_skipped);
    ensure!(unexpected.is_empty(), "tests were skipped for reasons that are not listed: {}", unexpected.join("; "));
    Ok(())
}

/// The sums of cargo's `test result:` lines.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    fn add(&mut self, line: &str) {
        let Some((_, result)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in result.split("; ") {
            match part.split_once(' ') {
                Some((n, "passed")) => self.passed += n.parse().unwrap_or(0),
                Some((n, "failed")) => self.failed += n.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// Tells what tests that passed have written from all else.
#[derive(Debug, Default)]
struct Output {
    in_successes: bool,
    test: String,
    /// The tests that did not run, by the reason that they gave: a line of their own that begins with `skipped: `.
    skipped: BTreeMap<String, Vec<String>>,
}

impl Output {
    fn is_of_interest(&mut self, line: &str) -> bool {
        let header = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----"));
        if line == "successes:" {
            self.in_successes = true;
        } else if line == "failures:" || line.starts_with("test result: ") {
            self.in_successes = false;
        } else if let Some(test) = header {
            self.test = test.to_owned();
        } else if let Some(reason) = line.strip_prefix("skipped: ") {
            self.skipped.entry(reason.to_owned()).or_default().push(self.test.clone());
        }
        !self.in_successes
    }

    /// The reasons that begin with none of those in `allowed`.
    fn skipped_otherwise(&self, allowed: &[(&str, &str)]) -> Vec<&str> {
        let is_allowed = |reason: &str| allowed.iter().any(|(beginning, _)| reason.starts_with(beginning));
        self.skipped.keys().map(String::as_str).filter(|reason| !is_allowed(reason)).collect()
    }
}

/// The first of `tests`, and that there are more.
fn shortened(tests: &[String]) -> String {
    const N_SHOWN: usize = 3;
    let shown = tests.iter().take(N_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if tests.len() > N_SHOWN { format!("{shown}, …") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
running 2 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
chatter
skipped: there is no library

successes:
    a
    b

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";

    #[test]
    fn test_counts_are_summed_and_skip_reasons_collected() {
        let (mut counts, mut output) = (Counts::default(), Output::default());
        let mut shown = Vec::new();
        for line in LOG.lines() {
            counts.add(line);
            if output.is_of_interest(line) {
                shown.push(line);
            }
        }
        assert_eq!(counts, Counts { passed: 5, failed: 1 });
        assert_eq!(output.skipped, BTreeMap::from([("there is no library".to_owned(), vec!["a".to_owned()])]));
        assert_eq!(output.skipped_otherwise(&[("there is no", "a test")]), Vec::<&str>::new());
        assert_eq!(output.skipped_otherwise(&MAY_BE_SKIPPED), ["there is no library"]);
        assert!(shown.contains(&"test a ... ok") && !shown.contains(&"chatter"), "{shown:?}");
    }
}
