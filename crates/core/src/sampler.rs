//! From logits to the next token: one sampler for every backend, so that engines differ in arithmetic only.
//!
//! Nothing here depends on the platform: the random numbers are a function of seed and index, exponentials and sums
//! are made of operations whose results IEEE 754 fixes, and every tie is decided. So the same logits, options, history
//! and index give the same token on every machine.

mod candidates;
mod exponential;
mod options;
mod random;
mod scores;
mod weights;

pub(crate) use self::random::uniform;
pub use options::SamplingOptions;

use self::candidates::{Candidates, Filters};
use self::options::decimal;
use self::scores::Scorer;
use self::weights::Weights;
use crate::error::Result;
use crate::primitives::TokenId;

/// A token and how likely the model held it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: TokenId,
    /// The natural logarithm of its probability under the model: softmax of the logits as they came, before biases,
    /// penalties, temperature and filters. `None` unless [`SamplingOptions::logprobs`] asks for it.
    pub logprob: Option<f64>,
}

/// Chooses tokens from logits.
///
/// The steps, in the order of `_get_logits_processor` in `generation/utils.py` of transformers 5.23, whose names the
/// options have:
/// 1. `logit_bias` (transformers: `sequence_bias`; vLLM too adds biases before penalties);
/// 2. `repetition_penalty`, then `frequency_penalty` and `presence_penalty`, which transformers does not have: the
///    order of vLLM;
/// 3. `temperature`; at 0 the best token is taken here;
/// 4. `top_k`, `top_p`, `min_p`, `typical_p`, each on what the one before it left, renormalised;
/// 5. a draw from what is left, by inversion over tokens in the order of their ids.
///
/// Arithmetic from the logits on is `f64`. Two results differ from transformers: `top_k` leaves exactly `k` tokens where
/// transformers keeps all that tie with the `k`th, and `top_p` breaks ties by the lowest id where transformers leaves
/// them to its sort.
///
/// # Examples
/// ```
/// use tandem_core::sampler::{Sampler, SamplingOptions};
///
/// let mut sampler = Sampler::new(SamplingOptions { top_k: 2, temperature: 0.7, ..SamplingOptions::greedy() }, 4)?;
/// let token = sampler.sample(&[0.1, 2.5, -1.0, 2.4], &[], 0)?;
/// assert!([1, 3].contains(&token.id));
/// # Ok::<(), tandem_core::Error>(())
/// ```
pub struct Sampler {
    options: SamplingOptions,
    /// `None` is greedy.
    inverse_temperature: Option<f64>,
    filters: Filters,
    scorer: Scorer,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for a model with `vocab_size` logits.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for a value that cannot be: see
    /// [`SamplingOptions::validate`]; also for a bias whose token is outside the vocabulary, and when every token is banned.
    pub fn new(options: SamplingOptions, vocab_size: usize) -> Result<Self> {
        options.validate_for(vocab_size)?;
        Ok(Self {
            inverse_temperature: (options.temperature > 0.0).then(|| 1.0 / decimal(options.temperature)),
            filters: Filters::new(&options, vocab_size),
            scorer: Scorer::new(&options, vocab_size),
            candidates: Candidates::default(),
            options,
        })
    }

    /// The options that it was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Chooses token `n` of a generation from `logits`, `[vocab_size]`; `history` is the tokens so far, prompt included.
    ///
    /// The result is a function of the arguments and the options: calls may come in any order. All three penalties count
    /// every token of `history` within `penalty_window`; a caller that wants to spare the prompt leaves it out.
    ///
    /// # Errors
    /// [`Error::BadLogits`](crate::Error::BadLogits) when a logit is NaN or infinite;
    /// [`Error::InvalidToken`](crate::Error::InvalidToken) when a penalty meets a token outside the vocabulary;
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) when there are not `vocab_size` logits.
    pub fn sample(&mut self, logits: &[f32], history: &[TokenId], n: u64) -> Result<Sampled> {
        let scores = self.scorer.score(logits, history)?;
        let id = match self.inverse_temperature {
            None => scores.argmax(),
            Some(inverse_temperature) => {
                let uniform = uniform(self.options.seed, n);
                self.candidates.draw(&Weights { scores, inverse_temperature }, &self.filters, uniform)
            }
        };
        let logprob = self.options.logprobs.then(|| self.logprob(logits, id));
        Ok(Sampled { id, logprob })
    }

    /// What [`sample`](Self::sample) draws from: every token that can be drawn with its probability, the most probable
    /// first, ties by id. The probabilities add up to 1; greedy leaves one token.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn distribution(&mut self, logits: &[f32], history: &[TokenId]) -> Result<Vec<(TokenId, f64)>> {
        let scores = self.scorer.score(logits, history)?;
        Ok(match self.inverse_temperature {
            None => vec![(scores.argmax(), 1.0)],
            Some(inverse_temperature) => self.candidates.distribution(&Weights { scores, inverse_temperature }, &self.filters),
        })
    }

    fn logprob(&mut self, logits: &[f32], id: TokenId) -> f64 {
        let weights = Weights { scores: self.scorer.unmodified(logits), inverse_temperature: 1.0 };
        weights.exponent(f64::from(logits[id as usize])) - libm::log(self.candidates.total(&weights))
    }
}
