//! Training an adapter, from a file of conversations to a directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tandem_core::adapter::write_peft;
use tandem_core::files::ModelFiles;
use tandem_core::size::Size;
use tandem_core::training::{Conversation, Encoder, TrainOptions, Training, TrainingText, UpdateReport, hash_of};
use tandem_core::{CancelToken, Error, LoadOptions, Remedy, Result};

use super::{Adapter, AdapterOrigin, backends};
use crate::machine::Memory;
use crate::model::Text;
use tandem_core::template::ChatTemplate;

/// The share of the conversations that is held out where none are given for that: one in so many.
pub const HELD_OUT_SHARE: usize = 10;

/// What an adapter is trained on.
#[derive(Clone, Debug)]
pub struct TrainData {
    /// What is learned.
    pub conversations: Vec<Conversation>,
    /// What is only measured; `None` takes every tenth of the others for it.
    pub held_out: Option<Vec<Conversation>>,
    /// The most tokens of a text; what exceeds them is cut from its end.
    pub max_tokens: usize,
}

/// How an adapter is trained, and where it goes.
#[derive(Clone, Debug)]
pub struct TrainPlan {
    /// What and how much.
    pub options: TrainOptions,
    /// The directory of the adapter, which must not exist.
    pub directory: PathBuf,
    /// Updates between two measurements of the loss of what is held out; 0 for the first and the last alone.
    pub evaluate_every: usize,
    /// Updates between two states that a run can go on from.
    pub save_every: usize,
    /// Goes on from the last state of an earlier run.
    pub resume: bool,
    /// Trains whatever the plan of the memory says.
    pub no_memory_check: bool,
    /// Stops it after an update; its state is kept.
    pub cancel: CancelToken,
}

/// What is told while it trains.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TrainEvent {
    /// The texts are read.
    Ready {
        /// Texts to learn, their tokens and those that are targets.
        texts: (usize, usize, usize),
        /// Texts that are held out.
        n_held_out: usize,
        /// Texts that were cut.
        n_cut: usize,
        /// Factors that are trained.
        n_parameters: usize,
        /// Updates that were made before.
        step: usize,
        /// Bytes of memory that it is expected to take.
        planned_bytes: u64,
    },
    /// An update was made.
    Updated(UpdateReport, Duration),
    /// The loss of what is held out was measured after so many updates.
    Evaluated {
        /// Updates so far.
        step: usize,
        /// The mean loss of a target, in nats.
        loss: f64,
    },
}

/// What training made.
#[derive(Clone, Debug)]
pub struct TrainedAdapter {
    /// Its directory.
    pub directory: PathBuf,
    /// Updates that were made.
    pub steps: usize,
    /// The loss of what is held out before and after, in nats; `None` without texts that are held out.
    pub held_out: Option<(f64, f64)>,
    /// The adapter.
    pub adapter: Adapter,
}

/// Trains an adapter beside the model of `files`, and tells `observe` how it goes.
///
/// # Errors
/// [`Error::Cancelled`] with the state kept for [`TrainPlan::resume`]; [`Error::Unsupported`] for a model that cannot be trained,
/// [`Error::OutOfMemory`] where it does not fit, and those of [`Training`].
pub fn train(
    files: &ModelFiles,
    load: &LoadOptions,
    data: &TrainData,
    plan: &TrainPlan,
    observe: &mut dyn FnMut(TrainEvent),
) -> Result<TrainedAdapter> {
    if plan.directory.exists() {
        let problem = "there is something at this path".into();
        let hint = Some("name another directory, or remove it".into());
        return Err(Error::BadFile { file: plan.directory.display().to_string(), problem, hint, source: None });
    }
    let texts = Texts::of(files, data)?;
    let planned_bytes = planned_bytes(files, &texts, &plan.options)?;
    if !plan.no_memory_check {
        check_memory(&files.name, planned_bytes)?;
    }
    let model = backends::trainable(files, load)?;
    let state = State::beside(&plan.directory, hash_of(&texts.learned));
    let training = match plan.resume {
        true => Training::resume(&*model, plan.options.clone(), &state.path, &state.data)?,
        false => Training::new(&*model, plan.options.clone())?,
    };
    let n_tokens = texts.learned.iter().map(|text| text.ids.len()).sum();
    let n_targets = texts.learned.iter().map(TrainingText::n_targets).sum();
    observe(TrainEvent::Ready {
        texts: (texts.learned.len(), n_tokens, n_targets),
        n_held_out: texts.held_out.len(),
        n_cut: texts.n_cut,
        n_parameters: training.n_parameters(),
        step: training.step(),
        planned_bytes,
    });
    Run { texts: &texts, plan, state: &state, last_loss: None }.finish(training, files, observe)
}

/// A run of updates.
struct Run<'r> {
    texts: &'r Texts,
    plan: &'r TrainPlan,
    state: &'r State,
    last_loss: Option<f64>,
}

impl Run<'_> {
    fn finish(
        mut self,
        mut training: Training<'_>,
        files: &ModelFiles,
        observe: &mut dyn FnMut(TrainEvent),
    ) -> Result<TrainedAdapter> {
        if training.first_loss().is_none()
            && let Some(loss) = self.evaluate(&training, observe)?
        {
            training.note_first_loss(loss);
        }
        let done = self.updates(&mut training, observe);
        // What was done is kept, whatever ended it.
        if !matches!(done, Err(Error::BadTraining { .. })) {
            self.state.save(&training)?;
        }
        done?;
        let origin = AdapterOrigin::trained_on(&files.name);
        let adapter = training.adapter(&self.plan.directory.display().to_string())?.with_origin(origin);
        write_peft(&adapter, &self.plan.directory)?;
        self.state.remove();
        Ok(TrainedAdapter {
            directory: self.plan.directory.clone(),
            steps: training.step(),
            held_out: training.first_loss().zip(self.last_loss),
            adapter,
        })
    }

    fn updates(&mut self, training: &mut Training<'_>, observe: &mut dyn FnMut(TrainEvent)) -> Result<()> {
        let every = |n: usize, step: usize| n > 0 && step.is_multiple_of(n);
        while !training.is_complete() {
            let started = Instant::now();
            let report = training.update(&self.texts.learned, &self.plan.cancel)?;
            observe(TrainEvent::Updated(report, started.elapsed()));
            if every(self.plan.save_every, report.step) && !training.is_complete() {
                self.state.save(training)?;
            }
            if every(self.plan.evaluate_every, report.step) && !training.is_complete() {
                self.evaluate(training, observe)?;
            }
        }
        self.last_loss = self.evaluate(training, observe)?;
        Ok(())
    }

    fn evaluate(&self, training: &Training<'_>, observe: &mut dyn FnMut(TrainEvent)) -> Result<Option<f64>> {
        if self.texts.held_out.is_empty() {
            return Ok(None);
        }
        let loss = training.loss(&self.texts.held_out, &self.plan.cancel)?;
        observe(TrainEvent::Evaluated { step: training.step(), loss });
        Ok(Some(loss))
    }
}

/// What a run goes on from, beside the directory that it is to make.
struct State {
    directory: PathBuf,
    path: PathBuf,
    data: String,
}

impl State {
    fn beside(target: &Path, data: String) -> Self {
        let mut directory = target.as_os_str().to_owned();
        directory.push(".training");
        let directory = PathBuf::from(directory);
        Self { path: directory.join("state.safetensors"), directory, data }
    }

    fn save(&self, training: &Training<'_>) -> Result<()> {
        let failed = |error| Error::bad_file(self.directory.display().to_string(), "cannot be written", error);
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        training.save(&self.path, &self.data)
    }

    /// The adapter is there: what is left behind only takes room.
    fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What is learned and what is measured, as tokens.
struct Texts {
    learned: Vec<TrainingText>,
    held_out: Vec<TrainingText>,
    n_cut: usize,
}

impl Texts {
    fn of(files: &ModelFiles, data: &TrainData) -> Result<Self> {
        let config = files.model_config()?;
        let text = Text::read(files, &config)?;
        let template = text.template.as_ref().ok_or_else(|| ChatTemplate::missing(&files.name))?;
        let max_tokens = data.max_tokens.min(config.max_context);
        let encoder = Encoder { tokenizer: &text.tokenizer, template, end_tokens: &text.end_tokens, max_tokens };
        let mut n_cut = 0;
        let mut encode = |conversations: &mut dyn Iterator<Item = &Conversation>| -> Result<Vec<TrainingText>> {
            let mut texts = Vec::new();
            for conversation in conversations {
                let (own, cut) = encoder.texts(conversation)?;
                texts.extend(own);
                n_cut += cut;
            }
            Ok(texts)
        };
        let is_held_out = |i: usize| data.held_out.is_none() && i % HELD_OUT_SHARE == HELD_OUT_SHARE - 1;
        let numbered = || data.conversations.iter().enumerate();
        let learned = encode(&mut numbered().filter(|(i, _)| !is_held_out(*i)).map(|(_, one)| one))?;
        let held_out = match &data.held_out {
            Some(conversations) => encode(&mut conversations.iter())?,
            None => encode(&mut numbered().filter(|(i, _)| is_held_out(*i)).map(|(_, one)| one))?,
        };
        match learned.is_empty() {
            true => Err(Error::invalid_option("max tokens", max_tokens, "leaves no answer to learn")),
            false => Ok(Self { learned, held_out, n_cut }),
        }
    }
}

/// Bytes of the weights, of what lies between the layers for the longest batch, and of the factors with their moments.
fn planned_bytes(files: &ModelFiles, texts: &Texts, options: &TrainOptions) -> Result<u64> {
    let config = files.model_config()?;
    let stored = files.weights.iter().map(|file| file.len()).sum::<Result<u64>>()?;
    let mut lengths: Vec<usize> = texts.learned.iter().chain(&texts.held_out).map(|text| text.ids.len()).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let n_tokens: usize = lengths.iter().take(options.batch).sum();
    let heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim();
    // What candle keeps of a layer for its gradients: the state and its norms, queries, keys and values in two layouts and their sums
    // with the factors, the context, and gate and up with and without.
    let per_token = 6 * config.hidden_size + 6 * heads + 6 * config.intermediate_size;
    let activations = 4 * n_tokens * per_token * config.n_layers;
    let longest = lengths.first().copied().unwrap_or(0);
    let scores = 4 * 4 * config.n_heads * longest * longest;
    let per_layer = config.hidden_size * 6 + heads * 2 + config.intermediate_size * 3;
    let factors = 6 * 4 * options.rank * per_layer * config.n_layers;
    let logits = 4 * 64 * config.vocab_size;
    Ok(stored + (activations + scores + factors + logits) as u64 + (64 << 20))
}

fn check_memory(model: &str, needed: u64) -> Result<()> {
    let usable = Memory::read().usable();
    if needed <= usable {
        return Ok(());
    }
    Err(Error::OutOfMemory {
        model: model.into(),
        needed: Size(needed).to_string(),
        limit: "the free memory".into(),
        left: Size(usable).to_string(),
        hint: ["lower the batch or the most tokens of a text".into(), Remedy::SkipMemoryCheck].into(),
    })
}
