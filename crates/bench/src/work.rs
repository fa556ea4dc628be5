//! What a bench and its worker processes say to each other: one request on standard input, one answer on standard output, in JSON.
//!
//! Each round of each entry is a process of its own. Its peak memory is its own, its load is a load, and where its memory came to
//! lie is part of the spread: figures of one process alone do not tell how another one would do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tandem_core::bandwidth::{MORE_THAN_CACHES, read_bandwidth};
use tandem_core::{BackendKind, CancelToken, Error, LoadOptions, Result};

use crate::machine::Activity;
use crate::measure::{Sample, Subject, Workload, measure};
use crate::memory::peak_rss_bytes;
use crate::probe::Probe;
use crate::process;
use crate::record::{Loaded, StepReads};

/// What a worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The model.
    pub reference: String,
    /// Who runs it.
    pub engine: EngineChoice,
    /// The work.
    pub task: Task,
    /// When it was asked, in microseconds since 1970: just before the worker's process was started.
    pub asked_us: u64,
}

impl Request {
    /// A request of now.
    pub fn new(reference: &str, engine: &EngineChoice, task: Task) -> Self {
        Self { reference: reference.into(), engine: engine.clone(), task, asked_us: now_us() }
    }
}

/// What loads the model, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EngineChoice {
    /// candle-transformers in the place of a backend.
    pub is_transformers: bool,
    /// To make vectors of texts, and not to generate.
    pub is_embedder: bool,
    /// The backend; `None` is the program's default.
    pub backend: Option<BackendKind>,
    /// The same as for any load.
    pub load: LoadOptions,
    /// References of adapters that are applied, as the program reads them.
    #[serde(default)]
    pub adapters: Vec<String>,
}

/// The work of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Load, so that whatever must be made of the checkpoint is made, and answer `probe`.
    Prepare {
        /// What is asked.
        probe: Probe,
        /// The file that the answer is written to.
        answer: PathBuf,
    },
    /// Measure one round.
    Round {
        /// What.
        workload: Workload,
        /// Which.
        round: usize,
        /// Files to put out of the system's cache before.
        cold: Vec<PathBuf>,
    },
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Of [`Task::Prepare`].
    Prepared {
        /// What was loaded.
        loaded: Loaded,
        /// Why there is no answer.
        no_answer: Option<String>,
    },
    /// Of [`Task::Round`].
    Measured(Sample),
    /// It failed; the texts of an error.
    Failed {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Does the work of `request` in this process. `load` loads the model and says what a step reads of its weights.
///
/// # Errors
/// As `load`, and as [`measure`].
pub fn work(request: &Request, load: &mut dyn FnMut() -> Result<(Subject, Option<StepReads>)>) -> Result<Answer> {
    match &request.task {
        Task::Prepare { probe, answer } => {
            let (subject, reads) = load()?;
            let loaded = Loaded::new(subject.info(), reads);
            let no_answer = probe.answer(&subject, answer).err().map(|error| error.to_string());
            Ok(Answer::Prepared { loaded, no_answer })
        }
        Task::Round { workload, round, cold } => {
            let before = Duration::from_micros(now_us().saturating_sub(request.asked_us));
            let is_cold = !cold.is_empty() && cold.iter().all(|path| put_out_of_cache(path));
            let activity = Activity::now();
            let begun = Instant::now();
            let (subject, _) = load()?;
            let load_ms = begun.elapsed().as_secs_f64() * 1e3;
            let mut first_ms = None;
            // The start of the process counts; what only a bench does before the load does not.
            let mut first = || first_ms = Some((begun.elapsed() + before).as_secs_f64() * 1e3);
            let mut sample = measure(&subject, workload, &CancelToken::new(), &mut first)?;
            let threads = subject.info().threads;
            let is_embedder = matches!(subject, Subject::Embedder(_));
            drop(subject);
            let (conditions, peak_rss_bytes) = (activity.until_now(), peak_rss_bytes());
            sample = Sample {
                round: *round,
                load_ms: Some(load_ms),
                is_cold,
                start_to_first_token_ms: first_ms.filter(|_| !is_embedder),
                start_to_first_vector_ms: first_ms.filter(|_| is_embedder),
                peak_rss_bytes,
                conditions,
                ..sample
            };
            // Last, and after the peak was taken: its array is larger than a small model.
            sample.bandwidth = Some(read_bandwidth(threads, MORE_THAN_CACHES));
            Ok(Answer::Measured(sample))
        }
    }
}

/// Has `program` do the work of `request` in a process of its own.
///
/// # Errors
/// What the worker failed with, [`Error::Unsupported`] when it gave no answer, [`Error::Cancelled`].
pub fn ask(program: &Path, name: &str, request: &Request, cancel: &CancelToken) -> Result<Answer> {
    let input = serde_json::to_string(request).map_err(|error| Error::bad_file(name, "cannot be sent a request", error))?;
    let mut command = Command::new(program);
    command.args(["bench", "--worker"]);
    let finished = process::run(command, name, &input, cancel)?;
    let failed =
        |reason: String, hint: Option<String>| Error::Unsupported { what: name.to_owned(), reason, hint: hint.map(Into::into) };
    match serde_json::from_str(&finished.stdout) {
        Ok(Answer::Failed { message, hint }) => Err(failed(message, hint)),
        Ok(answer) => Ok(answer),
        Err(_) => Err(failed(format!("its process ended with {}: {}", finished.status, finished.last_words()), None)),
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// Whether the system was told to forget what it has of the file at `path`. Pages that were written and not yet stored stay, and those
/// that another process has mapped.
fn put_out_of_cache(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    return std::fs::File::open(path)
        .is_ok_and(|file| file.sync_all().is_ok() && rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok());
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}
