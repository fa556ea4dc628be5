//! The logits of the same tokens, position by position: both sides are run in lock-step, and each position is reduced at once, so that
//! memory holds a few rows whatever the corpus.

use serde::Serialize;
use tandem_core::divergence::LogSoftmax;
use tandem_core::{CancelToken, Capability, Error, LogitsRequest, Result, Session, SessionOptions, TokenId};

use super::corpus::PromptKind;
use super::row::{Label, Parted, Row};
use super::text::Prompt;
use super::{Problem, Side};

/// Tokens of one run: both sides' logits of every one of them are held.
const CHUNK: usize = 32;

/// Divergences that are kept whole; of further ones there is the number.
const N_KEPT: usize = 32;

/// How far the logits of two sides are from each other.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogitsMeasures {
    /// Positions compared.
    pub n_positions: usize,
    /// Positions at which a logit of either side is not finite.
    pub n_not_finite: usize,
    /// The largest difference of a logit.
    pub max_abs: f64,
    /// Where it is.
    pub max_abs_at: Option<Place>,
    /// The mean difference of a logit.
    pub mean_abs: f64,
    /// The Euclidean norm of all differences over that of the reference's logits.
    pub relative_l2: f64,
    /// The least cosine of the angle between two rows.
    pub cosine_min: f64,
    /// The Kullback-Leibler divergence of the candidate from the reference, in nats: mean, 99th percentile and largest.
    pub kl_mean: f64,
    /// See [`kl_mean`](Self::kl_mean).
    pub kl_p99: f64,
    /// See [`kl_mean`](Self::kl_mean).
    pub kl_max: f64,
    /// That of the reference from the candidate.
    pub kl_backward_mean: f64,
    /// See [`kl_backward_mean`](Self::kl_backward_mean).
    pub kl_backward_max: f64,
    /// The share of positions at which both hold the same token for the most probable.
    pub top1: f64,
    /// The same, near ties counted as equal.
    pub top1_with_ties: f64,
    /// The mean overlap of the five most probable tokens: those of both over those of either.
    pub top5: f64,
    /// The exponential of the mean negative log-probability of the next token, for the reference.
    pub reference_perplexity: f64,
    /// That for the candidate.
    pub candidate_perplexity: f64,
    /// The candidate's over the reference's, less one.
    pub perplexity_change: f64,
    /// Positions whose top tokens differ at a near tie.
    pub n_near_ties: usize,
    /// Positions whose top tokens differ, near ties aside.
    pub n_real: usize,
    /// The first of those that differ, near ties aside.
    pub real: Vec<Divergence>,
    /// The measures of each prompt.
    pub prompts: Vec<PromptMeasures>,
}

/// A place in the corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// The prompt.
    pub prompt: String,
    /// The position: logits behind this many tokens, and one.
    pub position: usize,
}

/// Two sides that take different tokens at one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Whether there was cause to.
    pub label: Label,
    /// Tokens and margins.
    #[serde(flatten)]
    pub parted: Parted,
    /// The text of the reference's token.
    pub reference_text: String,
    /// The text of the candidate's token.
    pub candidate_text: String,
}

/// The measures of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptMeasures {
    /// The prompt.
    pub prompt: String,
    /// What it is for.
    pub kind: PromptKind,
    /// Its tokens.
    pub n_tokens: usize,
    /// The largest difference of a logit.
    pub max_abs: f64,
    /// The mean divergence, in nats.
    pub kl_mean: f64,
    /// Top-1 agreement: the share of positions with the same most probable token.
    pub top1: f64,
}

/// What decides whether a tie is near.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ties {
    /// The largest difference of a logit between two ways in which one side computes the same.
    pub(super) noise: f64,
    /// Beyond this many nats nothing is a near tie.
    pub(super) tie: f64,
}

/// Compares the logits of every prompt. What went wrong with a prompt goes to `problems`; the others are measured all the same.
pub(super) fn compare(
    (reference, candidate): (&Side<'_>, &Side<'_>),
    prompts: &[Prompt],
    ties: Ties,
    cancel: &CancelToken,
    problems: &mut Vec<Problem>,
    listen: &mut dyn FnMut(&str),
) -> LogitsMeasures {
    let mut sums = Sums::default();
    for (i, prompt) in prompts.iter().enumerate() {
        listen(&format!("logits: prompt {} of {}, {} tokens", i + 1, prompts.len(), prompt.tokens.len()));
        let before = sums.clone();
        let compared = lock_step((reference, candidate), &prompt.tokens, cancel, &mut |position, ours, theirs| {
            sums.add((reference, prompt), position, ours, theirs, ties)
        });
        match compared {
            Ok(()) => sums.close(prompt, &before),
            Err(error) => {
                sums = before;
                let cancelled = matches!(error, Error::Cancelled);
                problems.push(Problem::of_prompt(&prompt.name, &error));
                if cancelled {
                    break;
                }
            }
        }
    }
    sums.measures()
}

/// Takes a position with the logits of the reference and of the candidate, `[vocab_size]` each.
type TakeRows<'t> = dyn FnMut(usize, &[f32], &[f32]) -> Result<()> + 't;

/// Runs both sides over `tokens` and hands each position's logits to `take`.
pub(super) fn lock_step(
    (reference, candidate): (&Side<'_>, &Side<'_>),
    tokens: &[TokenId],
    cancel: &CancelToken,
    take: &mut TakeRows<'_>,
) -> Result<()> {
    let all = reference.model.info().capabilities.has(Capability::AllLogits)
        && candidate.model.info().capabilities.has(Capability::AllLogits);
    let (chunk, wanted) = if all { (CHUNK, LogitsRequest::All) } else { (1, LogitsRequest::Last(1)) };
    let (mut ours, mut theirs) = (session(reference, tokens.len(), cancel)?, session(candidate, tokens.len(), cancel)?);
    let mut position = 0;
    for given in tokens.chunks(chunk) {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (ours, theirs) = (ours.append(given, wanted)?, theirs.append(given, wanted)?);
        for i in 0..ours.n_rows() {
            take(position, ours.row(i), theirs.row(i))?;
            position += 1;
        }
    }
    Ok(())
}

/// An empty session for `n_tokens`.
pub(super) fn session(side: &Side<'_>, n_tokens: usize, cancel: &CancelToken) -> Result<Box<dyn Session>> {
    side.model.new_session(&SessionOptions::new().with_context_length(n_tokens).with_cancel(cancel.clone()))
}

#[derive(Clone, Default)]
struct Sums {
    n_positions: usize,
    n_not_finite: usize,
    n_logits: usize,
    max_abs: f64,
    max_abs_at: Option<Place>,
    sum_abs: f64,
    squares: (f64, f64),
    cosine_min: Option<f64>,
    kls: Vec<f64>,
    backward: (f64, f64),
    n_equal: usize,
    overlap: f64,
    n_scored: usize,
    logprobs: (f64, f64),
    n_near_ties: usize,
    n_real: usize,
    real: Vec<Divergence>,
    prompts: Vec<PromptMeasures>,
    /// The largest difference within the prompt that is being compared.
    prompt_max_abs: f64,
}

impl Sums {
    fn add(
        &mut self,
        (side, prompt): (&Side<'_>, &Prompt),
        position: usize,
        ours: &[f32],
        theirs: &[f32],
        ties: Ties,
    ) -> Result<()> {
        let row = Row::new(ours, theirs);
        self.n_positions += 1;
        if !row.finite {
            self.n_not_finite += 1;
            return Ok(());
        }
        self.n_logits += ours.len();
        self.prompt_max_abs = self.prompt_max_abs.max(row.max_abs);
        if row.max_abs > self.max_abs || self.max_abs_at.is_none() {
            self.max_abs = row.max_abs;
            self.max_abs_at = Some(Place { prompt: prompt.name.clone(), position });
        }
        self.sum_abs += row.sum_abs;
        self.squares = (self.squares.0 + row.squares.0, self.squares.1 + row.squares.1);
        self.cosine_min = Some(self.cosine_min.map_or(row.cosine, |least| least.min(row.cosine)));
        self.kls.push(row.kl.forward);
        self.backward = (self.backward.0 + row.kl.backward, self.backward.1.max(row.kl.backward));
        self.overlap += row.top_overlap();
        if let Some(&next) = prompt.tokens.get(position + 1) {
            self.n_scored += 1;
            self.logprobs.0 += LogSoftmax::of(&LogSoftmax::new(ours), ours[next as usize]);
            self.logprobs.1 += LogSoftmax::of(&LogSoftmax::new(theirs), theirs[next as usize]);
        }
        match row.parted {
            None => self.n_equal += 1,
            Some(parted) => self.part(side, Place { prompt: prompt.name.clone(), position }, parted, ties)?,
        }
        Ok(())
    }

    fn part(&mut self, side: &Side<'_>, place: Place, parted: Parted, ties: Ties) -> Result<()> {
        if parted.label(ties.noise, ties.tie) == Label::NearTie {
            self.n_near_ties += 1;
            return Ok(());
        }
        self.n_real += 1;
        if self.real.len() < N_KEPT {
            self.real.push(Divergence::new(side, place, Label::Real, parted)?);
        }
        Ok(())
    }

    /// Ends `prompt`, before which the sums were `before`.
    fn close(&mut self, prompt: &Prompt, before: &Self) {
        let kls = &self.kls[before.kls.len()..];
        let n_positions = (self.n_positions - before.n_positions).max(1) as f64;
        self.prompts.push(PromptMeasures {
            prompt: prompt.name.clone(),
            kind: prompt.kind,
            n_tokens: prompt.tokens.len(),
            max_abs: std::mem::take(&mut self.prompt_max_abs),
            kl_mean: kls.iter().sum::<f64>() / kls.len().max(1) as f64,
            top1: (self.n_equal - before.n_equal) as f64 / n_positions,
        });
    }

    fn measures(mut self) -> LogitsMeasures {
        self.kls.sort_by(f64::total_cmp);
        let n = self.kls.len().max(1) as f64;
        let share = |count: usize| count as f64 / self.n_positions.max(1) as f64;
        let perplexity = |sum: f64| (-sum / self.n_scored.max(1) as f64).exp();
        let (ours, theirs) = (perplexity(self.logprobs.0), perplexity(self.logprobs.1));
        LogitsMeasures {
            n_positions: self.n_positions,
            n_not_finite: self.n_not_finite,
            max_abs: self.max_abs,
            max_abs_at: self.max_abs_at,
            mean_abs: self.sum_abs / self.n_logits.max(1) as f64,
            relative_l2: (self.squares.0 / self.squares.1.max(f64::MIN_POSITIVE)).sqrt(),
            cosine_min: self.cosine_min.unwrap_or(1.0),
            kl_mean: self.kls.iter().sum::<f64>() / n,
            kl_p99: percentile(&self.kls, 0.99),
            kl_max: self.kls.last().copied().unwrap_or(0.0),
            kl_backward_mean: self.backward.0 / n,
            kl_backward_max: self.backward.1,
            top1: share(self.n_equal),
            top1_with_ties: share(self.n_equal + self.n_near_ties),
            top5: self.overlap / n,
            reference_perplexity: ours,
            candidate_perplexity: theirs,
            perplexity_change: theirs / ours - 1.0,
            n_near_ties: self.n_near_ties,
            n_real: self.n_real,
            real: self.real,
            prompts: self.prompts,
        }
    }
}

impl Divergence {
    pub(super) fn new(side: &Side<'_>, place: Place, label: Label, parted: Parted) -> Result<Self> {
        let text = |token: TokenId| side.tokenizer.decode(&[token], false);
        let (reference_text, candidate_text) = (text(parted.reference.token)?, text(parted.candidate.token)?);
        Ok(Self { place, label, parted, reference_text, candidate_text })
    }
}

/// The least of `sorted` that is not below the share `p` of them; 0 of none.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let place = (sorted.len() as f64 * p).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.99), 198.0);
        assert_eq!(percentile(&samples, 1.0), 200.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
