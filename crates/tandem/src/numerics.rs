//! What fast numerics cost: how far the model is from itself with exact ones.

use tandem_core::backend::Numerics;
use tandem_core::divergence::kl_divergence;
use tandem_core::tokenizer::SpecialTokens;
use tandem_core::{Capability, DType, LogitsRequest, Result, SessionOptions, TokenId};

use crate::model::TextModel;
use crate::settings::Settings;

/// The text that it is measured on, up to [`MOST_TOKENS`] of it.
const TEXT: &str = "The old bridge had stood for two hundred years, and in all that time nobody had asked who built it. One spring, when the \
    river rose higher than the oldest people could remember, a girl called Ada noticed that the middle stone was carved on its lower \
    side. \"Seven steps north, then look up,\" she read aloud. Her brother laughed at first; still, he fetched a rope and a lamp. They \
    counted carefully: one, two, three, four, five, six, seven. Above them, under the roof of the mill, hung a small bronze bell that \
    did not ring. What would you have done?";
const MOST_TOKENS: usize = 128;

/// What [`numerics_cost`] measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NumericsCost {
    /// The mean Kullback-Leibler divergence of the distributions of next tokens from those with exact numerics, in nats.
    pub mean_kl: f64,
    /// How many distributions that is.
    pub n_positions: usize,
}

/// Measures what the fast numerics of `model`, loaded with `settings`, cost; the model is loaded once more, with exact ones.
///
/// `None` when there is nothing to measure: the weights are not quantised, or exact numerics are what was asked for.
///
/// # Errors
/// As [`TextModel::load`], and as a session's.
pub fn numerics_cost(model: &TextModel, settings: &Settings) -> Result<Option<NumericsCost>> {
    let quantised = matches!(model.info().dtype, DType::Int8 | DType::Int4);
    if !quantised || settings.load.numerics == Numerics::Exact || !model.info().capabilities.has(Capability::AllLogits) {
        return Ok(None);
    }
    let mut exact = settings.clone();
    exact.load.numerics = Numerics::Exact;
    let exact = TextModel::load(model.files().clone(), &exact)?;
    let mut tokens = model.tokenizer().encode(TEXT, SpecialTokens::AsText)?;
    tokens.truncate(MOST_TOKENS.min(model.info().max_context));
    let (fast, exact) = (logits(model, &tokens)?, logits(&exact, &tokens)?);
    let n_positions = fast.n_rows();
    let sum: f64 = (0..n_positions).map(|i| kl_divergence(exact.row(i), fast.row(i))).sum();
    Ok(Some(NumericsCost { mean_kl: sum / n_positions as f64, n_positions }))
}

fn logits(model: &TextModel, tokens: &[TokenId]) -> Result<tandem_core::Logits> {
    model.model().new_session(&SessionOptions::default())?.append(tokens, LogitsRequest::All)
}
