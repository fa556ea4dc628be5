//! Every test of the workspace, with the sum of their counts and the reasons of those that were skipped.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Profile};

/// Builds the tests, sets up with the `tandem` that cargo builds for the program's own tests, and runs them.
pub(crate) fn run() -> Result<()> {
    process::run(process::cargo(&["test", "--workspace", "--no-run"]))?;
    process::setup(Profile::Dev)?;

    let mut counts = Counts::default();
    let mut output = Output::default();
    // `--show-output` for the sake of the reasons of skipped tests; a test that passes says nothing else of interest.
    let mut command = process::cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    // The engines' libraries were obtained above: a test that does not find one has failed.
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
    fn counts_are_summed_and_only_reasons_are_kept_of_what_passed() {
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
        assert!(shown.contains(&"test a ... ok") && !shown.contains(&"chatter"), "{shown:?}");
    }
}
