//! Against what transformers computed from the same weights, without adapters and with those of PEFT.

use std::sync::Arc;

use super::cases::{relative_difference, session};
use super::{Fixture, Golden};
use crate::adapter::{AdapterFiles, ScaledAdapter};
use crate::backend::{Capability, DType, LogitsRequest, Model, TokenId};
use crate::error::Error;

/// Every stored logit of every prompt position is within the golden's tolerance, relative to the largest.
pub fn logits_match_golden(fixture: &Fixture) {
    let Some(golden) = &fixture.golden else { return };
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    check_logits(golden, &*model, "no adapter");
}

/// Greedy decoding takes the tokens that transformers takes, as many as are recorded.
pub fn greedy_tokens_match_golden(fixture: &Fixture) {
    let Some(golden) = fixture.golden.as_ref().filter(|golden| golden.greedy_equal) else { return };
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    check_greedy(golden, &*model, "no adapter");
}

/// In f32, logits and greedy tokens of each adapter that PEFT made for the checkpoint are those of PEFT. One that replaces tensors is
/// refused, and is to be merged.
pub fn adapters_match_golden(fixture: &Fixture) {
    let Some(base) = &fixture.golden else { return };
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::Adapters]) else { return };
    if model.info().dtype != DType::F32 {
        return;
    }
    let config = fixture.files.model_config().unwrap();
    for directory in base.adapters() {
        let name = directory.file_name().unwrap().to_string_lossy();
        let adapter = AdapterFiles::discover(&directory, &name).unwrap().read(Some(&config)).unwrap();
        let replaces = !adapter.replaced().is_empty();
        match model.with_adapters(&[ScaledAdapter::new(Arc::new(adapter))]) {
            Ok(adapted) => {
                let mut golden = Golden::read(&directory, Golden::MADE);
                if model.info().kv_dtype == Some(DType::F16) {
                    // A rounded cache moves the adapted model as far as its base.
                    golden.tolerance = golden.tolerance.max(base.tolerance);
                }
                check_logits(&golden, &*adapted, &name);
                check_greedy(&golden, &*adapted, &name);
            }
            Err(Error::Unsupported { .. }) if replaces => {}
            Err(error) => panic!("adapter `{name}`: {}", super::describe(&error)),
        }
    }
}

fn check_logits(golden: &Golden, model: &dyn Model, adapter: &str) {
    for prompt in &golden.prompts {
        let mut session = session(model);
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
            "prompt `{}`, {adapter}: {difference:e} of the largest logit, {:e} is allowed",
            prompt.name,
            golden.tolerance
        );
    }
}

fn check_greedy(golden: &Golden, model: &dyn Model, adapter: &str) {
    for prompt in &golden.prompts {
        let mut session = session(model);
        let mut logits = session.append(&prompt.ids, LogitsRequest::Last(1)).unwrap();
        let mut tokens: Vec<TokenId> = Vec::new();
        while tokens.len() < prompt.greedy_tokens.len() {
            let row = logits.last().unwrap();
            let best = (0..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best }) as TokenId;
            tokens.push(best);
            logits = session.append(&[best], LogitsRequest::Last(1)).unwrap();
        }
        assert_eq!(tokens, prompt.greedy_tokens, "prompt `{}`, {adapter}", prompt.name);
    }
}
