//! How an adapter is trained.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::TrainableModule;
use crate::error::{Error, Result};

/// The target that stands for every linear layer of the layers.
pub const ALL_LINEAR: &str = "all-linear";

/// How an adapter is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// The rank of the factors.
    pub rank: usize,
    /// What is added is `alpha / rank` times the product of the factors.
    pub alpha: f64,
    /// Which linear layers have factors: last parts of names such as `q_proj`, or [`ALL_LINEAR`].
    pub targets: Vec<String>,
    /// How many updates.
    pub steps: usize,
    /// Texts that are computed together.
    pub batch: usize,
    /// How many such batches make one update.
    pub accumulate: usize,
    /// The largest learning rate.
    pub learning_rate: f64,
    /// Updates in which the learning rate rises to that.
    pub warmup: usize,
    /// By how much factors shrink at each update, in learning rates.
    pub weight_decay: f64,
    /// The longest gradient: a longer one is shortened to it. 0 for any.
    pub clip: f64,
    /// Decides the first factors and the order of the texts.
    pub seed: u64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            targets: vec![ALL_LINEAR.into()],
            steps: 200,
            batch: 4,
            accumulate: 1,
            learning_rate: 2e-4,
            warmup: 10,
            weight_decay: 0.0,
            clip: 1.0,
            seed: 0,
        }
    }
}

impl TrainOptions {
    /// What the product of the factors is multiplied by.
    pub(super) fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// The learning rate of the update after `step` others: it rises evenly and falls by half a cosine.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let share = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.learning_rate * 0.5 * (1.0 + (PI * share.min(1.0)).cos())
    }

    /// # Errors
    /// [`Error::InvalidOption`] for a value that cannot be.
    pub(super) fn validate(&self) -> Result<()> {
        for (name, value) in [("rank", self.rank), ("steps", self.steps), ("batch", self.batch), ("accumulate", self.accumulate)]
        {
            if value == 0 {
                return Err(Error::invalid_option(name, value, "must be at least 1"));
            }
        }
        for (name, value) in [("alpha", self.alpha), ("learning rate", self.learning_rate)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::invalid_option(name, value, "must be more than 0"));
            }
        }
        for (name, value) in [("weight decay", self.weight_decay), ("clip", self.clip)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid_option(name, value, "must be 0 or more"));
            }
        }
        if self.warmup > self.steps {
            return Err(Error::invalid_option("warmup", self.warmup, format!("is more than the {} steps", self.steps)));
        }
        Ok(())
    }

    /// Those of `modules` that are targets.
    pub(super) fn chosen<'m>(&self, modules: &'m [TrainableModule]) -> Result<Vec<&'m TrainableModule>> {
        let last = |module: &TrainableModule| module.name.rsplit('.').next().unwrap_or_default().to_owned();
        let is = |module: &TrainableModule, target: &str| target == ALL_LINEAR || last(module) == target;
        if let Some(unknown) = self.targets.iter().find(|target| !modules.iter().any(|module| is(module, target))) {
            let mut known: Vec<String> = Vec::new();
            modules.iter().map(last).for_each(|name| {
                if !known.contains(&name) {
                    known.push(name)
                }
            });
            let problem =
                format!("names none of the model's linear layers, which are `{}`, or `{ALL_LINEAR}` for all", known.join("`, `"));
            return Err(Error::invalid_option("targets", unknown, problem));
        }
        let chosen: Vec<_> = modules.iter().filter(|module| self.targets.iter().any(|target| is(module, target))).collect();
        if chosen.is_empty() {
            return Err(Error::invalid_option("targets", "", "names nothing to train"));
        }
        Ok(chosen)
    }
}
