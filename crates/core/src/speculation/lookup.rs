//! Prompt lookup: what followed the same words before.

use super::Drafter;
use crate::error::Result;
use crate::primitives::TokenId;

/// The most and the fewest last tokens that are looked for.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;

/// Guesses that what followed the last tokens before follows again: in the sequence itself, and in a text beside it, such as one that is
/// being edited. After Saxena, "Prompt Lookup Decoding" (2023).
#[derive(Clone, Debug, Default)]
pub struct PromptLookup {
    text: Vec<TokenId>,
}

impl PromptLookup {
    /// With a text beside the sequence, as tokens of the same tokenizer; it may be empty.
    pub fn new(text: Vec<TokenId>) -> Self {
        Self { text }
    }
}

impl Drafter for PromptLookup {
    fn draft(&mut self, history: &[TokenId], n: usize) -> Result<Vec<TokenId>> {
        for length in (SHORTEST..=LONGEST.min(history.len().saturating_sub(1))).rev() {
            let (before, last) = history.split_at(history.len() - length);
            // The last time; it may overlap with the end, as in a list of the same.
            let found = (0..before.len()).rev().find(|start| history[*start..].starts_with(last));
            if let Some(start) = found {
                let mut draft = Vec::with_capacity(n);
                for next in start + length..start + length + n {
                    // What is past the end repeats the draft.
                    draft.push(history.get(next).copied().unwrap_or_else(|| draft[next - history.len()]));
                }
                return Ok(draft);
            }
            if let Some(start) = self.text.windows(length).position(|window| window == last) {
                let rest = &self.text[start + length..];
                return Ok(rest[..rest.len().min(n)].to_vec());
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(text: &[TokenId], history: &[TokenId], n: usize) -> Vec<TokenId> {
        PromptLookup::new(text.to_vec()).draft(history, n).unwrap_or_default()
    }

    #[test]
    fn what_followed_the_last_time_is_drafted() {
        assert_eq!(draft(&[], &[1, 2, 3, 4, 1, 2], 2), [3, 4]);
        assert_eq!(draft(&[], &[1, 2, 9, 1, 2, 8, 7, 1, 2], 2), [8, 7], "the last time");
        assert_eq!(draft(&[], &[5, 1, 2, 8, 6, 1, 2, 9, 5, 1, 2], 1), [8], "more of the same words before");
        assert_eq!(draft(&[], &[1, 2, 3], 2), [0; 0]);
        assert_eq!(draft(&[], &[1], 2), [0; 0]);
        assert_eq!(draft(&[], &[3, 2, 1, 2], 4), [0; 0], "one word is not enough");
    }

    #[test]
    fn a_repetition_is_drafted_to_go_on() {
        assert_eq!(draft(&[], &[7, 7, 7], 5), [7; 5]);
        assert_eq!(draft(&[], &[1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn a_text_beside_is_looked_into_too() {
        assert_eq!(draft(&[4, 5, 6, 7], &[1, 5, 6], 3), [7]);
        assert_eq!(draft(&[4, 5, 6, 7], &[4, 5, 6, 7], 3), [0; 0], "its end");
        assert_eq!(draft(&[1, 2, 8], &[1, 2, 3, 1, 2], 1), [3], "after the sequence");
    }
}
