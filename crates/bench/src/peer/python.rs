//! Embedding engines of Python, through `training/embeddings/peers.py`: sentence-transformers, ONNX Runtime and OpenVINO.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};
use tandem_core::{CancelToken, Result};

use super::refused;
use crate::machine::Activity;
use crate::measure::{EmbedWorkload, Embedded, Sample, Workload, rules, text};
use crate::probe::Probe;
use crate::process::{self, Finished};
use crate::record::Loaded;
use crate::run::Runner;

/// A program of Python with the kinds of engines that its interpreter has.
#[derive(Clone, Debug)]
pub struct PythonWorker {
    /// The interpreter.
    pub python: PathBuf,
    /// The program.
    pub worker: PathBuf,
}

/// One kind of engine on one checkpoint.
pub struct PythonPeer {
    /// What runs it.
    pub worker: PythonWorker,
    /// Which engine, and how it makes batches, such as `onnxruntime-padded`.
    pub kind: String,
    /// The checkpoint.
    pub directory: PathBuf,
    /// Where graphs are kept that are made of it.
    pub cache: PathBuf,
    /// Threads to compute with.
    pub threads: usize,
    /// Rows of the model's embedding, for the texts.
    pub vocab_size: usize,
}

#[derive(Debug, Deserialize)]
struct Kinds {
    kinds: Vec<String>,
}

/// What the program prints.
#[derive(Debug, Deserialize)]
struct Answer {
    engine: String,
    version: String,
    dtype: String,
    load_ms: f64,
    peak_rss_bytes: Option<u64>,
    #[serde(default)]
    embedded: Vec<Embedded>,
    #[serde(default)]
    query_ms: Vec<f64>,
}

impl PythonWorker {
    /// The kinds whose packages the interpreter has.
    ///
    /// # Errors
    /// [`Error::Unsupported`](tandem_core::Error::Unsupported) when it cannot be run or gives no answer.
    pub fn kinds(&self, cancel: &CancelToken) -> Result<Vec<String>> {
        let (found, _): (Kinds, _) = self.ask("python", &json!({"list": true}), cancel)?;
        Ok(found.kinds)
    }

    fn ask<A: for<'a> Deserialize<'a>>(&self, name: &str, request: &Value, cancel: &CancelToken) -> Result<(A, Finished)> {
        let mut command = Command::new(&self.python);
        command.arg(&self.worker);
        let finished = process::run(command, &format!("peer `{name}`"), &request.to_string(), cancel)?;
        if !finished.status.success() {
            return Err(refused(name, format!("it ended with {}: {}", finished.status, finished.last_words()), None));
        }
        let last = finished.stdout.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        let answer =
            serde_json::from_str(last).map_err(|error| refused(name, format!("its output cannot be parsed: {error}"), None))?;
        Ok((answer, finished))
    }
}

impl PythonPeer {
    fn ask(&self, what: Value, cancel: &CancelToken) -> Result<(Answer, Finished)> {
        let mut request = json!({"kind": self.kind, "directory": self.directory, "cache": self.cache, "threads": self.threads});
        if let (Value::Object(fields), Value::Object(more)) = (&mut request, what) {
            fields.extend(more);
        }
        self.worker.ask(&self.kind, &request, cancel)
    }

    /// The work, with every text as its tokens.
    fn work(&self, workload: &EmbedWorkload) -> Value {
        let text = |number, n_tokens| text(number, n_tokens, self.vocab_size);
        let queries: Vec<_> = (0..=workload.n_queries).map(|number| text(number, workload.query_tokens.max(1))).collect();
        let batches: Vec<Value> = workload
            .all()
            .into_iter()
            .map(|batch| {
                let lengths = workload.lengths_of(batch);
                let texts: Vec<_> = lengths.iter().enumerate().map(|(number, &n)| text(number, n)).collect();
                json!({"length": batch.length, "texts": texts})
            })
            .collect();
        json!({"queries": queries, "batches": batches, "least_ms": rules::LEAST_MS, "warm_tokens": rules::WARM_TOKENS,
            "most_queries_ms": rules::MOST_QUERIES_MS, "least_queries": rules::LEAST_QUERIES})
    }
}

impl Runner for PythonPeer {
    fn name(&self) -> String {
        format!("{}, {} thread{}", self.kind, self.threads, if self.threads == 1 { "" } else { "s" })
    }

    fn prepare(&mut self, probe: &Probe, answer: &Path, cancel: &CancelToken) -> Result<(Loaded, Option<String>)> {
        let Probe::Vectors(texts) = probe else {
            return Err(refused(&self.kind, "it makes vectors, and the model is measured at generating text", None));
        };
        let what = json!({"probe": {"texts": texts, "answer": answer}});
        let (found, _) = self.ask(what, cancel)?;
        let loaded = Loaded {
            engine: found.engine,
            engine_version: found.version,
            device: "cpu".into(),
            dtype: found.dtype,
            threads: self.threads,
            ..Loaded::default()
        };
        Ok((loaded, None))
    }

    fn round(&mut self, workload: &Workload, round: usize, cancel: &CancelToken) -> Result<Sample> {
        let activity = Activity::now();
        let work = workload.embedding.as_ref().map(|embedding| self.work(embedding));
        let (found, finished) = self.ask(json!({"work": work}), cancel)?;
        Ok(Sample {
            round,
            load_ms: Some(found.load_ms),
            embedded: found.embedded,
            query_ms: found.query_ms,
            peak_rss_bytes: found.peak_rss_bytes.max(finished.peak_rss_bytes),
            conditions: activity.until_now(),
            ..Sample::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::TextBatch;

    fn peer(python: &str, worker: PathBuf) -> PythonPeer {
        let worker = PythonWorker { python: python.into(), worker };
        let (directory, cache) = (PathBuf::from("."), PathBuf::from("."));
        PythonPeer { worker, kind: "fake".into(), directory, cache, threads: 1, vocab_size: 100 }
    }

    #[test]
    fn python_answers_become_samples() {
        let text = r#"{"engine": "onnxruntime", "version": "1", "dtype": "f32", "load_ms": 2.5, "peak_rss_bytes": 7, "query_ms": [1.0],
            "embedded": [{"n_texts": 8, "length": 16, "n_tokens": 128, "ms": 3.0}, {"n_texts": 2, "length": null, "n_tokens": 9, "ms": 1.0}]}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        let batches: Vec<TextBatch> = answer.embedded.iter().map(|embedded| embedded.batch).collect();
        assert_eq!(batches, [TextBatch { n_texts: 8, length: Some(16) }, TextBatch { n_texts: 2, length: None }]);
    }

    #[test]
    fn the_worker_is_given_every_text_as_tokens() {
        let workload =
            EmbedWorkload { lengths: vec![4], batches: vec![2], n_mixed: 3, most_mixed: 9, n_queries: 5, query_tokens: 6 };
        let work = peer("python3", "none.py".into()).work(&workload);
        let n_tokens =
            |texts: &Value| texts.as_array().unwrap().iter().map(|text| text.as_array().unwrap().len()).collect::<Vec<_>>();
        assert_eq!(n_tokens(&work["batches"][0]["texts"]), [4, 4]);
        assert_eq!(n_tokens(&work["batches"][1]["texts"]), workload.lengths_of(workload.all()[1]));
        assert_eq!((n_tokens(&work["queries"]), &work["batches"][1]["length"]), (vec![6; 6], &Value::Null));
    }

    #[test]
    fn an_interpreter_that_is_not_there_is_named() {
        let error = peer("./no-such-python", "none.py".into()).worker.kinds(&CancelToken::new()).unwrap_err();
        assert!(error.to_string().contains("no-such-python"), "{error}");
    }
}
