//! Against what transformers computed from the same weights.

use super::Fixture;
use super::cases::{relative_difference, session};
use crate::backend::{Capability, LogitsRequest, TokenId};

/// Every stored logit of every prompt position is within the golden's tolerance, relative to the largest.
pub fn logits_match_golden(fixture: &Fixture) {
    let Some(golden) = &fixture.golden else { return };
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    for prompt in &golden.prompts {
        let mut session = session(&*model);
        let rows: Vec<Vec<f32>> = if model.info().capabilities.has(Capability::AllLogits) {
            let all = session.append(&prompt.ids, LogitsRequest::All).unwrap();
            (0..all.n_rows()).map(|i| all.row(i).to_vec()).collect()
        } else {
            prompt.ids.iter().map(|&id| session.append(&[id], LogitsRequest::Last(1)).unwrap().last().unwrap().to_vec()).collect()
        };
        let (start, end) = prompt.stored_positions;
        let computed: Vec<f32> = rows[start..end].concat();
        let difference = relative_difference(&computed, &prompt.logits);
        assert!(
            difference <= golden.tolerance,
            "prompt `{}`: {difference:e} of the largest logit, {:e} is allowed",
            prompt.name,
            golden.tolerance
        );
    }
}

/// Greedy decoding takes the tokens that transformers takes, as many as are recorded.
pub fn greedy_tokens_match_golden(fixture: &Fixture) {
    let Some(golden) = fixture.golden.as_ref().filter(|golden| golden.greedy_equal) else { return };
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    for prompt in &golden.prompts {
        let mut session = session(&*model);
        let mut logits = session.append(&prompt.ids, LogitsRequest::Last(1)).unwrap();
        let mut tokens: Vec<TokenId> = Vec::new();
        while tokens.len() < prompt.greedy_tokens.len() {
            let row = logits.last().unwrap();
            let best = (0..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best }) as TokenId;
            tokens.push(best);
            logits = session.append(&[best], LogitsRequest::Last(1)).unwrap();
        }
        assert_eq!(tokens, prompt.greedy_tokens, "prompt `{}`", prompt.name);
    }
}
