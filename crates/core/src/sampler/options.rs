//! What a caller chooses of sampling, and what cannot be chosen.

use crate::error::{Error, Result};
use crate::primitives::TokenId;

/// How the next token is chosen from logits. The steps and their order stand with [`Sampler`](super::Sampler).
///
/// A value is taken as the decimal that it was written as: `0.7` means 0.7, not the nearest `f32` to it.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits. 0 is greedy: the highest score, ties to the lowest id, and no further option but the
    /// penalties and biases counts.
    pub temperature: f32,
    /// Keeps the `top_k` highest scores, ties to the lowest id; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most probable tokens whose probabilities reach `top_p`; 1 keeps all, 0 the best alone.
    pub top_p: f32,
    /// Keeps tokens that are at least `min_p` times as probable as the best; 0 keeps all.
    pub min_p: f32,
    /// Keeps the tokens nearest to the expected information content that together reach this mass; 1 keeps all.
    /// Meister and others, "Locally typical sampling", <https://arxiv.org/abs/2202.00666>.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the history; 1 changes nothing. Keskar and others,
    /// "CTRL", <https://arxiv.org/abs/1909.05858>, in the form of transformers.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token in the history; 0 changes nothing.
    pub presence_penalty: f32,
    /// Taken from the logit of each token in the history, once for every time it stands there; 0 changes nothing.
    pub frequency_penalty: f32,
    /// How many tokens at the end of the history the three penalties look at; `None` is all.
    pub penalty_window: Option<usize>,
    /// Added to the logits of these tokens; minus infinity bans one. Entries for the same token add up.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Which sequence of random numbers is drawn from.
    pub seed: u64,
    /// Whether [`Sampled::logprob`](super::Sampled::logprob) is wanted: it costs a pass over the vocabulary.
    pub logprobs: bool,
}

impl SamplingOptions {
    /// The highest logit, ties to the lowest id.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: None,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: false,
        }
    }

    /// Checks every value, whatever the others are.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for the first that cannot be.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            ("temperature", self.temperature, Range::FromZero, "0 takes the most probable token each time, 0.7 to 1 are usual"),
            ("top_p", self.top_p, Range::ZeroToOne, "1 switches it off, 0.9 to 0.95 are usual"),
            ("min_p", self.min_p, Range::ZeroToOne, "0 switches it off, 0.05 to 0.1 are usual"),
            ("typical_p", self.typical_p, Range::AboveZeroToOne, "1 switches it off, 0.9 to 0.95 are usual"),
            ("repetition_penalty", self.repetition_penalty, Range::AboveZero, "1 switches it off, 1.05 to 1.2 are usual"),
            ("presence_penalty", self.presence_penalty, Range::Finite, "0 switches it off, up to 2 is usual"),
            ("frequency_penalty", self.frequency_penalty, Range::Finite, "0 switches it off, up to 2 is usual"),
        ];
        for (option, value, range, usual) in checks {
            if let Some(problem) = range.problem(value) {
                return Err(Error::invalid_option(option, value, problem).with_hint(usual));
            }
        }
        for &(token, bias) in &self.logit_bias {
            if bias.is_nan() || bias == f32::INFINITY {
                let problem = format!("is not a bias for token {token}: give a number, or `-inf` to ban it");
                return Err(Error::invalid_option("logit_bias", bias, problem));
            }
        }
        Ok(())
    }

    /// [`validate`](Self::validate), and what depends on the model.
    pub(super) fn validate_for(&self, vocab_size: usize) -> Result<()> {
        self.validate()?;
        if vocab_size == 0 || u32::try_from(vocab_size).is_err() {
            return Err(Error::invalid_option("vocab_size", vocab_size, "is not a number of tokens from 1 to 2^32 - 1"));
        }
        let outside = |&&(token, _): &&(TokenId, f32)| token as usize >= vocab_size;
        if let Some((token, _)) = self.logit_bias.iter().find(outside) {
            let problem = format!("is outside the model's vocabulary of {vocab_size}");
            return Err(Error::invalid_option("logit_bias", token, problem));
        }
        let mut banned: Vec<TokenId> =
            self.logit_bias.iter().filter(|(_, bias)| *bias == f32::NEG_INFINITY).map(|&(token, _)| token).collect();
        banned.sort_unstable();
        banned.dedup();
        if banned.len() == vocab_size {
            return Err(Error::invalid_option("logit_bias", f32::NEG_INFINITY, "bans every token of the vocabulary"));
        }
        Ok(())
    }

    /// Whether a penalty is on.
    pub(super) fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Which numbers an option can be.
#[derive(Clone, Copy, PartialEq)]
enum Range {
    Finite,
    FromZero,
    AboveZero,
    ZeroToOne,
    AboveZeroToOne,
}

impl Range {
    /// Why `value` is outside, as a predicate.
    fn problem(self, value: f32) -> Option<&'static str> {
        match value {
            value if !value.is_finite() => Some("is not a finite number"),
            value if matches!(self, Self::FromZero | Self::ZeroToOne) && value < 0.0 => Some("is less than 0"),
            value if matches!(self, Self::AboveZero | Self::AboveZeroToOne) && value <= 0.0 => Some("is not above 0"),
            value if matches!(self, Self::ZeroToOne | Self::AboveZeroToOne) && value > 1.0 => Some("is more than 1"),
            _ => None,
        }
    }
}

/// The number that the shortest decimal of `value` stands for: 0.7, where `f64::from(0.7_f32)` is 0.699999988.
///
/// Hosts and configuration files write decimals, and the references that Tandem is held to read them as `f64`.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().expect("what a number prints as is a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut SamplingOptions), expected: &str) {
        let mut options = SamplingOptions::greedy();
        change(&mut options);
        let message = options.validate_for(8).err().map(|error| error.to_string());
        assert_eq!(message.as_deref().unwrap_or("fine"), expected);
    }

    #[test]
    fn names_option_and_value() {
        check(|o| o.temperature = -0.5, "option `temperature`: `-0.5` is less than 0");
        check(|o| o.temperature = f32::NAN, "option `temperature`: `NaN` is not a finite number");
        check(|o| o.temperature = f32::INFINITY, "option `temperature`: `inf` is not a finite number");
        check(|o| o.top_p = 1.01, "option `top_p`: `1.01` is more than 1");
        check(|o| o.top_p = -0.1, "option `top_p`: `-0.1` is less than 0");
        check(|o| o.min_p = 2.0, "option `min_p`: `2` is more than 1");
        check(|o| o.typical_p = 0.0, "option `typical_p`: `0` is not above 0");
        check(|o| o.repetition_penalty = 0.0, "option `repetition_penalty`: `0` is not above 0");
        check(|o| o.repetition_penalty = -1.0, "option `repetition_penalty`: `-1` is not above 0");
        check(|o| o.presence_penalty = f32::NAN, "option `presence_penalty`: `NaN` is not a finite number");
        check(|o| o.frequency_penalty = f32::INFINITY, "option `frequency_penalty`: `inf` is not a finite number");
        check(|o| o.logit_bias = vec![(8, 1.0)], "option `logit_bias`: `8` is outside the model's vocabulary of 8");
        check(
            |o| o.logit_bias = vec![(3, f32::INFINITY)],
            "option `logit_bias`: `inf` is not a bias for token 3: give a number, or `-inf` to ban it",
        );
        check(
            |o| o.logit_bias = (0..8).map(|token| (token, f32::NEG_INFINITY)).collect(),
            "option `logit_bias`: `-inf` bans every token of the vocabulary",
        );
    }

    #[test]
    fn takes_what_can_be() {
        check(|_| (), "fine");
        check(|o| o.logit_bias = vec![(7, f32::NEG_INFINITY); 8], "fine");
        check(|o| (o.temperature, o.top_p, o.min_p, o.typical_p, o.presence_penalty) = (1e30, 0.0, 1.0, 1e-9, -2.0), "fine");
    }

    #[test]
    fn decimals_are_what_was_written() {
        assert_eq!(decimal(0.7), 0.7);
        assert_eq!(decimal(1e-45_f32), 1e-45);
        assert_eq!(decimal(f32::MAX), 3.4028235e38);
        assert_eq!(decimal(f32::NEG_INFINITY), f64::NEG_INFINITY);
    }
}
