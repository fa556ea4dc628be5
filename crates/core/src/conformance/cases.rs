//! What a session does.

use super::Fixture;
use crate::backend::{Capability, LogitsRequest, Model, ProbePoint, Session, SessionOptions, Stage, TokenBatch, TokenId};
use crate::cancel::CancelToken;
use crate::error::Error;

/// Logits after each token, one at a time, equal those of the whole at once.
pub fn prefill_equals_stepwise(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 24);
    let whole = last(&mut *session(&*model), &tokens);
    let mut stepwise = session(&*model);
    let mut stepped = Vec::new();
    for token in &tokens {
        stepped = last(&mut *stepwise, &[*token]);
    }
    assert_eq!(stepwise.n_tokens(), tokens.len());
    assert_close(fixture, &stepped, &whole, "stepwise");
}

/// A prompt in several parts gives what it gives as one, wherever it is cut, and decoding goes on from there.
pub fn split_prefill_equals_whole(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 24);
    let whole = last(&mut *session(&*model), &tokens);
    for cuts in [vec![1], vec![23], vec![8, 16], vec![1, 2, 21], vec![5, 6, 7, 20]] {
        let mut split = session(&*model);
        let mut start = 0;
        for cut in cuts.iter().copied().chain([tokens.len()]) {
            let wanted = if cut == tokens.len() { LogitsRequest::Last(1) } else { LogitsRequest::None };
            let logits = split.append(&tokens[start..cut], wanted).unwrap();
            start = cut;
            if cut == tokens.len() {
                assert_close(fixture, logits.last().unwrap(), &whole, &format!("cut at {cuts:?}"));
            }
        }
    }
}

/// With all logits wanted there is a row for each token, equal to the last row of the tokens up to it, also after a beginning that is
/// in the cache already.
pub fn all_logits_equal_those_of_each_prefix(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::AllLogits]) else { return };
    let tokens = tokens(&*model, 9);
    for held in [0, 1, 4] {
        let mut some = session(&*model);
        if held > 0 {
            some.append(&tokens[..held], LogitsRequest::None).unwrap();
        }
        let all = some.append(&tokens[held..], LogitsRequest::All).unwrap();
        assert_eq!(all.n_rows(), tokens.len() - held);
        for i in 0..all.n_rows() {
            let alone = last(&mut *session(&*model), &tokens[..=held + i]);
            assert_close(fixture, all.row(i), &alone, &format!("position {i} after {held}"));
        }
    }
}

/// Without logits wanted there are none, and the tokens are held all the same.
pub fn no_logits_when_none_are_wanted(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let mut session = session(&*model);
    let logits = session.append(&tokens(&*model, 3), LogitsRequest::None).unwrap();
    assert_eq!((logits.n_rows(), session.n_tokens()), (0, 3));
}

/// After a rewind the session is as one that never saw what was forgotten. A rewind to 0 always works; to another length it works when
/// it is declared and is refused when it is not.
pub fn rewind_equals_fresh(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 20);
    let other: Vec<TokenId> = tokens.iter().rev().copied().collect();
    let whole = last(&mut *session(&*model), &tokens);
    let rewinds = model.info().capabilities.has(Capability::Rewind);
    for kept in [0, 1, 7, 19] {
        let mut rewound = session(&*model);
        rewound.append(&tokens[..kept.max(1)], LogitsRequest::None).unwrap();
        rewound.append(&other[..11], LogitsRequest::None).unwrap();
        match rewound.rewind(kept) {
            Ok(()) => {
                assert!(rewinds || kept == 0, "a rewind to {kept} is not declared");
                assert_eq!(rewound.n_tokens(), kept);
                assert_close(fixture, &last(&mut *rewound, &tokens[kept..]), &whole, &format!("rewound to {kept}"));
            }
            Err(error) => {
                assert!(matches!(error, Error::Unsupported { .. }) && kept > 0 && !rewinds, "a rewind to {kept}: {error}");
                assert_eq!(rewound.n_tokens(), kept.max(1) + 11, "a refused rewind changes nothing");
            }
        }
    }
}

/// A rewind to more than is held is an error.
pub fn rewind_too_far_is_an_error(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let mut session = session(&*model);
    session.append(&tokens(&*model, 4), LogitsRequest::None).unwrap();
    assert!(matches!(session.rewind(5), Err(Error::InvalidOption { .. })));
    session.rewind(4).unwrap();
    assert_eq!(session.n_tokens(), 4);
}

/// Two sessions that take turns do not see each other.
pub fn sessions_are_independent(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let one = tokens(&*model, 12);
    let two: Vec<TokenId> = one.iter().rev().copied().collect();
    let alone = [last(&mut *session(&*model), &one), last(&mut *session(&*model), &two)];
    let (mut first, mut second) = (session(&*model), session(&*model));
    let mut logits = [Vec::new(), Vec::new()];
    for i in 0..one.len() {
        logits[0] = last(&mut *first, &one[i..=i]);
        logits[1] = last(&mut *second, &two[i..=i]);
    }
    assert_close(fixture, &logits[0], &alone[0], "first");
    assert_close(fixture, &logits[1], &alone[1], "second");
}

/// Sessions in several threads give what each gives alone.
pub fn sessions_run_at_the_same_time(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let prompts: Vec<Vec<TokenId>> = (1..=4).map(|n| tokens(&*model, 5 * n)).collect();
    let alone: Vec<Vec<f32>> = prompts.iter().map(|prompt| last(&mut *session(&*model), prompt)).collect();
    std::thread::scope(|scope| {
        for (prompt, alone) in prompts.iter().zip(&alone) {
            let model = &model;
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_close(fixture, &last(&mut *session(&**model), prompt), alone, "beside others");
                }
            });
        }
    });
}

/// A session keeps working when the model it came from is dropped.
pub fn session_outlives_the_model_handle(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 6);
    let whole = last(&mut *session(&*model), &tokens);
    let mut session = session(&*model);
    drop(model);
    assert_close(fixture, &last(&mut *session, &tokens), &whole, "without its model");
}

/// A cache that grows far beyond its beginnings keeps what it holds.
pub fn growing_cache_keeps_its_content(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let n = model.info().max_context.min(700);
    let tokens = tokens(&*model, n);
    let whole = last(&mut *session(&*model), &tokens);
    let mut grown = session(&*model);
    for part in tokens[..n - 3].chunks(61) {
        grown.append(part, LogitsRequest::None).unwrap();
    }
    for token in &tokens[n - 3..n - 1] {
        grown.append(&[*token], LogitsRequest::None).unwrap();
    }
    assert_close(fixture, &last(&mut *grown, &tokens[n - 1..]), &whole, "grown");
}

/// Tokens that do not fit are refused whole, and the session goes on as if they had not come.
pub fn full_context_leaves_the_cache_unchanged(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 10);
    let options = SessionOptions { context_length: Some(10), ..SessionOptions::default() };
    let mut full = model.new_session(&options).unwrap();
    assert_eq!(full.context_length(), 10);
    full.append(&tokens[..6], LogitsRequest::None).unwrap();
    let error = full.append(&tokens[..5], LogitsRequest::Last(1)).unwrap_err();
    assert!(matches!(error, Error::ContextFull { held: 6, asked: 5, max: 10 }), "{error}");
    assert_eq!(full.n_tokens(), 6);
    let whole = last(&mut *session(&*model), &tokens);
    assert_close(fixture, &last(&mut *full, &tokens[6..]), &whole, "after a refusal");
    assert!(matches!(full.append(&tokens[..1], LogitsRequest::Last(1)), Err(Error::ContextFull { held: 10, .. })));

    let too_long = SessionOptions { context_length: Some(model.info().max_context + 1), ..SessionOptions::default() };
    assert!(matches!(model.new_session(&too_long), Err(Error::InvalidOption { .. })), "more than the model was made for");
}

/// A token outside the vocabulary is an error that names it, and nothing is held of the call.
pub fn token_outside_the_vocabulary_leaves_the_cache_unchanged(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 5);
    let outside = model.info().vocab_size as TokenId;
    let mut session = session(&*model);
    session.append(&tokens[..3], LogitsRequest::None).unwrap();
    for bad in [outside, TokenId::MAX] {
        let error = session.append(&[tokens[3], bad], LogitsRequest::Last(1)).unwrap_err();
        assert!(matches!(error, Error::InvalidToken { token, .. } if token == bad), "{error}");
    }
    assert_eq!(session.n_tokens(), 3);
    let whole = last(&mut *super::cases::session(&*model), &tokens);
    assert_close(fixture, &last(&mut *session, &tokens[3..]), &whole, "after a bad token");
}

/// An append of no tokens is an error.
pub fn no_tokens_is_an_error(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    assert!(matches!(session(&*model).append(&[], LogitsRequest::Last(1)), Err(Error::EmptyPrompt)));
}

/// A cancelled append says so, holds nothing of the call, and the session works again after a reset.
pub fn cancelled_append_leaves_the_session_usable(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 12);
    let whole = last(&mut *session(&*model), &tokens);
    let cancel = CancelToken::new();
    let mut session = model.new_session(&SessionOptions { cancel: cancel.clone(), ..SessionOptions::default() }).unwrap();
    session.append(&tokens[..5], LogitsRequest::None).unwrap();
    cancel.cancel();
    assert!(matches!(session.append(&tokens[5..], LogitsRequest::Last(1)), Err(Error::Cancelled)));
    assert_eq!(session.n_tokens(), 5);
    cancel.reset();
    assert_close(fixture, &last(&mut *session, &tokens[5..]), &whole, "after a cancel");
}

/// The same calls give the same bits.
pub fn the_same_tokens_give_the_same_bits(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let tokens = tokens(&*model, 17);
    let runs: Vec<Vec<u32>> =
        (0..3).map(|_| last(&mut *session(&*model), &tokens).iter().map(|v| v.to_bits()).collect()).collect();
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
}

/// Sequences encoded together give what each gives alone, whatever their lengths and order.
pub fn batch_equals_single(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::HiddenStates]) else { return };
    let prompts: Vec<Vec<TokenId>> = [7, 1, 12, 3].iter().map(|&n| tokens(&*model, n)).collect();
    let reversed: Vec<Vec<TokenId>> = prompts.iter().rev().cloned().collect();
    for batch in [&prompts, &reversed] {
        let together = model.encode(&TokenBatch::new(batch).unwrap(), &CancelToken::new()).unwrap();
        let mut start = 0;
        for prompt in batch {
            let alone = model.encode(&TokenBatch::new(&[prompt]).unwrap(), &CancelToken::new()).unwrap();
            let end = start + prompt.len() * together.hidden_size;
            assert_close(fixture, &together.values[start..end], &alone.values, "in a batch");
            start = end;
        }
        assert_eq!(start, together.values.len());
    }
}

/// What is probed comes in the order of computation, has a row for each token, and ends in the logits of the model; what is not asked for
/// does not come.
pub fn probes_end_in_the_logits(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let Some(prober) = model.prober() else { return };
    let tokens = tokens(&*model, 13);
    let all = ProbePoint::all(model.info().n_layers);
    let probes = prober.probe(&tokens, &all).unwrap();
    let places: Vec<usize> = probes.iter().map(|probe| all.iter().position(|point| *point == probe.point).unwrap()).collect();
    assert!(places.is_sorted() && places.windows(2).all(|pair| pair[0] != pair[1]), "{places:?}");
    assert!(probes.iter().all(|probe| probe.width > 0 && probe.values.len() == probe.width * tokens.len()));
    let logits = probes.last().filter(|probe| probe.point.stage == Stage::Logits).expect("logits are always shown");
    assert_close(fixture, logits.row(tokens.len() - 1), &last(&mut *session(&*model), &tokens), "probed logits");
    let some = [probes[0].point, logits.point];
    let asked: Vec<ProbePoint> = prober.probe(&tokens, &some).unwrap().iter().map(|probe| probe.point).collect();
    assert_eq!(asked, some);
    assert!(matches!(prober.probe(&[], &all), Err(Error::EmptyPrompt)));
}

/// As [`probes_end_in_the_logits`], of a model that only encodes: the last value is what it gives for each token.
pub fn probes_of_an_encoder_end_in_its_states(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::HiddenStates]) else { return };
    let Some(prober) = model.prober().filter(|_| !model.info().capabilities.has(Capability::Generation)) else { return };
    let tokens = tokens(&*model, 13);
    let all = ProbePoint::all(model.info().n_layers);
    let probes = prober.probe(&tokens, &all).unwrap();
    let places: Vec<usize> = probes.iter().map(|probe| all.iter().position(|point| *point == probe.point).unwrap()).collect();
    assert!(places.is_sorted() && places.windows(2).all(|pair| pair[0] != pair[1]), "{places:?}");
    let states = model.encode(&TokenBatch::new(&[&tokens]).unwrap(), &CancelToken::new()).unwrap();
    let last = probes.last().unwrap();
    assert_close(fixture, &last.values, &states.values, "probed states");
    let asked: Vec<ProbePoint> = prober.probe(&tokens, &[last.point]).unwrap().iter().map(|probe| probe.point).collect();
    assert_eq!(asked, [last.point]);
    assert!(matches!(prober.probe(&[], &all), Err(Error::EmptyPrompt)));
}

/// `n` tokens of the model's vocabulary that differ from place to place.
pub(super) fn tokens(model: &dyn Model, n: usize) -> Vec<TokenId> {
    let vocab_size = model.info().vocab_size as u64;
    (0..n as u64).map(|i| ((i * 2_654_435_761 + 97) % vocab_size) as TokenId).collect()
}

pub(super) fn session(model: &dyn Model) -> Box<dyn Session> {
    model.new_session(&SessionOptions::default()).unwrap()
}

pub(super) fn last(session: &mut dyn Session, tokens: &[TokenId]) -> Vec<f32> {
    session.append(tokens, LogitsRequest::Last(1)).unwrap().last().unwrap().to_vec()
}

pub(super) fn assert_close(fixture: &Fixture, left: &[f32], right: &[f32], what: &str) {
    let difference = relative_difference(left, right);
    assert!(difference <= fixture.tolerance, "{what}: {difference:e} of the largest value, {:e} is allowed", fixture.tolerance);
}

/// The largest difference between two vectors, relative to the largest value of `right`. NaN anywhere is infinitely far.
pub(super) fn relative_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len(), "the shapes are equal");
    let scale = right.iter().fold(0.0_f32, |max, v| max.max(v.abs())).max(f32::MIN_POSITIVE);
    left.iter()
        .zip(right)
        .fold(0.0, |max: f32, (l, r)| if (l - r).is_nan() { f32::INFINITY } else { max.max((l - r).abs() / scale) })
}
