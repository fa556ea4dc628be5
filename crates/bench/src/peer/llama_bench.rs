//! llama.cpp, through its own `llama-bench`: prefill of each prompt, and decoding at each depth; of an embedding model the forward passes
//! of its texts, one after the other, since `llama-bench` runs one sequence at a time.
//!
//! The form of its output: `tools/llama-bench/README.md` of llama.cpp. It draws its tokens at random and samples nothing; speed depends on
//! neither.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use tandem_core::{CancelToken, Result};

use super::refused;
use crate::machine::Activity;
use crate::measure::{Decode, EmbedWorkload, Embedded, Prefill, Sample, Workload, rules};
use crate::probe::Probe;
use crate::process;
use crate::record::Loaded;
use crate::run::Runner;

/// One GGUF file.
pub struct LlamaBench {
    /// The program `llama-bench`.
    pub program: PathBuf,
    /// The model.
    pub gguf: PathBuf,
    /// Threads to compute with.
    pub threads: usize,
}

/// One test's result; `-o json` prints a list of them.
#[derive(Debug, Deserialize)]
struct Test {
    build_commit: String,
    model_type: String,
    model_size: u64,
    n_prompt: usize,
    n_gen: usize,
    #[serde(default)]
    n_depth: usize,
    samples_ns: Vec<u64>,
}

impl LlamaBench {
    /// Runs one kind of test once; every test warms up by itself.
    fn tests(&self, arguments: &[String], cancel: &CancelToken) -> Result<(Vec<Test>, Option<u64>)> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.gguf).args(["-o", "json", "-t", &self.threads.to_string()]).args(arguments);
        let finished = process::run(command, "peer `llama-bench`", "", cancel)?;
        if !finished.status.success() {
            return Err(refused("llama-bench", format!("it ended with {}: {}", finished.status, finished.last_words()), None));
        }
        Ok((parse(&finished.stdout)?, finished.peak_rss_bytes))
    }

    /// Measures the texts of `workload` on a model that embeds.
    fn embed(&self, workload: &EmbedWorkload, sample: &mut Sample, cancel: &CancelToken) -> Result<()> {
        let mut passes = |lengths: &[usize], repeats: usize| -> Result<Vec<f64>> {
            let lengths = lengths.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let repeats = repeats.to_string();
            let arguments = ["-embd", "1", "-n", "0", "-p", &lengths, "-r", &repeats].map(str::to_owned);
            let (tests, peak) = self.tests(&arguments, cancel)?;
            sample.peak_rss_bytes = sample.peak_rss_bytes.max(peak);
            Ok(tests.iter().flat_map(|test| &test.samples_ns).map(|&nanoseconds| nanoseconds as f64 / 1e6).collect())
        };
        if workload.n_queries > 0 {
            let repeats = workload.n_queries.min(rules::LEAST_QUERIES);
            sample.query_ms = passes(&[workload.query_tokens.max(1)], repeats)?;
        }
        for batch in workload.all() {
            let lengths = workload.lengths_of(batch);
            let times = match batch.length {
                Some(length) => passes(&[length], batch.n_texts)?,
                None => passes(&lengths, 1)?,
            };
            sample.embedded.push(Embedded { batch, n_tokens: lengths.iter().sum(), ms: times.iter().sum() });
        }
        Ok(())
    }

    fn file_name(&self) -> String {
        self.gguf.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl Runner for LlamaBench {
    fn name(&self) -> String {
        format!("llama.cpp {}, {} threads", self.file_name(), self.threads)
    }

    fn prepare(&mut self, _probe: &Probe, _answer: &Path, cancel: &CancelToken) -> Result<(Loaded, Option<String>)> {
        if !self.gguf.is_file() {
            let hint = Some("name a GGUF file of the model");
            return Err(refused("llama-bench", format!("there is no file `{}`", self.gguf.display()), hint));
        }
        let (tests, _) = self.tests(&["-p", "1", "-n", "0", "-r", "1"].map(str::to_owned), cancel)?;
        let test = tests.first().ok_or_else(|| refused("llama-bench", "it printed no results", None))?;
        let loaded = Loaded {
            engine: "llama.cpp".into(),
            engine_version: test.build_commit.clone(),
            device: "cpu".into(),
            dtype: test.model_type.rsplit_once(' ').map_or(test.model_type.as_str(), |(_, dtype)| dtype).into(),
            threads: self.threads,
            model_bytes: test.model_size,
            step_bytes: Some(test.model_size),
            weight_files: vec![self.gguf.display().to_string()],
            ..Loaded::default()
        };
        Ok((loaded, Some("llama-bench shows no logits".into())))
    }

    fn round(&mut self, workload: &Workload, round: usize, cancel: &CancelToken) -> Result<Sample> {
        let activity = Activity::now();
        let list = |values: &[usize]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut sample = Sample { round, ..Sample::default() };
        if let Some(embedding) = &workload.embedding {
            self.embed(embedding, &mut sample, cancel)?;
        }
        let mut add = |arguments: [String; 6]| -> Result<()> {
            let once = ["-r", "1"].map(str::to_owned);
            let (tests, peak) = self.tests(&[&arguments[..], &once].concat(), cancel)?;
            tests.iter().for_each(|test| test.add_to(&mut sample));
            sample.peak_rss_bytes = sample.peak_rss_bytes.max(peak);
            Ok(())
        };
        let text = |text: &str| text.to_owned();
        if !workload.prompts.is_empty() {
            add([text("-n"), text("0"), text("-p"), list(&workload.prompts), text("-d"), text("0")])?;
        }
        if !workload.depths.is_empty() && workload.n_generated > 0 {
            add([text("-p"), text("0"), text("-n"), workload.n_generated.to_string(), text("-d"), list(&workload.depths)])?;
        }
        sample.conditions = activity.until_now();
        Ok(sample)
    }
}

impl Test {
    fn add_to(&self, sample: &mut Sample) {
        for &nanoseconds in &self.samples_ns {
            let ms = nanoseconds as f64 / 1e6;
            if self.n_gen > 0 {
                sample.decode.push(Decode { depth: self.n_depth, n_tokens: self.n_gen, ms, step_ms: Vec::new() });
            } else {
                sample.prefill.push(Prefill { n_tokens: self.n_prompt, ms, first_token_ms: None });
            }
        }
    }
}

fn parse(stdout: &str) -> Result<Vec<Test>> {
    serde_json::from_str(stdout).map_err(|error| {
        let hint = "this build of llama-bench is too old or too new: the output of `llama-bench -o json` has changed";
        refused("llama-bench", format!("its output cannot be parsed: {error}"), Some(hint))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_bench_tests_become_prefill_or_decode() {
        let text = r#"[
          {"build_commit": "abc", "build_number": 1, "model_type": "qwen2 1B Q4_0", "model_size": 352969728, "n_prompt": 512,
           "n_gen": 0, "n_depth": 0, "avg_ns": 1, "samples_ns": [1500000000], "samples_ts": [341.3]},
          {"build_commit": "abc", "model_type": "qwen2 1B Q4_0", "model_size": 352969728, "n_prompt": 0, "n_gen": 64,
           "n_depth": 512, "samples_ns": [1000000000]}]"#;
        let mut sample = Sample::default();
        parse(text).unwrap().iter().for_each(|test| test.add_to(&mut sample));
        assert_eq!(sample.prefill, [Prefill { n_tokens: 512, ms: 1500.0, first_token_ms: None }]);
        assert_eq!(sample.decode, [Decode { depth: 512, n_tokens: 64, ms: 1000.0, step_ms: vec![] }]);
        assert!(parse("| model | size |").unwrap_err().to_string().contains("cannot be parsed"));
    }

    #[test]
    fn llama_bench_names_a_missing_model() {
        let mut peer = LlamaBench { program: "./none".into(), gguf: "./no-such.gguf".into(), threads: 1 };
        let error = peer.prepare(&Probe::Logits(Vec::new()), Path::new("x"), &CancelToken::new()).unwrap_err();
        assert!(error.to_string().contains("no-such.gguf"), "{error}");
    }
}
