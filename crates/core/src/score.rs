//! Teacher-forced scoring: how probable a model finds a given text.

use crate::backend::{Capability, LogitsRequest};
use crate::error::{Error, Result};
use crate::primitives::TokenId;
use crate::sequence::Sequence;

/// Tokens scored in one run: every position's logits are held at once, 4 bytes for each entry of the vocabulary.
const CHUNK: usize = 32;

/// One token of the text.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// Its id.
    pub id: TokenId,
    /// Natural logarithm of its probability given the tokens before it; `None` for the first, which has none before it.
    pub logprob: Option<f64>,
    /// How many tokens of the vocabulary are more probable.
    pub rank: Option<usize>,
    /// The most probable tokens at its place, with their log-probabilities.
    pub top: Vec<(TokenId, f64)>,
}

/// Scores `tokens` from the start of `sequence`, which is emptied first. `progress` is called with the number of tokens done.
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::ContextFull`], [`Error::Cancelled`], [`Error::BadLogits`], and as
/// [`Session::append`](crate::Session::append).
pub fn score(
    sequence: &mut Sequence,
    tokens: &[TokenId],
    n_top: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<TokenScore>> {
    sequence.rewind(0)?;
    sequence.start(tokens)?;
    let mut scores = vec![TokenScore { id: tokens[0], logprob: None, rank: None, top: Vec::new() }];
    let all_logits = sequence.capabilities().has(Capability::AllLogits);
    let chunk = if all_logits { CHUNK } else { 1 };
    for given in tokens.chunks(chunk) {
        if sequence.cancel_token().is_cancelled() {
            return Err(Error::Cancelled);
        }
        let logits = sequence.append(given, LogitsRequest::Last(chunk))?;
        for i in 0..logits.n_rows() {
            if let Some(&next) = tokens.get(scores.len()) {
                scores.push(score_token(logits.row(i), next, n_top, scores.len())?);
            }
        }
        progress(sequence.tokens().len());
    }
    Ok(scores)
}

/// Perplexity: the exponential of the mean negative log-probability; `None` when no token has one.
pub fn perplexity(scores: &[TokenScore]) -> Option<f64> {
    let logprobs: Vec<f64> = scores.iter().filter_map(|score| score.logprob).collect();
    (!logprobs.is_empty()).then(|| (-logprobs.iter().sum::<f64>() / logprobs.len() as f64).exp())
}

fn score_token(logits: &[f32], id: TokenId, n_top: usize, n_tokens: usize) -> Result<TokenScore> {
    if let Some(bad) = logits.iter().position(|value| !value.is_finite()) {
        return Err(Error::BadLogits { token: bad as TokenId, value: logits[bad], n_tokens });
    }
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_sum = max + logits.iter().map(|&value| (f64::from(value) - max).exp()).sum::<f64>().ln();
    let own = *logits.get(id as usize).ok_or(Error::InvalidToken { token: id, vocab_size: logits.len() })?;
    let rank = logits.iter().enumerate().filter(|&(other, &value)| value > own || (value == own && other < id as usize)).count();
    Ok(TokenScore { id, logprob: Some(f64::from(own) - log_sum), rank: Some(rank), top: top(logits, n_top, log_sum) })
}

/// The `n` highest, ties to the lowest id.
fn top(logits: &[f32], n: usize, log_sum: f64) -> Vec<(TokenId, f64)> {
    let mut best: Vec<TokenId> = Vec::with_capacity(n + 1);
    let value = |id: TokenId| logits[id as usize];
    for id in 0..logits.len() as TokenId {
        if best.len() == n && best.last().is_none_or(|&last| value(id) <= value(last)) {
            continue;
        }
        let place = best.partition_point(|&other| value(other) >= value(id));
        best.insert(place, id);
        best.truncate(n);
    }
    best.into_iter().map(|id| (id, f64::from(value(id)) - log_sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_tokens_the_lower_id_ranks_first() {
        let ranks = [0, 1, 2].map(|id| score_token(&[1.0, 1.0, 2.0], id, 0, 1).unwrap().rank);
        assert_eq!(ranks, [Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn a_token_is_scored_against_the_whole_vocabulary() {
        let logits = [0.0, 2.0, 1.0, 2.0];
        let score = score_token(&logits, 2, 3, 1).unwrap();
        let sum: f64 = logits.iter().map(|&v| f64::from(v).exp()).sum();
        assert!((score.logprob.unwrap() - (1.0 - sum.ln())).abs() < 1e-12);
        assert_eq!(score.rank, Some(2));
        assert_eq!(score.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
        assert!(matches!(score_token(&logits, 4, 0, 1), Err(Error::InvalidToken { token: 4, .. })));
        assert!(matches!(score_token(&[0.0, f32::NAN], 0, 0, 1), Err(Error::BadLogits { token: 1, .. })));
    }

    #[test]
    fn perplexity_of_equal_probabilities_is_their_number() {
        let score = |logprob| TokenScore { id: 0, logprob, rank: None, top: vec![] };
        let scores = [score(None), score(Some(-(4_f64.ln()))), score(Some(-(4_f64.ln())))];
        assert!((perplexity(&scores).unwrap() - 4.0).abs() < 1e-12);
        assert_eq!(perplexity(&scores[..1]), None);
    }
}
