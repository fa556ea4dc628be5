//! From options to how text is generated: what is given, over what the model's publisher says.

use std::hash::{BuildHasher, Hasher, RandomState};

use tandem::{GenerateOptions, SamplingOptions, StopOptions, TextModel};

use crate::args::GenerationOptions;
use crate::output::Output;

/// The most tokens to generate unless something else is asked for.
const MAX_TOKENS: usize = 512;

impl GenerationOptions {
    /// How `model` is to generate. Without a seed one is drawn when chance plays a part: see [`reported_seed`].
    ///
    /// # Errors
    /// [`tandem::Error::InvalidOption`] for a value that cannot be.
    pub(crate) fn resolve(&self, model: &TextModel) -> tandem::Result<GenerateOptions> {
        let mut options = model.default_options();
        options.max_new_tokens = Some(self.max_tokens.unwrap_or(MAX_TOKENS));
        options.sampling = self.sampling(&model.default_sampling());
        options.stop.stop_strings.clone_from(&self.stop);
        options.sampling.validate()?;
        options.stop.validate()?;
        Ok(options)
    }

    /// Checks what needs no model, so that nobody waits for one in vain.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub(crate) fn validate(&self) -> tandem::Result<()> {
        self.sampling(&SamplingOptions::greedy()).validate()?;
        StopOptions { end_tokens: Vec::new(), stop_strings: self.stop.clone() }.validate()
    }

    /// `defaults` with what is given in their place.
    fn sampling(&self, defaults: &SamplingOptions) -> SamplingOptions {
        SamplingOptions {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            typical_p: self.typical_p.unwrap_or(defaults.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: self.logit_bias.iter().map(|bias| (bias.0, bias.1)).collect(),
            seed: self.seed.unwrap_or_else(random_seed),
            ..defaults.clone()
        }
    }

    /// Remarks on options that do nothing, which is seldom what was meant.
    pub(crate) fn remark_on(&self, options: &GenerateOptions, output: &Output) {
        if options.sampling.temperature > 0.0 {
            return;
        }
        let idle = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--typical-p", self.typical_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        let idle: Vec<&str> = idle.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if !idle.is_empty() && self.temperature.is_none() {
            let plural = if idle.len() == 1 { "has" } else { "have" };
            output.note(&format!(
                "note: {} {plural} no effect: this model is greedy unless `--temperature` is above 0",
                idle.join(", ")
            ));
        }
    }
}

/// The seed, when chance plays a part: with it the run can be repeated.
pub(crate) fn reported_seed(options: &GenerateOptions) -> Option<u64> {
    (options.sampling.temperature > 0.0).then_some(options.sampling.seed)
}

/// A seed that nobody chose; 32 bits, so that it is short to write and exact in every JSON reader.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}
