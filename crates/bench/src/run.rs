//! Runs a bench: who takes part is prepared, then everybody has a turn in each round, and what was measured is handed on after each.

use std::path::{Path, PathBuf};

use tandem_core::{CancelToken, DType, Error, Logits, Result, TokenId};
use tempfile::TempDir;

use crate::loss::{loss, read_logits};
use crate::measure::{Sample, Workload};
use crate::record::{Contender, Loaded, Record};
use crate::work::{Answer, EngineChoice, Request, Task, ask};

/// Someone who takes part.
pub trait Contestant {
    /// Its name, unique in the bench.
    fn name(&self) -> String;

    /// The record that it begins with.
    fn contender(&self) -> Contender {
        Contender { name: self.name(), is_peer: true, ..Contender::default() }
    }

    /// Whether its weights are f32, so that others' losses can be measured against it.
    fn is_reference(&self) -> bool {
        false
    }

    /// Makes ready what the rounds need; logits of `tokens` go to a file at `logits`, or there is a reason why not.
    ///
    /// # Errors
    /// When it cannot take part.
    fn prepare(&mut self, tokens: &[TokenId], logits: &Path, cancel: &CancelToken) -> Result<(Loaded, Option<String>)>;

    /// Measures one round.
    ///
    /// # Errors
    /// When it cannot go on.
    fn round(&mut self, workload: &Workload, round: usize, cancel: &CancelToken) -> Result<Sample>;
}

/// What happens, for who looks on.
#[derive(Clone, Copy, Debug)]
pub enum Step<'s> {
    /// A contestant is loaded for the first time, which may make something of the checkpoint.
    Preparing(&'s str),
    /// It is a contestant's turn.
    Turn {
        /// Whose.
        name: &'s str,
        /// Which round, from 0.
        round: usize,
    },
    /// A contestant takes no part, or no longer.
    Failed {
        /// Who.
        name: &'s str,
        /// Why.
        reason: &'s str,
    },
    /// Every contestant had its turn.
    RoundDone(usize),
}

/// Who takes part, and what their losses are measured on.
pub struct Field<'f> {
    /// In the order of their turns.
    pub contestants: Vec<Box<dyn Contestant>>,
    /// Taken as the reference when nobody else is f32; it is prepared and has no turns.
    pub reference: Option<Box<dyn Contestant>>,
    /// The text of the losses.
    pub tokens: &'f [TokenId],
}

/// Runs the rounds of `record.workload`, with every sample put into `record`; `tell` sees it after each step.
///
/// # Errors
/// [`Error::Cancelled`], with what was measured before in `record`; [`Error::BadFile`] when nobody can take part.
pub fn run(
    record: &mut Record,
    mut field: Field<'_>,
    cancel: &CancelToken,
    tell: &mut dyn FnMut(&Record, Step<'_>),
) -> Result<()> {
    record.contenders = field.contestants.iter().map(|contestant| contestant.contender()).collect();
    prepare(record, &mut field, cancel, tell)?;
    if let Some(reason) = nobody(record) {
        return Err(Error::BadFile { file: record.model.reference.clone(), problem: reason, hint: None, source: None });
    }
    let workload = record.workload.clone();
    for round in 0..workload.rounds {
        for (i, contestant) in field.contestants.iter_mut().enumerate() {
            if record.contenders[i].failure.is_some() {
                continue;
            }
            let name = contestant.name();
            tell(record, Step::Turn { name: &name, round });
            match contestant.round(&workload, round, cancel) {
                Ok(sample) => record.contenders[i].samples.push(sample),
                Err(error) => give_up(record, i, error, tell)?,
            }
        }
        tell(record, Step::RoundDone(round));
    }
    record.is_complete = true;
    tell(record, Step::RoundDone(workload.rounds));
    Ok(())
}

/// Lets everybody load once, the reference first, and measures what they lose.
fn prepare(
    record: &mut Record,
    field: &mut Field<'_>,
    cancel: &CancelToken,
    tell: &mut dyn FnMut(&Record, Step<'_>),
) -> Result<()> {
    let dir = TempDir::new().map_err(|error| Error::bad_file("the directory for temporary files", "cannot be used", error))?;
    let n = field.contestants.len();
    let first = field.contestants.iter().position(|contestant| contestant.is_reference());
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| (Some(i) != first, i));
    let mut reference = match (&first, &mut field.reference) {
        (None, Some(outside)) => {
            tell(record, Step::Preparing(&outside.name()));
            outside_reference(&mut **outside, field.tokens, &dir, cancel)?
        }
        _ => None,
    };
    for i in order {
        let contestant = &mut field.contestants[i];
        let name = contestant.name();
        tell(record, Step::Preparing(&name));
        let path = dir.path().join(format!("{i}.logits"));
        match contestant.prepare(field.tokens, &path, cancel) {
            Ok((loaded, no_logits)) => {
                let n_rows = field.tokens.len().min(loaded.max_context.unwrap_or(usize::MAX));
                record.contenders[i].loaded = Some(loaded);
                let values = match no_logits {
                    Some(reason) => Err(reason),
                    None => read_logits(&path, n_rows).map_err(|error| error.to_string()),
                };
                // A file of logits is large, and is not needed twice.
                let _ = std::fs::remove_file(&path);
                if Some(i) == first {
                    reference = values.clone().ok().map(|values| (name.clone(), values));
                }
                judge(&mut record.contenders[i], values, reference.as_ref(), field.tokens);
            }
            Err(error) => give_up(record, i, error, tell)?,
        }
    }
    Ok(())
}

/// The logits of a reference that has no turns; none when it cannot be loaded, since a model may have no f32.
fn outside_reference(
    contestant: &mut dyn Contestant,
    tokens: &[TokenId],
    dir: &TempDir,
    cancel: &CancelToken,
) -> Result<Option<(String, Logits)>> {
    let path = dir.path().join("reference.logits");
    match contestant.prepare(tokens, &path, cancel) {
        Ok((loaded, None)) => {
            let n_rows = tokens.len().min(loaded.max_context.unwrap_or(usize::MAX));
            Ok(read_logits(&path, n_rows).ok().map(|logits| (contestant.name(), logits)))
        }
        Err(Error::Cancelled) => Err(Error::Cancelled),
        _ => Ok(None),
    }
}

/// Notes what a contender loses, or why that is not known.
fn judge(contender: &mut Contender, logits: Result<Logits, String>, reference: Option<&(String, Logits)>, tokens: &[TokenId]) {
    let judged = match (logits, reference) {
        (Err(reason), _) => Err(reason),
        (_, None) => Err("there is no f32 of this model to compare with".into()),
        (Ok(values), Some((name, of_reference))) => {
            let n = values.n_rows().min(tokens.len());
            loss(&values, of_reference, name, &tokens[..n]).map_err(|error| error.to_string())
        }
    };
    match judged {
        // JSON has no word for it, and neither has a reader.
        Ok(loss) if !loss.mean_kl.is_finite() || !loss.perplexity.is_finite() => {
            contender.no_loss = Some("it is undefined: some logits are no numbers".into());
        }
        Ok(loss) => contender.loss = Some(loss),
        Err(reason) => contender.no_loss = Some(reason),
    }
}

/// Notes that contender `i` goes no further; when the user ended it, nobody does.
fn give_up(record: &mut Record, i: usize, error: Error, tell: &mut dyn FnMut(&Record, Step<'_>)) -> Result<()> {
    if matches!(error, Error::Cancelled) {
        return Err(error);
    }
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    // Who it is stands before it.
    let reason = match error {
        Error::Unsupported { reason, .. } => format!("{reason}{hint}"),
        other => format!("{other}{hint}"),
    };
    record.contenders[i].failure = Some(reason.clone());
    let name = record.contenders[i].name.clone();
    tell(record, Step::Failed { name: &name, reason: &reason });
    Ok(())
}

/// Why nobody is left, when so.
fn nobody(record: &Record) -> Option<String> {
    let failures: Vec<&str> = record.contenders.iter().filter_map(|contender| contender.failure.as_deref()).collect();
    let is_over = failures.len() == record.contenders.len();
    is_over.then(|| format!("nobody can take part: {}", failures.first().copied().unwrap_or("nobody was named")))
}

/// Tandem itself, with one set of options.
pub struct Own {
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

impl Own {
    fn ask(&self, task: Task, cancel: &CancelToken) -> Result<Answer> {
        let request = Request::new(&self.reference, &self.engine, task);
        ask(&self.program, &format!("`{}`", self.name), &request, cancel)
    }

    fn wrong_answer(&self) -> Error {
        Error::Unsupported {
            what: format!("`{}`", self.name),
            reason: "its program answered what it was not asked".into(),
            hint: None,
        }
    }
}

impl Contestant for Own {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn contender(&self) -> Contender {
        let is_peer = self.engine.is_transformers;
        Contender { name: self.name(), is_peer, options: self.options.clone(), ..Contender::default() }
    }

    fn is_reference(&self) -> bool {
        self.engine.load.dtype == Some(DType::F32) && !self.engine.is_transformers
    }

    fn prepare(&mut self, tokens: &[TokenId], logits: &Path, cancel: &CancelToken) -> Result<(Loaded, Option<String>)> {
        match self.ask(Task::Prepare { tokens: tokens.to_vec(), logits: logits.into() }, cancel)? {
            Answer::Prepared { loaded, no_logits } => {
                self.weight_files = loaded.weight_files.iter().map(PathBuf::from).collect();
                Ok((loaded, no_logits))
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
