//! Texts to embed, as tokens that are drawn with a seed: every entry, engine and peer is given the same ones.

use tandem_core::TokenId;

use super::prompt_token;
use crate::statistics::Random;

/// The shortest text of mixed length, in tokens.
const SHORTEST: usize = 8;

/// By how much texts of mixed length are longer than that on average, in tokens: paragraphs of documentation have about 70 in all.
const MEAN_MORE: f64 = 62.0;

/// The seed of the order in which lengths come.
const SEED: u64 = 0x7465_7874;

/// Text `number` of `n_tokens` tokens. No two texts of one length are equal, so that nobody gains by remembering them.
pub fn text(number: usize, n_tokens: usize, vocab_size: usize) -> Vec<TokenId> {
    (0..n_tokens).map(|i| prompt_token(i + 31 * number, vocab_size)).collect()
}

/// Lengths of `n` texts of at most `most` tokens: the quantiles of an exponential distribution, many short ones and few long ones, in an
/// order that looks like chance.
pub(super) fn mixed_lengths(n: usize, most: usize) -> Vec<usize> {
    let quantile = |i: usize| -(1.0 - (i as f64 + 0.5) / n as f64).ln() * MEAN_MORE;
    let mut lengths: Vec<usize> = (0..n).map(|i| (SHORTEST + quantile(i) as usize).clamp(1, most.max(1))).collect();
    let mut random = Random::new(SEED);
    // Fisher and Yates.
    for last in (1..n).rev() {
        lengths.swap(last, random.below(last + 1));
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_texts_have_the_lengths_of_paragraphs_and_are_reproducible() {
        let lengths = mixed_lengths(128, 256);
        let mean = lengths.iter().sum::<usize>() as f64 / 128.0;
        assert!((65.0..75.0).contains(&mean), "{mean}");
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&8), Some(&256)));
        assert_eq!(lengths, mixed_lengths(128, 256));
        assert!(lengths.windows(2).any(|pair| pair[0] > pair[1]), "they arrive in no order");
        assert!(mixed_lengths(128, 16).iter().all(|&n| n <= 16) && mixed_lengths(0, 16).is_empty());
    }

    #[test]
    fn texts_of_one_length_differ() {
        let texts: Vec<_> = (0..32).map(|number| text(number, 16, 30_522)).collect();
        assert!((1..32).all(|i| texts[..i].iter().all(|other| *other != texts[i])));
        assert!(text(3, 64, 30).iter().all(|&token| token < 30));
    }
}
