//! The main job, on the embedded model.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::{self, Profile};

const RUN: [&str; 3] = ["run", "demo", "Tell me a story about a fox who finds a lantern."];

/// What a story has at least.
const LEAST_WORDS: usize = 20;

/// Lets the model tell its story to the terminal.
pub(crate) fn run(profile: Profile) -> Result<()> {
    process::run(process::tandem(profile, &RUN)?)
}

/// Lets the model tell its story, and looks whether it is one and whether its speed is reported.
pub(crate) fn check(profile: Profile) -> Result<()> {
    check_story(process::tandem(profile, &RUN)?)
}

/// The same of a build that has candle and nothing of ONNX Runtime.
pub(crate) fn check_on_candle() -> Result<()> {
    let build = ["run", "--quiet", "--package", "tandem-cli", "--no-default-features", "--features", "candle", "--"];
    check_story(process::cargo(&[&build[..], &RUN, &["--backend", "candle"]].concat()))
}

fn check_story(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("cannot run `tandem`")?;
    let (story, report) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{story}");
    eprintln!("{report}");
    ensure!(output.status.success(), "`tandem run demo` failed ({})", output.status);
    let n_words = story.split_whitespace().count();
    ensure!(n_words >= LEAST_WORDS, "the story has {n_words} words, and at least {LEAST_WORDS} were expected");
    let reports_speed = |line: &str| line.contains(" tokens at ") && line.contains("/s");
    ensure!(report.lines().any(reports_speed), "no line reports the speed, such as `118 tokens at 210/s`");
    Ok(())
}
