//! One engine with its model: what is measured of it, and how.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use tandem_bench::record::bytes_per_weight;
use tandem_core::config::ModelConfig;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, Capability, LoadOptions, LogitsRequest, Model, Session, SessionOptions, TokenId};

/// Tokens that are decoded in a phase.
const DECODED: usize = 16;
const MOST_TOKENS: usize = 2048 + DECODED;

/// What is timed at once. Every runner runs them in order, and each goes on where the last has ended.
pub(crate) const PHASES: [Phase; 5] = [
    Phase { name: "decode", depth: 0, appended: None },
    Phase { name: "prefill of 512", depth: 0, appended: Some(512) },
    Phase { name: "decode at 512", depth: 512, appended: None },
    Phase { name: "prefill on to 2048", depth: 512 + DECODED, appended: Some(2048 - 512 - DECODED) },
    Phase { name: "decode at 2048", depth: 2048, appended: None },
];

pub(crate) struct Phase {
    pub(crate) name: &'static str,
    /// Tokens before it; all are forgotten first where there are none.
    pub(crate) depth: usize,
    /// Tokens that are appended together; otherwise some are decoded.
    pub(crate) appended: Option<usize>,
}

/// A sequence that tokens are appended to.
pub(crate) trait Sequence {
    /// Appends `tokens` and gives the likeliest next.
    fn append(&mut self, tokens: &[TokenId]) -> Result<TokenId>;
    /// Forgets all tokens.
    fn clear(&mut self) -> Result<()>;
}

pub(crate) struct Runner {
    pub(crate) name: String,
    sequence: Box<dyn Sequence>,
    /// Bytes of weights that a step reads, with scales; the head is taken to be the embedding.
    step_bytes: f64,
    kv_bytes_per_token: f64,
    /// Seconds for a token in each phase and round.
    seconds: [Vec<f64>; PHASES.len()],
}

impl Runner {
    pub(crate) fn new(name: String, sequence: Box<dyn Sequence>, config: &ModelConfig, bytes_of_weight: f64) -> Self {
        Self {
            name,
            sequence,
            step_bytes: bytes_of_weight * config.n_parameters() as f64,
            kv_bytes_per_token: config.kv_bytes_per_token(size_of::<f32>()) as f64,
            seconds: Default::default(),
        }
    }

    /// Runs the phase number `phase` and keeps its time where it `counts`.
    pub(crate) fn run(&mut self, phase: usize, counts: bool) -> Result<()> {
        let Phase { depth, appended, .. } = PHASES[phase];
        if depth == 0 {
            self.sequence.clear()?;
        }
        let started = Instant::now();
        let n = if let Some(n) = appended {
            let prompt: Vec<TokenId> = (depth..depth + n).map(|i| ((i * 7919 + 13) % 300) as TokenId).collect();
            self.sequence.append(&prompt)?;
            n
        } else {
            (0..DECODED).try_fold(5, |token, _| self.sequence.append(&[token]))?;
            DECODED
        };
        if counts {
            self.seconds[phase].push(started.elapsed().as_secs_f64() / n as f64);
        }
        Ok(())
    }

    /// Seconds for a token in `phase`, for each round.
    pub(crate) fn seconds_of(&self, phase: usize) -> &[f64] {
        &self.seconds[phase]
    }

    /// Bytes of weights, keys and values that a step after `depth` tokens reads.
    pub(crate) fn bytes_at(&self, depth: usize) -> f64 {
        self.step_bytes + self.kv_bytes_per_token * (depth + DECODED / 2) as f64
    }
}

/// What `backend` makes of `directory`.
pub(crate) fn of_backend(backend: &dyn Backend, directory: &Path, options: &LoadOptions) -> Result<Runner> {
    let files = ModelFiles::discover(directory, &directory.to_string_lossy())?;
    let model = backend.load(&files, options)?;
    let info = model.info();
    let kept = if info.memory_dtype == info.dtype { String::new() } else { format!(" kept in {}", info.memory_dtype) };
    let name = format!("{} {}{kept}", info.backend, info.dtype);
    let bytes_of_weight = bytes_per_weight(info.memory_dtype);
    let kv_bytes_per_token = info.kv_bytes_per_token as f64;
    let sequence = OfModel { session: new_session(&model)?, model };
    let runner = Runner::new(name, Box::new(sequence), &files.model_config()?, bytes_of_weight);
    Ok(Runner { kv_bytes_per_token, ..runner })
}

pub(crate) fn threads(n: usize) -> Result<NonZeroUsize> {
    NonZeroUsize::new(n).context("at least one thread")
}

/// The number of the greatest of `row`.
pub(crate) fn greatest(row: &[f32]) -> TokenId {
    (0..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best }) as TokenId
}

struct OfModel {
    model: Arc<dyn Model>,
    session: Box<dyn Session>,
}

impl Sequence for OfModel {
    fn append(&mut self, tokens: &[TokenId]) -> Result<TokenId> {
        let logits = self.session.append(tokens, LogitsRequest::Last(1))?;
        Ok(greatest(logits.last().context("a row of logits")?))
    }

    fn clear(&mut self) -> Result<()> {
        if self.model.info().capabilities.has(Capability::Rewind) {
            self.session.rewind(0)?;
        } else {
            self.session = new_session(&self.model)?;
        }
        Ok(())
    }
}

fn new_session(model: &Arc<dyn Model>) -> Result<Box<dyn Session>> {
    let options = SessionOptions::new().with_context_length(MOST_TOKENS);
    Ok(model.new_session(&options)?)
}
