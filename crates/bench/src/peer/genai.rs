//! onnxruntime-genai, in Python as its users have it: `genai.py` beside this file does the work in the given interpreter.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use tandem_core::{CancelToken, Result};

use super::refused;
use crate::machine::Activity;
use crate::measure::{Decode, Prefill, Sample, Workload, prompt_token};
use crate::probe::Probe;
use crate::process;
use crate::record::Loaded;
use crate::run::Runner;

const SCRIPT: &str = include_str!("genai.py");

/// One directory with a graph and a `genai_config.json`.
pub struct Genai {
    /// The interpreter.
    pub python: PathBuf,
    /// The model.
    pub directory: PathBuf,
    /// Its dtype, in words.
    pub dtype: String,
    /// Threads to compute with.
    pub threads: usize,
    /// The share of its weights that one step reads.
    pub step_share: f64,
}

/// What the script prints.
#[derive(Debug, Deserialize)]
struct Answer {
    version: String,
    load_ms: f64,
    peak_rss_bytes: Option<u64>,
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
}

impl Genai {
    fn ask(&self, workload: &Workload, cancel: &CancelToken) -> Result<(Answer, Option<u64>)> {
        let request = serde_json::json!({
            "directory": self.directory,
            "threads": self.threads,
            "prompts": workload.prompts,
            "depths": workload.depths,
            "n_generated": workload.n_generated,
            "tokens": (0..crate::measure::longest(workload)).map(|i| prompt_token(i, 1000)).collect::<Vec<_>>(),
        });
        let mut command = Command::new(&self.python);
        command.args(["-c", SCRIPT]).env("ORT_DISABLE_TELEMETRY", "1");
        let finished = process::run(command, "peer `genai`", &request.to_string(), cancel)?;
        if !finished.status.success() {
            return Err(refused("genai", format!("it ended with {}: {}", finished.status, finished.last_words()), None));
        }
        // Python's libraries may greet on standard output.
        let last = finished.stdout.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        let answer = serde_json::from_str(last)
            .map_err(|error| refused("genai", format!("its output cannot be parsed: {error}"), None))?;
        Ok((answer, finished.peak_rss_bytes))
    }
}

impl Runner for Genai {
    fn name(&self) -> String {
        format!("genai {}, {} threads", self.dtype, self.threads)
    }

    fn prepare(&mut self, _probe: &Probe, _answer: &Path, cancel: &CancelToken) -> Result<(Loaded, Option<String>)> {
        if !self.directory.join("genai_config.json").is_file() {
            let reason = format!("`{}` has no `genai_config.json`", self.directory.display());
            return Err(refused(
                "genai",
                reason,
                Some("name a directory written by onnxruntime-genai's builder or by an export"),
            ));
        }
        let nothing = Workload { prompts: vec![1], depths: vec![], n_generated: 0, parallel: vec![], rounds: 1, embedding: None };
        let (answer, _) = self.ask(&nothing, cancel)?;
        let files = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let weights: Vec<_> = files.filter(|file| file.file_name().to_string_lossy().contains(".onnx")).collect();
        let model_bytes: u64 = weights.iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        let loaded = Loaded {
            engine: "onnxruntime-genai".into(),
            engine_version: answer.version,
            device: "cpu".into(),
            dtype: self.dtype.clone(),
            threads: self.threads,
            model_bytes,
            step_bytes: Some((model_bytes as f64 * self.step_share) as u64),
            weight_files: weights.iter().map(|file| file.path().display().to_string()).collect(),
            ..Loaded::default()
        };
        Ok((loaded, Some("the loss of its graph is not measured".into())))
    }

    fn round(&mut self, workload: &Workload, round: usize, cancel: &CancelToken) -> Result<Sample> {
        let activity = Activity::now();
        let (answer, peak) = self.ask(workload, cancel)?;
        Ok(Sample {
            round,
            load_ms: Some(answer.load_ms),
            prefill: answer.prefill,
            decode: answer.decode,
            peak_rss_bytes: answer.peak_rss_bytes.max(peak),
            conditions: activity.until_now(),
            ..Sample::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genai_refuses_a_directory_without_genai_config() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_path_buf();
        let mut peer = Genai { python: "./none".into(), directory, dtype: "int4".into(), threads: 1, step_share: 1.0 };
        let error = peer.prepare(&Probe::Logits(Vec::new()), Path::new("x"), &CancelToken::new()).unwrap_err();
        assert!(error.to_string().contains("genai_config.json"), "{error}");
    }

    #[test]
    fn genai_output_becomes_a_sample() {
        let text = r#"{"version": "0.9", "load_ms": 1.5, "peak_rss_bytes": null, "prefill": [{"n_tokens": 4, "ms": 2.0, "first_token_ms": 2.5}],
            "decode": [{"depth": 0, "n_tokens": 2, "ms": 3.0, "step_ms": [1.0, 2.0]}]}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        assert_eq!((answer.prefill.len(), answer.decode[0].step_ms.len()), (1, 2));
    }
}
