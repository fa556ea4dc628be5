//! One side against itself: the same tokens in several ways, whose results would be equal if arithmetic were exact. What they differ by is
//! the noise of this machine, and a way that differs by more is broken.

use serde::Serialize;
use tandem_core::{CancelToken, Capability, Error, Logits, LogitsRequest, Model, Result, SessionOptions, TokenId};

use super::Side;
use super::row::Row;
use super::text::Prompt;

/// Prompts that are tried.
const N_PROMPTS: usize = 4;
/// Tokens of each.
const N_TOKENS: usize = 48;
/// Tokens given at once in the way that is called chunked: no divisor of anything.
const CHUNK: usize = 7;

/// One side against itself.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConsistencyMeasures {
    /// Every way, against the whole prompt at once.
    pub ways: Vec<WayMeasures>,
    /// The largest difference of a logit in any way.
    pub noise: f64,
    /// The largest relative difference in any way.
    pub relative_l2: f64,
}

/// A way to compute the same logits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WayMeasures {
    /// Which.
    pub way: Way,
    /// The largest difference of a logit from those of the whole prompt at once.
    pub max_abs: f64,
    /// The Euclidean norm of all differences over that of the logits.
    pub relative_l2: f64,
}

/// Ways to compute the same logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The whole prompt once more.
    Again,
    /// One token at a time.
    Stepwise,
    /// A few tokens at a time.
    Chunked,
    /// After other tokens, which are forgotten.
    Rewound,
    /// With another number of threads.
    OtherThreads,
    /// Each text alone, and not all of them at once.
    Alone,
    /// Texts in the opposite order.
    Reversed,
    /// By a model that was loaded anew.
    Anew,
}

/// Measures how far `side` is from itself.
///
/// # Errors
/// As the session's.
pub(super) fn measure(side: &Side<'_>, prompts: &[Prompt], cancel: &CancelToken) -> Result<ConsistencyMeasures> {
    let mut measures = ConsistencyMeasures::default();
    let step = prompts.len().div_ceil(N_PROMPTS).max(1);
    let tried: Vec<&[TokenId]> =
        prompts.iter().step_by(step).map(|prompt| &prompt.tokens[..prompt.tokens.len().min(N_TOKENS)]).collect();
    let mut ways = vec![Way::Again, Way::Stepwise, Way::Chunked, Way::Rewound];
    ways.extend(side.other_threads.map(|_| Way::OtherThreads));
    for way in ways {
        let other = match (way, side.other_threads) {
            (Way::OtherThreads, Some(load)) => Some(load()?),
            _ => None,
        };
        let model = other.as_deref().unwrap_or(side.model);
        let mut measured = WayMeasures::new(way);
        for tokens in &tried {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            measured.add(&whole(side.model, tokens, cancel)?, &computed(model, way, tokens, cancel)?);
        }
        measures.add(measured);
    }
    Ok(measures)
}

impl ConsistencyMeasures {
    /// Adds a way.
    pub(super) fn add(&mut self, measured: WayMeasures) {
        self.noise = self.noise.max(measured.max_abs);
        self.relative_l2 = self.relative_l2.max(measured.relative_l2);
        self.ways.push(measured);
    }
}

impl WayMeasures {
    /// Nothing was measured yet.
    pub(super) fn new(way: Way) -> Self {
        Self { way, max_abs: 0.0, relative_l2: 0.0 }
    }

    pub(super) fn add(&mut self, expected: &Logits, computed: &Logits) {
        let (mut square, mut total) = (0.0, 0.0);
        let mut is_finite = true;
        // Where one of them has the last row only, that is compared.
        let n = expected.n_rows().min(computed.n_rows());
        for i in 1..=n {
            let row = Row::new(expected.row(expected.n_rows() - i), computed.row(computed.n_rows() - i));
            self.max_abs = self.max_abs.max(if row.finite { row.max_abs } else { f64::INFINITY });
            is_finite &= row.finite;
            square += row.squares.0;
            total += row.squares.1;
        }
        // `max` passes over NaN.
        let relative_l2 = if is_finite { (square / total.max(f64::MIN_POSITIVE)).sqrt() } else { f64::INFINITY };
        self.relative_l2 = self.relative_l2.max(relative_l2);
    }
}

/// The logits of `tokens` at once: of every position where the model can, otherwise of the last.
fn whole(model: &dyn Model, tokens: &[TokenId], cancel: &CancelToken) -> Result<Logits> {
    let mut session = model.new_session(&SessionOptions::new().with_cancel(cancel.clone()))?;
    session.append(tokens, wanted(model))
}

fn wanted(model: &dyn Model) -> LogitsRequest {
    if model.info().capabilities.has(Capability::AllLogits) { LogitsRequest::All } else { LogitsRequest::Last(1) }
}

fn computed(model: &dyn Model, way: Way, tokens: &[TokenId], cancel: &CancelToken) -> Result<Logits> {
    let chunk = match way {
        // The last three are ways of embedding.
        Way::Again | Way::OtherThreads | Way::Alone | Way::Reversed | Way::Anew => return whole(model, tokens, cancel),
        Way::Rewound => return rewound(model, tokens, cancel),
        Way::Stepwise => 1,
        Way::Chunked => CHUNK,
    };
    let mut session = model.new_session(&SessionOptions::new().with_cancel(cancel.clone()))?;
    let mut values = Vec::new();
    for part in tokens.chunks(chunk) {
        values.extend_from_slice(session.append(part, wanted(model))?.values());
    }
    Ok(Logits::new(values, model.info().vocab_size))
}

/// The second half behind the first, after the second half was there in reverse.
fn rewound(model: &dyn Model, tokens: &[TokenId], cancel: &CancelToken) -> Result<Logits> {
    let mut session = model.new_session(&SessionOptions::new().with_cancel(cancel.clone()))?;
    let kept = if model.info().capabilities.has(Capability::Rewind) { tokens.len() / 2 } else { 0 };
    let (first, second) = tokens.split_at(kept);
    if !first.is_empty() {
        session.append(first, LogitsRequest::None)?;
    }
    let others: Vec<TokenId> = second.iter().rev().copied().collect();
    session.append(&others, LogitsRequest::None)?;
    session.rewind(kept)?;
    session.append(second, wanted(model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_are_not_finite_are_infinitely_far_from_any() {
        let logits = |values: [f32; 2]| Logits::new(values.to_vec(), 2);
        let measured = |computed| {
            let mut measures = WayMeasures { way: Way::Again, max_abs: 0.0, relative_l2: 0.0 };
            measures.add(&logits([3.0, 4.0]), &logits(computed));
            (measures.max_abs, measures.relative_l2)
        };
        assert_eq!(measured([3.0, 4.0]), (0.0, 0.0));
        assert_eq!(measured([3.0, 4.5]), (0.5, 0.1));
        assert_eq!(measured([3.0, f32::NAN]), (f64::INFINITY, f64::INFINITY));
    }
}
