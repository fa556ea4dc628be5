//! One position: the logits of two sides for the same tokens, reduced to what is kept of them.

use serde::Serialize;
use tandem_core::TokenId;
use tandem_core::divergence::{Divergences, LogSoftmax};

/// How many of the most probable tokens are compared.
pub(super) const TOP: usize = 5;

/// How far two rows of logits are from each other.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Every logit of both is a number.
    pub(super) finite: bool,
    /// The largest difference of a logit.
    pub(super) max_abs: f64,
    pub(super) sum_abs: f64,
    /// The sum of squared differences, and that of the reference's squares.
    pub(super) squares: (f64, f64),
    pub(super) cosine: f64,
    pub(super) kl: Divergences,
    pub(super) reference: Top,
    pub(super) candidate: Top,
    /// Where the two sides' first tokens stand with each other; `None` where they are the same.
    pub(super) parted: Option<Parted>,
}

/// The most probable tokens of one side.
#[derive(Clone, Debug)]
pub(super) struct Top {
    /// The best first, ties to the lowest id.
    pub(super) ids: Vec<TokenId>,
    softmax: LogSoftmax,
}

/// Two sides that take different tokens at one position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parted {
    /// The token of the reference, with its log-probability for the reference and for the candidate.
    pub reference: Taken,
    /// That of the candidate.
    pub candidate: Taken,
    /// By how much the reference's token leads the candidate's for the reference, in nats.
    pub reference_margin: f64,
    /// By how much the candidate's token leads the reference's for the candidate, in nats.
    pub candidate_margin: f64,
    /// Each side's token is among the other's first two.
    pub in_top_two: bool,
    /// The largest difference of a logit at this position.
    pub max_abs: f64,
}

/// A token that one side takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Taken {
    /// The token.
    pub token: TokenId,
    /// The natural logarithm of its probability for the reference.
    pub reference_logprob: f64,
    /// The natural logarithm of its probability for the candidate.
    pub candidate_logprob: f64,
}

impl Row {
    /// Of logits of the same tokens, `[vocab_size]` each.
    pub(super) fn new(reference: &[f32], candidate: &[f32]) -> Self {
        let (mut max_abs, mut sum_abs, mut square, mut dot) = (0.0_f64, 0.0, 0.0, 0.0);
        let (mut reference_square, mut candidate_square) = (0.0, 0.0);
        let mut finite = true;
        for (&r, &c) in reference.iter().zip(candidate) {
            finite &= r.is_finite() && c.is_finite();
            let (r, c) = (f64::from(r), f64::from(c));
            let difference = (r - c).abs();
            max_abs = max_abs.max(difference);
            sum_abs += difference;
            square += difference * difference;
            dot += r * c;
            reference_square += r * r;
            candidate_square += c * c;
        }
        let norms = (reference_square * candidate_square).sqrt();
        let (p, q) = (Top::new(reference), Top::new(candidate));
        let mut row = Self {
            finite,
            max_abs,
            sum_abs,
            squares: (square, reference_square),
            // Two rows of zeros are equal.
            cosine: if norms > 0.0 { (dot / norms).min(1.0) } else { f64::from(u8::from(square == 0.0)) },
            kl: Divergences::new((reference, p.softmax), (candidate, q.softmax)),
            parted: None,
            reference: p,
            candidate: q,
        };
        row.parted = (finite && row.reference.ids[0] != row.candidate.ids[0])
            .then(|| row.parted_at(reference, candidate, row.reference.ids[0], row.candidate.ids[0]));
        row
    }

    /// Where the sides stand when the reference takes `ours` and the candidate `theirs`.
    pub(super) fn parted_at(&self, reference: &[f32], candidate: &[f32], ours: TokenId, theirs: TokenId) -> Parted {
        let taken = |token: TokenId| Taken {
            token,
            reference_logprob: self.reference.logprob(reference, token),
            candidate_logprob: self.candidate.logprob(candidate, token),
        };
        let (ours, theirs) = (taken(ours), taken(theirs));
        let first_two = |top: &Top, token| top.ids.iter().take(2).any(|&id| id == token);
        Parted {
            reference: ours,
            candidate: theirs,
            reference_margin: ours.reference_logprob - theirs.reference_logprob,
            candidate_margin: theirs.candidate_logprob - ours.candidate_logprob,
            in_top_two: first_two(&self.reference, theirs.token) && first_two(&self.candidate, ours.token),
            max_abs: self.max_abs,
        }
    }

    /// The tokens that are among the first [`TOP`] of both, over those of either.
    pub(super) fn top_overlap(&self) -> f64 {
        let common = self.reference.ids.iter().filter(|id| self.candidate.ids.contains(id)).count();
        common as f64 / (self.reference.ids.len() + self.candidate.ids.len() - common) as f64
    }
}

impl Top {
    fn new(logits: &[f32]) -> Self {
        let mut ids: Vec<TokenId> = Vec::with_capacity(TOP + 1);
        let value = |id: TokenId| logits[id as usize];
        for id in 0..logits.len() as TokenId {
            if ids.len() == TOP && ids.last().is_some_and(|&last| value(id) <= value(last)) {
                continue;
            }
            let place = ids.partition_point(|&other| value(other) >= value(id));
            ids.insert(place, id);
            ids.truncate(TOP);
        }
        Self { ids, softmax: LogSoftmax::new(logits) }
    }

    /// The natural logarithm of the probability of `token`.
    pub(super) fn logprob(&self, logits: &[f32], token: TokenId) -> f64 {
        self.softmax.of(logits[token as usize])
    }
}

/// Whether two sides that part had cause to: see [`Parted::label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The reference held both tokens for nearly equally probable.
    NearTie,
    /// It did not.
    Real,
}

impl Parted {
    /// A near tie where each side's token is among the other's first two, and the reference's lead and the candidate's are within `tie`
    /// nats and within twice the difference of logits, or `noise` where that is more: a difference that small can turn the order.
    pub fn label(&self, noise: f64, tie: f64) -> Label {
        let within = (2.0 * self.max_abs.max(noise)).min(tie);
        let lead = self.reference_margin.max(self.candidate_margin);
        if self.in_top_two && lead <= within { Label::NearTie } else { Label::Real }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_differ_in_nothing() {
        let logits = [0.5, -1.0, 3.0, 2.0, 0.0, 1.0];
        let row = Row::new(&logits, &logits);
        assert_eq!((row.max_abs, row.sum_abs, row.squares.0, row.cosine), (0.0, 0.0, 0.0, 1.0));
        assert_eq!((row.kl.forward, row.kl.backward, row.top_overlap()), (0.0, 0.0, 1.0));
        assert!(row.finite && row.parted.is_none());
        assert_eq!(row.reference.ids, [2, 3, 5, 0, 4]);
    }

    #[test]
    fn logit_measures_match_their_definitions() {
        let row = Row::new(&[3.0, 4.0], &[4.0, 3.0]);
        assert_eq!((row.max_abs, row.sum_abs, row.squares), (1.0, 2.0, (2.0, 25.0)));
        assert!((row.cosine - 24.0 / 25.0).abs() < 1e-12);
        let parted = row.parted.unwrap();
        assert_eq!((parted.reference.token, parted.candidate.token), (1, 0));
        assert!((parted.reference_margin - 1.0).abs() < 1e-12 && (parted.candidate_margin - 1.0).abs() < 1e-12);
        assert!(!Row::new(&[f32::NAN, 0.0], &[0.0, 0.0]).finite);
        assert_eq!(Row::new(&[0.0, 0.0], &[0.0, 0.0]).cosine, 1.0);
        assert_eq!(Row::new(&[1.0, 2.0], &[0.0, 0.0]).cosine, 0.0);
    }

    #[test]
    fn overlap_counts_tokens_of_both_over_those_of_either() {
        let row = Row::new(&[9.0, 8.0, 7.0, 6.0, 5.0, 0.0], &[9.0, 8.0, 7.0, 6.0, 0.0, 5.0]);
        assert!((row.top_overlap() - 4.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn near_ties_lie_within_noise_and_tie_limit() {
        let parted = |reference: &[f32], candidate: &[f32]| Row::new(reference, candidate).parted.unwrap();
        let near = parted(&[1.0, 1.001, -5.0], &[1.001, 1.0, -5.0]);
        assert_eq!(near.label(0.0, 0.01), Label::NearTie);
        assert_eq!(near.label(0.0, 0.0005), Label::Real, "beyond what this pair is allowed");
        assert_eq!(parted(&[1.0, 2.0, -5.0], &[2.0, 1.0, -5.0]).label(0.0, 0.01), Label::Real);
        // A third token takes the place of the second.
        let third = parted(&[1.0, 0.999, 0.998], &[0.998, 0.9981, 0.9982]);
        assert!(!third.in_top_two);
        assert_eq!(third.label(1.0, 1.0), Label::Real);
    }
}
