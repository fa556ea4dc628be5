//! Batches that give each session the bits that it gets alone, which is more than the contract asks.

use std::sync::Arc;

use crate::adapter::{Adapter, LowRankFactors};
use crate::backend::{Append, Capability, Logits, LogitsRequest, Model, Session, SessionOptions, TokenId};
use crate::config::ModelConfig;
use crate::sequence::next_part;

/// Tokens held before, and appended: single tokens, prompts short and long, and more than a pass takes.
const PLANS: [(usize, usize, LogitsRequest); 13] = [
    (9, 1, LogitsRequest::Last(1)),
    (0, 40, LogitsRequest::Last(1)),
    (5, 1, LogitsRequest::Last(1)),
    (3, 7, LogitsRequest::All),
    (30, 12, LogitsRequest::Last(3)),
    (70, 1, LogitsRequest::Last(1)),
    (0, 17, LogitsRequest::None),
    (1, 100, LogitsRequest::Last(20)),
    (250, 2, LogitsRequest::None),
    (0, 200, LogitsRequest::Last(1)),
    (20, 230, LogitsRequest::Last(1)),
    (5, 600, LogitsRequest::Last(550)),
    (0, 1030, LogitsRequest::Last(1)),
];

/// `n` tokens of text number `seed`, all below 256.
pub fn text(n: usize, seed: usize) -> Vec<TokenId> {
    (0..n).map(|i| ((i * i * 31 + i * 7 + seed * 13) % 256) as TokenId).collect()
}

/// A session of `model` that has had `tokens`.
pub fn session_of(model: &dyn Model, tokens: &[TokenId]) -> Box<dyn Session> {
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    if !tokens.is_empty() {
        session.append(tokens, LogitsRequest::None).unwrap();
    }
    session
}

/// Checks that appends of many lengths, in several batches so that each stands beside others, give what each gives alone, and leave what it leaves.
#[track_caller]
pub fn batches_have_the_bits_of_each_alone(model: &dyn Model, what: &str) {
    let fits = |plan: &&(usize, usize, LogitsRequest)| plan.0 + plan.1 < model.info().max_context;
    let plans: Vec<_> = PLANS.iter().filter(fits).enumerate().collect();
    for size in [2, 5, plans.len()] {
        for plans in plans.chunks(size) {
            let texts: Vec<Vec<TokenId>> = plans.iter().map(|(i, plan)| text(plan.0 + plan.1, *i)).collect();
            let mut sessions: Vec<_> =
                plans.iter().zip(&texts).map(|((_, plan), all)| session_of(model, &all[..plan.0])).collect();
            let mut logits = vec![Logits::default(); plans.len()];
            let rows = sessions.iter_mut().zip(&mut logits).zip(plans.iter().zip(&texts));
            let mut appends: Vec<Append<'_>> = rows
                .map(|((session, logits), ((_, plan), all))| Append::new(&mut **session, &all[plan.0..], plan.2, logits))
                .collect();
            model.append_batch(&mut appends).into_iter().for_each(|result| result.unwrap());
            for (((session, logits), (_, plan)), all) in sessions.iter_mut().zip(&logits).zip(plans).zip(&texts) {
                let mut alone = session_of(model, &all[..plan.0]);
                let expected = alone.append(&all[plan.0..], plan.2).unwrap();
                assert!(logits.values() == expected.values(), "{what}: {plan:?} of {} differs", plans.len());
                let next = |session: &mut dyn Session| session.append(&[3], LogitsRequest::Last(1)).unwrap();
                assert!(next(&mut **session) == next(&mut *alone), "{what}: after {plan:?} of {}", plans.len());
            }
        }
    }
}

/// Checks that a prompt of `n` tokens in parts of two tokens and more, alone and beside others, has the logits, keys and values that it has at
/// once, and that a session which decodes beside it gets what it gets alone.
#[track_caller]
pub fn parts_have_the_bits_of_whole_prompts(model: &dyn Model, n: usize, what: &str) {
    assert!(model.info().capabilities.has(Capability::PromptParts), "{what}: prompts are taken in parts");
    for (number, size) in [2, 3, 4, 5, 7, 8, 9, 20].into_iter().enumerate() {
        let prompts = [text(n, number), text(n / 2 + 1, number + 50)];
        check_parts(model, &prompts, size, &format!("{what}, parts of {size}"));
    }
}

/// As [`parts_have_the_bits_of_whole_prompts`], of parts of about `size` tokens.
#[track_caller]
fn check_parts(model: &dyn Model, prompts: &[Vec<TokenId>; 2], size: usize, what: &str) {
    let whole = prompts.each_ref().map(|prompt| {
        let mut session = session_of(model, &[]);
        let logits = session.append(prompt, LogitsRequest::Last(1)).unwrap();
        (session, logits)
    });
    let [mut first, mut second] = [session_of(model, &[]), session_of(model, &[])];
    let (mut decoding, mut alone) = (session_of(model, &[1, 2, 3]), session_of(model, &[1, 2, 3]));
    for step in 0.. {
        let held = [first.n_tokens(), second.n_tokens()];
        if held == prompts.each_ref().map(Vec::len) {
            break;
        }
        let token = [step as TokenId % 200];
        let mut logits = [Logits::default(), Logits::default(), Logits::default()];
        let [of_first, of_second, of_token] = &mut logits;
        let mut appends = Vec::new();
        for (i, (session, logits)) in [(&mut first, of_first), (&mut second, of_second)].into_iter().enumerate() {
            let rest = &prompts[i][held[i]..];
            // In some steps only one of both has a turn.
            if !rest.is_empty() && (step + i) % 3 != 2 {
                let n = next_part(rest.len(), size + step % 2, 256);
                let request = if n == rest.len() { LogitsRequest::Last(1) } else { LogitsRequest::None };
                appends.push(Append::new(&mut **session, &rest[..n], request, logits).with_part(true));
            }
        }
        // In some a part may be alone.
        let decodes = step % 4 != 3 && decoding.n_tokens() < decoding.context_length();
        if decodes {
            appends.push(Append::new(&mut *decoding, &token, LogitsRequest::Last(1), of_token));
        }
        model.append_batch(&mut appends).into_iter().for_each(|result| result.unwrap());
        if decodes {
            assert!(logits[2] == alone.append(&token, LogitsRequest::Last(1)).unwrap(), "{what}: decoding in step {step}");
        }
        for (own, (_, expected)) in logits.iter().zip(&whole).filter(|(own, _)| own.n_rows() > 0) {
            assert!(own == expected, "{what}: logits in step {step}");
        }
    }
    for (session, (whole, _)) in [&first, &second].into_iter().zip(&whole) {
        let [own, expected] = [session, whole].map(|session| session.export_kv(0..session.n_tokens()).unwrap());
        assert!(own.data == expected.data, "{what}: keys and values");
    }
}

/// An adapter of two modules of a model with these sizes, with factors that are not zero.
pub fn adapter_of_two_modules(config: &ModelConfig) -> Arc<Adapter> {
    let numbers = |n: usize, seed: usize| (0..n).map(|i| ((i * i + seed) as f32 * 0.37).sin() * 0.1).collect();
    let factors = |module: &str, outputs: usize, inputs: usize| LowRankFactors {
        module: module.into(),
        rank: 5,
        a: numbers(5 * inputs, 1),
        b: numbers(outputs * 5, 2),
        scale: 1.0,
        magnitude: None,
    };
    let factors = vec![
        factors("model.layers.0.self_attn.o_proj", config.hidden_size, config.n_heads * config.head_dim()),
        factors("model.layers.1.mlp.up_proj", config.intermediate_size, config.hidden_size),
    ];
    Arc::new(Adapter::new("a", factors).unwrap())
}
