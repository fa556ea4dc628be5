//! Sessions that share forward passes get what each gets alone, to the bit; so does a prompt in any chunks of more than 16 tokens.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tandem_core::adapter::{Adapter, LowRankFactors, ScaledAdapter};
use tandem_core::backend::{Append, Numerics};
use tandem_core::{DType, LoadOptions, Logits, LogitsRequest, Model, Session, SessionOptions, TokenId};

use crate::{edited, golden, load};

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

fn tokens(n: usize, seed: usize) -> Vec<TokenId> {
    (0..n).map(|i| ((i * i * 31 + i * 7 + seed * 13) % 256) as TokenId).collect()
}

fn held(model: &dyn Model, tokens: &[TokenId]) -> Box<dyn Session> {
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    if !tokens.is_empty() {
        session.append(tokens, LogitsRequest::None).unwrap();
    }
    session
}

/// In several batches, so that each plan stands beside others.
#[track_caller]
fn check(model: &dyn Model, what: &str) {
    let fits = |plan: &&(usize, usize, LogitsRequest)| plan.0 + plan.1 < model.info().max_context;
    let plans: Vec<_> = PLANS.iter().filter(fits).enumerate().collect();
    for size in [2, 5, plans.len()] {
        for plans in plans.chunks(size) {
            let texts: Vec<Vec<TokenId>> = plans.iter().map(|(i, plan)| tokens(plan.0 + plan.1, *i)).collect();
            let mut sessions: Vec<_> = plans.iter().zip(&texts).map(|((_, plan), all)| held(model, &all[..plan.0])).collect();
            let mut logits = vec![Logits::default(); plans.len()];
            let rows = sessions.iter_mut().zip(&mut logits).zip(plans.iter().zip(&texts));
            let mut appends: Vec<Append<'_>> = rows
                .map(|((session, logits), ((_, plan), all))| Append {
                    session: &mut **session,
                    tokens: &all[plan.0..],
                    request: plan.2,
                    logits,
                })
                .collect();
            model.append_batch(&mut appends).into_iter().for_each(|result| result.unwrap());
            for (((session, logits), (_, plan)), all) in sessions.iter_mut().zip(&logits).zip(plans).zip(&texts) {
                let mut alone = held(model, &all[..plan.0]);
                let expected = alone.append(&all[plan.0..], plan.2).unwrap();
                assert!(logits.values() == expected.values(), "{what}: {plan:?} of {} differs", plans.len());
                let next = |session: &mut dyn Session| session.append(&[3], LogitsRequest::Last(1)).unwrap();
                assert!(next(&mut **session) == next(&mut *alone), "{what}: after {plan:?} of {}", plans.len());
            }
        }
    }
}

fn options(dtype: DType, numerics: Numerics, threads: usize) -> LoadOptions {
    LoadOptions::new().with_dtype(dtype).with_numerics(numerics).with_threads(NonZeroUsize::new(threads).unwrap())
}

#[test]
fn batched_sessions_get_the_bits_of_each_alone() {
    for name in ["qwen2-tied", "qwen3", "llama3-rope", "mistral-window", "gemma2-window", "gemma3", "phi3"] {
        for (dtype, numerics) in [
            (DType::F32, Numerics::Exact),
            (DType::Int8, Numerics::Fast),
            (DType::Int4, Numerics::Fast),
            (DType::Int4, Numerics::Exact),
        ] {
            for threads in [1, 2] {
                let model = load(&golden(name), &options(dtype, numerics, threads)).unwrap();
                check(&*model, &format!("{name}, {dtype}, {numerics:?}, {threads} threads"));
            }
        }
    }
}

#[test]
fn sessions_that_need_several_passes_get_the_bits_of_each_alone() {
    let directory = edited("mistral-window", |config| config["max_position_embeddings"] = 2048.into(), |_| true);
    for dtype in [DType::F32, DType::Int4] {
        check(&*load(directory.path(), &options(dtype, Numerics::Fast, 2)).unwrap(), &format!("long, {dtype}"));
    }
}

#[test]
fn batched_sessions_with_an_adapter_get_the_bits_of_each_alone() {
    for dtype in [DType::F32, DType::Int4] {
        let model = load(&golden("qwen2-untied"), &options(dtype, Numerics::Fast, 2)).unwrap();
        let config = tandem_core::files::ModelFiles::discover(&golden("qwen2-untied"), "model").unwrap().model_config().unwrap();
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
        let adapter = Arc::new(Adapter::new("a", factors).unwrap());
        let adapted = model.with_adapters(&[ScaledAdapter::new(adapter)]).unwrap();
        check(&*adapted, &format!("adapted, {dtype}"));
        let (mut own, mut other) = (held(&*adapted, &[1]), held(&*model, &[1]));
        let [mut first, mut second] = [Logits::default(), Logits::default()];
        let results = adapted.append_batch(&mut [
            Append { session: &mut *own, tokens: &[2], request: LogitsRequest::Last(1), logits: &mut first },
            Append { session: &mut *other, tokens: &[2], request: LogitsRequest::Last(1), logits: &mut second },
        ]);
        assert!(results[0].is_ok() && results[1].is_err(), "a session of the base is of another batch");
    }
}

#[test]
fn prompts_in_chunks_have_the_bits_of_whole_ones() {
    for name in ["qwen2-tied", "mistral-window", "gemma2-window", "gemma3"] {
        let directory = edited(name, |config| config["max_position_embeddings"] = 700.into(), |_| true);
        for dtype in [DType::F32, DType::Int4] {
            let model = load(directory.path(), &options(dtype, Numerics::Fast, 2)).unwrap();
            let all = tokens(512, 1);
            let whole = held(&*model, &[]).append(&all, LogitsRequest::Last(1)).unwrap();
            for chunk in [17, 100, 241] {
                let (mut session, mut rest) = (held(&*model, &[]), &all[..]);
                while rest.len() >= 2 * chunk {
                    session.append(&rest[..chunk], LogitsRequest::None).unwrap();
                    rest = &rest[chunk..];
                }
                let last = session.append(rest, LogitsRequest::Last(1)).unwrap();
                assert!(last == whole, "{name}, {dtype}: chunks of {chunk}");
            }
        }
    }
}
