//! Training of low-rank adapters: what is trained, in which order, by how much. An engine gives losses and gradients ([`TrainableModel`]);
//! everything else needs none, and is a function of the options, the texts and the number of updates, so that a run that was interrupted
//! goes on as if it had not been, and the same seed makes the same adapter.

mod adam;
mod options;
mod order;
mod state;
mod text;

use crate::adapter::{Adapter, LowRankFactors};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::sampler::uniform;

use self::adam::Adam;
pub use self::options::{ALL_LINEAR, TrainOptions};
use self::order::Order;
pub use self::text::{Conversation, Encoder, TrainingText, hash_of, read_conversations};

/// A model with weights that stay as they are, whose loss can be differentiated by the factors beside them.
pub trait TrainableModel: Send {
    /// The linear layers that can have factors, in the order of the model.
    fn modules(&self) -> &[TrainableModule];

    /// The sum of the negative logarithms of the probabilities of all targets of `texts`, in nats.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when `cancel` was set.
    fn loss(&self, factors: &[LowRankFactors], texts: &[&TrainingText], cancel: &CancelToken) -> Result<f64>;

    /// As [`loss`](Self::loss), and its gradients by each of the factors, added to `gradients`.
    ///
    /// # Errors
    /// As [`loss`](Self::loss); `gradients` are unchanged then.
    fn add_gradients(
        &self,
        factors: &[LowRankFactors],
        texts: &[&TrainingText],
        cancel: &CancelToken,
        gradients: &mut [FactorGradients],
    ) -> Result<f64>;
}

/// A linear layer, `[outputs, inputs]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainableModule {
    /// Its name in the checkpoint: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// The width of what it gives.
    pub outputs: usize,
    /// The width of what it reads.
    pub inputs: usize,
}

/// Gradients of the factors of one module, in their shapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FactorGradients {
    /// `[rank, inputs]`
    pub a: Vec<f32>,
    /// `[outputs, rank]`
    pub b: Vec<f32>,
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateReport {
    /// Updates so far.
    pub step: usize,
    /// The mean loss of a target before the update, in nats.
    pub loss: f64,
    /// The length of the gradient before it was clipped.
    pub gradient_norm: f64,
    /// By how much a step moved.
    pub learning_rate: f64,
    /// Tokens of the texts that were used.
    pub n_tokens: usize,
    /// Those that were targets.
    pub n_targets: usize,
}

/// A run of training.
pub struct Training<'m> {
    model: &'m dyn TrainableModel,
    options: TrainOptions,
    factors: Vec<LowRankFactors>,
    adam: Adam,
    step: usize,
    first_loss: Option<f64>,
}

impl<'m> Training<'m> {
    /// A new run on `model`. `A` is uniform within `1 / sqrt(inputs)` of 0 and `B` is 0, as PEFT begins.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for options that cannot be, and for targets that the model lacks.
    pub fn new(model: &'m dyn TrainableModel, options: TrainOptions) -> Result<Self> {
        options.validate()?;
        let modules = options.chosen(model.modules())?;
        let mut n_drawn = 0;
        let factors: Vec<LowRankFactors> = modules
            .into_iter()
            .map(|TrainableModule { name, outputs, inputs }| {
                let bound = 1.0 / (*inputs as f64).sqrt();
                let mut draw = || {
                    n_drawn += 1;
                    ((2.0 * uniform(options.seed, n_drawn) - 1.0) * bound) as f32
                };
                LowRankFactors {
                    module: name.clone(),
                    a: (0..options.rank * inputs).map(|_| draw()).collect(),
                    b: vec![0.0; outputs * options.rank],
                    rank: options.rank,
                    scale: options.scale(),
                    magnitude: None,
                }
            })
            .collect();
        let adam = Adam::new(&factors);
        Ok(Self { model, options, factors, adam, step: 0, first_loss: None })
    }

    /// Updates so far.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Values that are trained.
    pub fn n_parameters(&self) -> usize {
        self.factors.iter().map(|factor| factor.a.len() + factor.b.len()).sum()
    }

    /// The loss of what is held out before the first update, in nats, once it was [noted](Self::note_first_loss).
    pub fn first_loss(&self) -> Option<f64> {
        self.first_loss
    }

    /// Keeps the loss before the first update with the run.
    pub fn note_first_loss(&mut self, loss: f64) {
        self.first_loss = Some(loss);
    }

    /// Whether all updates were made.
    pub fn is_complete(&self) -> bool {
        self.step >= self.options.steps
    }

    /// What it was made with.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Makes one update by the next of `texts`, in an order that the seed decides; each is used once before any is used again.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and those of the engine: the run is what it was before. [`Error::BadTraining`] when the loss is not finite.
    pub fn update(&mut self, texts: &[TrainingText], cancel: &CancelToken) -> Result<UpdateReport> {
        let per_update = self.options.batch * self.options.accumulate;
        let chosen: Vec<&TrainingText> =
            Order::new(texts.len(), self.options.seed).range(self.step * per_update, per_update).map(|i| &texts[i]).collect();
        let mut gradients: Vec<FactorGradients> = self
            .factors
            .iter()
            .map(|factor| FactorGradients { a: vec![0.0; factor.a.len()], b: vec![0.0; factor.b.len()] })
            .collect();
        let mut loss = 0.0;
        for texts in chosen.chunks(self.options.batch) {
            loss += self.model.add_gradients(&self.factors, texts, cancel, &mut gradients)?;
        }
        let n_targets: usize = chosen.iter().map(|text| text.n_targets()).sum();
        let gradient_norm = self.adam.scale_and_clip(&mut gradients, 1.0 / n_targets.max(1) as f64, self.options.clip);
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Err(Error::BadTraining { step: self.step + 1, what: if loss.is_finite() { "gradient" } else { "loss" } });
        }
        let learning_rate = self.options.learning_rate_at(self.step);
        self.step += 1;
        self.adam.update(&mut self.factors, &gradients, self.step, learning_rate, self.options.weight_decay);
        Ok(UpdateReport {
            step: self.step,
            loss: loss / n_targets.max(1) as f64,
            gradient_norm,
            learning_rate,
            n_tokens: chosen.iter().map(|text| text.ids.len()).sum(),
            n_targets,
        })
    }

    /// The mean loss of a target of `texts`, in nats, with the factors as they are.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and those of the engine.
    pub fn loss(&self, texts: &[TrainingText], cancel: &CancelToken) -> Result<f64> {
        let mut loss = 0.0;
        let all: Vec<&TrainingText> = texts.iter().collect();
        for texts in all.chunks(self.options.batch) {
            loss += self.model.loss(&self.factors, texts, cancel)?;
        }
        let n_targets: usize = texts.iter().map(TrainingText::n_targets).sum();
        Ok(loss / n_targets.max(1) as f64)
    }

    /// The adapter as it is now.
    ///
    /// # Errors
    /// As [`Adapter::new`].
    pub fn adapter(&self, name: &str) -> Result<Adapter> {
        Adapter::new(name, self.factors.clone())
    }
}

#[cfg(test)]
mod tests;
