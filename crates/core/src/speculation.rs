//! Speculative decoding: tokens are drafted, computed in one run, and accepted as far as they are what is sampled.
//!
//! A run over a few tokens reads the weights once and takes less time than one run for each. Each position is sampled from its own logits, with
//! random numbers that depend on the position alone: the output is that of a generation without drafts. After Leviathan et al., "Fast Inference
//! from Transformers via Speculative Decoding" (2023), with the stricter rule that a draft token must be the very token that is sampled.

mod lookup;
mod model;
mod pace;

pub use self::lookup::PromptLookup;
pub use self::model::DraftModel;
pub(crate) use self::pace::Pace;
use crate::error::Result;
use crate::primitives::TokenId;

/// Drafts what may follow.
pub trait Drafter: Send {
    /// Up to `n` tokens that may follow `history`, which has at least one; none where nothing suggests any.
    ///
    /// # Errors
    /// Those of the engine of a draft model.
    fn draft(&mut self, history: &[TokenId], n: usize) -> Result<Vec<TokenId>>;
}
