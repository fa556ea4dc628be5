//! Every test of the workspace, with the sum of their counts and the reasons of those that were skipped.

use anyhow::{Context, Result, ensure};

use crate::process::{self, Profile};

/// Builds the tests, sets up with the `tandem` that is built along with them, and runs them.
pub(crate) fn run() -> Result<()> {
    process::run(process::cargo(&["test", "--workspace", "--no-run"]))?;
    process::build_tandem(Profile::Dev)?;
    process::setup(Profile::Dev)?;

    let mut counts = Counts::default();
    let mut output = Output::default();
    // `--show-output` for the sake of the reasons of skipped tests; a test that passes says nothing else of interest.
    let command = process::cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    let outcome = process::lines(command, |line| {
        counts.add(line);
        if output.is_of_interest(line) {
            println!("{line}");
        }
    });
    for reason in &output.skipped {
        println!("{reason}");
    }
    println!("all tests: {} passed, {} failed, {} skipped", counts.passed, counts.failed, output.skipped.len());
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
    skipped: Vec<String>,
}

impl Output {
    fn is_of_interest(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ if line.starts_with("test result: ") => self.in_successes = false,
            // A test that has no part in this build, or lacks something, says so in a line of its own.
            _ if line.starts_with("skipped `") => self.skipped.push(line.to_owned()),
            _ => {}
        }
        !self.in_successes
    }
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
skipped `a`: there is no library

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
        assert_eq!(output.skipped, ["skipped `a`: there is no library"]);
        assert!(shown.contains(&"test a ... ok") && !shown.contains(&"chatter"), "{shown:?}");
    }
}
