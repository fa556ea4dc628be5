//! A loopback hub with the golden checkpoint, and the binary beside it.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::server::FakeHub;
use crate::support::{Outcome, Place};

pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const SECRET: &str = "hf_ThisIsTheSecret";

/// A hub with the golden checkpoint as `owner/name`.
pub(crate) struct Hub {
    pub(crate) place: Place,
    pub(crate) hub: FakeHub,
}

impl Hub {
    /// A hub with `files` as `owner/name`.
    pub(crate) fn with(place: Place, files: &[(&str, Vec<u8>)]) -> Self {
        Self { hub: FakeHub::start(files), place }
    }

    pub(crate) fn new(place: Place) -> Self {
        let names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS, "README.md"];
        let files = names.map(|name| {
            place.copy(if name == "README.md" { "config.json" } else { name }, &format!("published/{name}"));
            (name, std::fs::read(place.path(&format!("published/{name}"))).unwrap())
        });
        Self::with(place, &files)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", self.hub.endpoint()).env("HF_TOKEN", SECRET);
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", "5");
        command
    }

    pub(crate) fn offline(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.env("HF_HUB_OFFLINE", "1");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        outcome(self.command(args))
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(args);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.json()
    }

    /// Where the hub's cache lies, as it is printed.
    pub(crate) fn cache(&self) -> String {
        self.place.path("home/.cache/huggingface/hub").display().to_string()
    }

    /// What was printed, without what differs from run to run.
    pub(crate) fn plain(&self, text: &str) -> String {
        let mut text = text.replace(&self.cache(), "CACHE");
        if let Some((before, after)) = text.clone().split_once(" downloaded in ") {
            let (_, rest) = after.split_once(" s,").unwrap();
            text = format!("{before} downloaded in 0.0 s,{rest}");
        }
        text
    }
}

pub(crate) fn outcome(mut command: Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    // What the test harness says before it becomes the binary.
    let stdout = text(output.stdout);
    let stdout = stdout.strip_prefix("\nrunning 1 test\n").unwrap_or(&stdout).to_owned();
    let outcome = Outcome { code: output.status.code(), stdout, stderr: text(output.stderr) };
    assert!(!outcome.stdout.contains(SECRET) && !outcome.stderr.contains(SECRET), "{}", outcome.stderr);
    outcome
}
