//! Speculation: the next tokens are guessed, computed in one run and kept as far as they are what is drawn.
//!
//! A run over a few tokens reads the weights once, so that it takes little longer than one over a single token. Each position is drawn from
//! its own logits by the sampler, whose random numbers depend on the position alone: the tokens are those of a generation without guesses. After Leviathan
//! et al., "Fast Inference from Transformers via Speculative Decoding" (2023), with the stricter rule that a guess must be the very token.

mod lookup;
mod model;
mod pace;

pub use self::lookup::PromptLookup;
pub use self::model::DraftModel;
pub(crate) use self::pace::Pace;
use crate::error::Result;
use crate::primitives::TokenId;

/// Guesses what follows.
pub trait Drafter: Send {
    /// Up to `n` tokens that may follow `history`, which has at least one; none where nothing suggests any.
    ///
    /// # Errors
    /// Those of the engine of a model that guesses.
    fn draft(&mut self, history: &[TokenId], n: usize) -> Result<Vec<TokenId>>;
}
