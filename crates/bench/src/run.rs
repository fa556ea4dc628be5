//! Runs a bench: every runner is prepared, then has a turn in each round; the record is handed on after each step.

use std::path::{Path, PathBuf};

use tandem_core::{CancelToken, DType, Error, Result};
use tempfile::TempDir;

use crate::measure::{Sample, Workload};
use crate::probe::{Probe, Rows};
use crate::record::{BenchEntry, Loaded, Record};
use crate::work::{Answer, EngineChoice, Request, Task, ask};

/// An engine with one set of options, which can be measured.
pub trait Runner {
    /// Its name, unique in the bench.
    fn name(&self) -> String;

    /// The record that it begins with.
    fn entry(&self) -> BenchEntry {
        BenchEntry { name: self.name(), is_peer: true, ..BenchEntry::default() }
    }

    /// Whether its weights are f32, so that others' losses can be measured against it.
    fn is_reference(&self) -> bool {
        false
    }

    /// Makes ready what the rounds need; what it answers to `probe` goes to a file at `answer`, or there is a reason why not.
    ///
    /// # Errors
    /// When it cannot be measured.
    fn prepare(&mut self, probe: &Probe, answer: &Path, cancel: &CancelToken) -> Result<(Loaded, Option<String>)>;

    /// Measures one round.
    ///
    /// # Errors
    /// When it cannot go on.
    fn round(&mut self, workload: &Workload, round: usize, cancel: &CancelToken) -> Result<Sample>;
}

/// Progress.
#[derive(Clone, Copy, Debug)]
pub enum Step<'s> {
    /// A runner is loaded for the first time, which may make something of the checkpoint.
    Preparing(&'s str),
    /// It is a runner's turn.
    Turn {
        /// Its name.
        name: &'s str,
        /// Which round, from 0.
        round: usize,
    },
    /// A runner cannot be measured, or no longer.
    Failed {
        /// Its name.
        name: &'s str,
        /// Why.
        reason: &'s str,
    },
    /// Every runner had its turn.
    RoundDone(usize),
}

/// What is measured, and what losses are measured on.
pub struct Lineup {
    /// In the order of their turns.
    pub runners: Vec<Box<dyn Runner>>,
    /// The reference of losses when no other runner is f32; it is prepared and has no turns.
    pub reference: Option<Box<dyn Runner>>,
    /// What all of them answer.
    pub probe: Probe,
}

/// Runs the rounds of `record.workload`, with every sample put into `record`; `tell` sees it after each step.
///
/// # Errors
/// [`Error::Cancelled`], with what was measured before in `record`; [`Error::BadFile`] when no runner can be prepared.
pub fn run(record: &mut Record, mut lineup: Lineup, cancel: &CancelToken, tell: &mut dyn FnMut(&Record, Step<'_>)) -> Result<()> {
    record.entries = lineup.runners.iter().map(|runner| runner.entry()).collect();
    prepare(record, &mut lineup, cancel, tell)?;
    if let Some(reason) = nothing_left(record) {
        return Err(Error::BadFile { file: record.model.reference.clone(), problem: reason, hint: None, source: None });
    }
    let workload = record.workload.clone();
    for round in 0..workload.rounds {
        for (i, runner) in lineup.runners.iter_mut().enumerate() {
            if record.entries[i].failure.is_some() {
                continue;
            }
            let name = runner.name();
            tell(record, Step::Turn { name: &name, round });
            match runner.round(&workload, round, cancel) {
                Ok(sample) => record.entries[i].samples.push(sample),
                Err(error) => give_up(record, i, error, tell)?,
            }
        }
        tell(record, Step::RoundDone(round));
    }
    record.is_complete = true;
    tell(record, Step::RoundDone(workload.rounds));
    Ok(())
}

/// Has every runner load once, the reference first, and measures its loss.
fn prepare(
    record: &mut Record,
    lineup: &mut Lineup,
    cancel: &CancelToken,
    tell: &mut dyn FnMut(&Record, Step<'_>),
) -> Result<()> {
    let dir = TempDir::new().map_err(|error| Error::bad_file("the directory for temporary files", "cannot be used", error))?;
    let n = lineup.runners.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| (!lineup.runners[i].is_reference(), i));
    let has_own = lineup.runners.iter().any(|runner| runner.is_reference());
    let mut reference = match &mut lineup.reference {
        Some(outside) if !has_own => {
            tell(record, Step::Preparing(&outside.name()));
            outside_reference(&mut **outside, &lineup.probe, &dir, cancel)?
        }
        _ => None,
    };
    for i in order {
        let runner = &mut lineup.runners[i];
        let name = runner.name();
        tell(record, Step::Preparing(&name));
        let path = dir.path().join(format!("{i}.answer"));
        match runner.prepare(&lineup.probe, &path, cancel) {
            Ok((loaded, no_answer)) => {
                let answer = match no_answer {
                    Some(reason) => Err(reason),
                    None => lineup.probe.read(&path, loaded.max_context).map_err(|error| error.to_string()),
                };
                record.entries[i].loaded = Some(loaded);
                // A file of logits is large, and is not needed twice.
                let _ = std::fs::remove_file(&path);
                // One of them may not be part of this build.
                if reference.is_none() && runner.is_reference() {
                    reference = answer.clone().ok().map(|answer| (name.clone(), answer));
                }
                lineup.probe.judge(&mut record.entries[i], answer, reference.as_ref());
            }
            Err(error) => give_up(record, i, error, tell)?,
        }
    }
    Ok(())
}

/// The answer of a reference that has no turns; none when it cannot be loaded, since a model may have no f32.
fn outside_reference(
    runner: &mut dyn Runner,
    probe: &Probe,
    dir: &TempDir,
    cancel: &CancelToken,
) -> Result<Option<(String, Rows)>> {
    let path = dir.path().join("reference.answer");
    match runner.prepare(probe, &path, cancel) {
        Ok((loaded, None)) => Ok(probe.read(&path, loaded.max_context).ok().map(|answer| (runner.name(), answer))),
        Err(Error::Cancelled) => Err(Error::Cancelled),
        _ => Ok(None),
    }
}

/// Records why entry `i` failed; an interrupt ends the whole bench.
fn give_up(record: &mut Record, i: usize, error: Error, tell: &mut dyn FnMut(&Record, Step<'_>)) -> Result<()> {
    if matches!(error, Error::Cancelled) {
        return Err(error);
    }
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    // The name of the entry stands before it.
    let reason = match error {
        Error::Unsupported { reason, .. } => format!("{reason}{hint}"),
        other => format!("{other}{hint}"),
    };
    record.entries[i].failure = Some(reason.clone());
    let name = record.entries[i].name.clone();
    tell(record, Step::Failed { name: &name, reason: &reason });
    Ok(())
}

/// Why there is nothing to measure, when so.
fn nothing_left(record: &Record) -> Option<String> {
    let failures: Vec<&str> = record.entries.iter().filter_map(|entry| entry.failure.as_deref()).collect();
    let is_over = failures.len() == record.entries.len();
    is_over.then(|| format!("nothing can be measured: {}", failures.first().copied().unwrap_or("no engine was named")))
}

/// Tandem itself, with one set of options.
pub struct TandemRunner {
    /// Its name.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// The model.
    pub reference: String,
    /// Engine and options.
    pub engine: EngineChoice,
    /// The same as on the command line.
    pub options: String,
    /// Files to load from the disk in the first round, once it is known which.
    pub weight_files: Vec<PathBuf>,
}

impl TandemRunner {
    fn ask(&self, task: Task, cancel: &CancelToken) -> Result<Answer> {
        let request = Request::new(&self.reference, &self.engine, task);
        ask(&self.program, &format!("`{}`", self.name), &request, cancel)
    }

    fn wrong_answer(&self) -> Error {
        Error::Unsupported {
            what: format!("`{}`", self.name),
            reason: "its program gave an unexpected answer".into(),
            hint: None,
        }
    }
}

impl Runner for TandemRunner {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn entry(&self) -> BenchEntry {
        let is_peer = self.engine.is_transformers;
        BenchEntry { name: self.name(), is_peer, options: self.options.clone(), ..BenchEntry::default() }
    }

    fn is_reference(&self) -> bool {
        self.engine.load.dtype == Some(DType::F32) && !self.engine.is_transformers
    }

    fn prepare(&mut self, probe: &Probe, answer: &Path, cancel: &CancelToken) -> Result<(Loaded, Option<String>)> {
        match self.ask(Task::Prepare { probe: probe.clone(), answer: answer.into() }, cancel)? {
            Answer::Prepared { loaded, no_answer } => {
                self.weight_files = loaded.weight_files.iter().map(PathBuf::from).collect();
                Ok((loaded, no_answer))
            }
            _ => Err(self.wrong_answer()),
        }
    }

    fn round(&mut self, workload: &Workload, round: usize, cancel: &CancelToken) -> Result<Sample> {
        let cold = if round == 0 { self.weight_files.clone() } else { Vec::new() };
        match self.ask(Task::Round { workload: workload.clone(), round, cold }, cancel)? {
            Answer::Measured(sample) => Ok(sample),
            _ => Err(self.wrong_answer()),
        }
    }
}
