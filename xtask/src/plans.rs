//! Memory plans against what runs take: the rows of the table in `crates/tandem/README.md`, measured again.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{self, Profile};

/// How far a plan may be off its peak, as a share of the peak.
const MARGIN: f64 = 0.10;

/// The most that a dev build may take beyond its plans, in bytes, because its code is larger. How much it takes is measured by a run of few
/// tokens: 4 to 6 MB with both engines.
const DEV_BYTES: f64 = 8e6;

/// The tokens that runs hold, where the model has the context for them.
const LENGTHS: [usize; 3] = [500, 1000, 8000];

/// Tokens that are generated behind a prompt.
const N_GENERATED: usize = 8;

/// Builds `tandem` with both engines and checks each of `models`, or the built-in one.
pub(crate) fn run(models: &[&str]) -> Result<()> {
    process::run(process::cargo(&["build", "--release", "--package", "tandem-cli", "--bin", "tandem", "--features", "candle"]))?;
    process::setup(Profile::Release)?;
    let models = if models.is_empty() { &["demo"] } else { models };
    models.iter().try_for_each(|model| check(Profile::Release, model))
}

/// Prints a row for each engine, dtype and length, and fails when a plan is too far off.
pub(crate) fn check(profile: Profile, model: &str) -> Result<()> {
    println!("| model | backend | dtype | tokens | planned, MB | measured, MB | off |\n|---|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for backend in ["candle", "onnx"] {
        for dtype in ["f32", "int8", "int4"] {
            for length in LENGTHS {
                let Some(row) = Row::measure(profile, model, &["--backend", backend, "--dtype", dtype], length)? else { break };
                let Row { n_tokens, planned, peak, .. } = row;
                let off = planned / peak - 1.0;
                let shown = format!("| {model} | {backend} | {dtype} | {n_tokens} |");
                println!("{shown} {:.0} | {:.0} | {:+.1} % |", planned / 1e6, peak / 1e6, off * 100.0);
                if !row.is_within(profile) {
                    wrong.push(format!("{backend} {dtype}, {n_tokens} tokens: {:+.1} %", off * 100.0));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "plans of `{model}` are off by more than {:.0} %: {}", MARGIN * 100.0, wrong.join("; "));
    Ok(())
}

/// One run, in bytes.
struct Row {
    n_tokens: usize,
    planned: f64,
    peak: f64,
    /// By how much a run of few tokens exceeded its plan.
    few_exceeded: f64,
}

impl Row {
    /// A run that holds nearly `length` tokens, and its plan; `None` when the model has no context for them.
    fn measure(profile: Profile, model: &str, options: &[&str], length: usize) -> Result<Option<Self>> {
        const WORD: &str = "fox ";
        let command = |arguments: &[&str]| process::tandem(profile, &[arguments, options, &["--json"]].concat());
        if of(&json(command(&["show", model, "--no-load"])?)?, "/max_context")? < length as f64 {
            return Ok(None);
        }
        let run = |n_words: usize, n_generated: usize| {
            let (prompt, most) = (WORD.repeat(n_words), n_generated.to_string());
            let report = json(command(&["run", model, &prompt, "--raw", "--temperature", "0", "--max-tokens", &most])?)?;
            let count = |field: &str| report[field].as_array().map(Vec::len).with_context(|| format!("`{field}` of a run"));
            let n_prompt = count("prompt_tokens")?;
            Ok::<_, anyhow::Error>((n_prompt, n_prompt + count("tokens")?, of(&report, "/peak_rss_bytes")?))
        };
        let planned = |n_tokens: usize| {
            let plan = json(command(&["show", model, "--no-load", "--context", &n_tokens.to_string()])?)?;
            of(&plan, "/memory/peak_bytes")
        };
        // The same word takes as many tokens each time.
        let ((one, few, few_peak), (two, ..)) = (run(8, 1)?, run(16, 1)?);
        let (_, n_tokens, peak) = run((length - N_GENERATED) * 8 / (two - one) - 1, N_GENERATED)?;
        Ok(Some(Self { n_tokens, planned: planned(n_tokens)?, peak, few_exceeded: few_peak - planned(few)? }))
    }

    fn is_within(&self, profile: Profile) -> bool {
        let more = if matches!(profile, Profile::Dev) { self.few_exceeded.clamp(0.0, DEV_BYTES) } else { 0.0 };
        self.planned <= self.peak * (1.0 + MARGIN) && self.planned + more >= self.peak * (1.0 - MARGIN)
    }
}

/// The document that a command prints; what earlier runs taught is left out.
fn json(mut command: Command) -> Result<Value> {
    command.env("XDG_STATE_HOME", process::target_directory()?.join("plans"));
    let output = command.output().context("cannot run `tandem`")?;
    ensure!(output.status.success(), "`tandem` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn of(document: &Value, field: &str) -> Result<f64> {
    document.pointer(field).and_then(Value::as_f64).with_context(|| format!("`{field}` is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_may_be_off_by_a_tenth_in_both_directions() {
        let is_within =
            |planned, few_exceeded, profile| Row { n_tokens: 1, planned, peak: 100e6, few_exceeded }.is_within(profile);
        let is_within_release = |planned| is_within(planned, 3e6, Profile::Release);
        assert_eq!([89e6, 91e6, 109e6, 111e6].map(is_within_release), [false, true, true, false]);
        assert_eq!([86e6, 88e6, 111e6].map(|planned| is_within(planned, 3e6, Profile::Dev)), [false, true, false]);
        assert_eq!([81e6, 83e6].map(|planned| is_within(planned, 20e6, Profile::Dev)), [false, true], "no more than is allowed");
    }
}
