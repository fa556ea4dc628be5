//! What becomes of an error: its text, its causes, its hint, and the exit code.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use crate::words;

/// Exit code 1: the command failed or was cancelled.
pub(crate) const FAILED: u8 = 1;

/// Exit code 2: the command was not understood.
pub(crate) const WRONG_USAGE: u8 = 2;

/// Exit code 3: a gate of parity or bench was not met.
pub(crate) const GATE_NOT_MET: u8 = 3;

/// A command line or configuration that is wrong.
#[derive(Debug)]
pub(crate) struct Usage {
    message: String,
    hint: Option<String>,
}

impl Usage {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl From<tandem::Error> for Usage {
    fn from(error: tandem::Error) -> Self {
        let Failure { message, causes, hint } = Failure::new(&error.into());
        Self { message: std::iter::once(message).chain(causes).collect::<Vec<_>>().join(": "), hint }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// Nobody reads standard output any more: `tandem run … | head -1`. No failure, and nothing to say.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// An error in the parts that are shown.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(error: &anyhow::Error) -> Self {
        let mut parts: Vec<String> = Vec::new();
        for part in error.chain().map(|part| part.to_string()) {
            let part = part.trim().trim_end_matches('.');
            // Some engines' errors repeat what they were caused by.
            if !part.is_empty() && !parts.iter().any(|earlier| earlier.contains(part)) {
                parts.push(part.to_owned());
            }
        }
        let mut parts = parts.into_iter();
        Self { message: parts.next().unwrap_or_default(), causes: parts.collect(), hint: hint(error) }
    }

    /// What stands before everything goes wrong: clap's own message, whose first line says it.
    pub(crate) fn of_clap(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Self { message, causes: Vec::new(), hint: Some("`tandem --help` lists commands and options".into()) }
    }
}

/// The exit code that `error` stands for.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = error.chain().any(|part| {
        part.is::<Usage>() || matches!(part.downcast_ref::<tandem::Error>(), Some(tandem::Error::InvalidOption { .. }))
    });
    ExitCode::from(if is_usage { WRONG_USAGE } else { FAILED })
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|part| match part.downcast_ref::<Usage>() {
        Some(usage) => usage.hint.clone(),
        None => part.downcast_ref::<tandem::Error>()?.hint().map(|remedies| words::sentence(&remedies)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_shown_once() {
        let error = anyhow::anyhow!("disk full.").context("writing: disk full").context("saving");
        let failure = Failure::new(&error);
        assert_eq!(
            (failure.message.as_str(), failure.causes.as_slice()),
            ("saving", ["writing: disk full".to_owned()].as_slice())
        );
        assert_eq!(failure.hint, None);
    }

    #[test]
    fn hints_and_exit_codes_come_from_the_errors() {
        let option = anyhow::Error::from(tandem::Error::invalid_option("top_p", 2, "is more than 1"));
        assert_eq!(format!("{:?}", exit_code(&option)), format!("{:?}", ExitCode::from(2)));
        let empty = anyhow::Error::from(tandem::Error::EmptyPrompt).context("here");
        assert_eq!(format!("{:?}", exit_code(&empty)), format!("{:?}", ExitCode::from(1)));
        assert_eq!(Failure::new(&empty).hint.as_deref(), Some("give a prompt of at least one character"));
    }
}
