//! What several sessions do together: batches, forks, keys and values that move from one to another.

use half::f16;

use super::Fixture;
use super::cases::{assert_close, last, session, tokens};
use crate::backend::{
    Append, Capability, KvDType, KvShape, LoadOptions, Logits, LogitsRequest, SessionOptions, TokenBatch, TokenId,
};
use crate::cancel::CancelToken;
use crate::error::Error;
use crate::named::Named;

/// Ragged appends in one step, prompts and single tokens together, give what each session gives alone.
pub fn batched_appends_equal_single_appends(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let all_logits = model.info().capabilities.has(Capability::AllLogits);
    let plans = [
        (0, 7, LogitsRequest::Last(1)),
        (5, 1, LogitsRequest::Last(1)),
        (3, 4, LogitsRequest::None),
        (1, 12, LogitsRequest::All),
    ];
    let plans: Vec<_> = plans.into_iter().filter(|plan| all_logits || plan.2 != LogitsRequest::All).collect();
    let all = tokens(&*model, 20);
    let held = |n: usize| {
        let mut session = session(&*model);
        if n > 0 {
            session.append(&all[..n], LogitsRequest::None).unwrap();
        }
        session
    };
    let mut sessions: Vec<_> = plans.iter().map(|plan| held(plan.0)).collect();
    let mut logits = vec![Logits::default(); plans.len()];
    let mut appends: Vec<Append<'_>> = sessions
        .iter_mut()
        .zip(&mut logits)
        .zip(&plans)
        .map(|((session, logits), &(n, more, request))| Append::new(&mut **session, &all[n..n + more], request, logits))
        .collect();
    model.append_batch(&mut appends).into_iter().for_each(|result| result.unwrap());
    for ((session, logits), &(n, more, request)) in sessions.iter_mut().zip(&logits).zip(&plans) {
        let mut alone = held(n);
        let expected = alone.append(&all[n..n + more], request).unwrap();
        assert_eq!((logits.n_rows(), session.n_tokens()), (expected.n_rows(), n + more));
        if request != LogitsRequest::None {
            assert_close(fixture, logits.values(), expected.values(), "in a batch");
        }
        assert_close(fixture, &last(&mut **session, &all[..1]), &last(&mut *alone, &all[..1]), "after a batch");
    }
}

/// An append of a batch that is refused leaves its session and the other appends as they are.
pub fn refused_append_leaves_the_batch(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let all = tokens(&*model, 6);
    let (mut good, mut bad, mut other) = (session(&*model), session(&*model), session(&*fixture.load()));
    let outside = [model.info().vocab_size as TokenId];
    let mut logits = [Logits::default(), Logits::default(), Logits::default()];
    let [first, second, third] = &mut logits;
    let request = LogitsRequest::Last(1);
    let mut appends = [
        Append::new(&mut *bad, &outside, request, first),
        Append::new(&mut *good, &all, request, second),
        Append::new(&mut *other, &all, request, third),
    ];
    let results = model.append_batch(&mut appends);
    assert!(matches!(results[0], Err(Error::InvalidToken { .. })), "{:?}", results[0]);
    assert!(results[1].is_ok(), "{:?}", results[1]);
    assert!(matches!(results[2], Err(Error::InvalidOption { .. })), "a session of another model: {:?}", results[2]);
    assert_eq!((bad.n_tokens(), good.n_tokens(), other.n_tokens()), (0, 6, 0));
    assert_close(fixture, logits[1].values(), &last(&mut *session(&*model), &all), "beside refused ones");
}

/// Appends of a batch that fail, one because it was cancelled and one because its context is full, leave their sessions and the others as
/// they are.
pub fn failed_appends_leave_the_batch(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation]) else { return };
    let all = tokens(&*model, 9);
    let cancel = CancelToken::new();
    let of = |options: SessionOptions| {
        let mut session = model.new_session(&options).unwrap();
        session.append(&all[..3], LogitsRequest::None).unwrap();
        session
    };
    let mut cancelled = of(SessionOptions::new().with_cancel(cancel.clone()));
    let mut full = of(SessionOptions::new().with_context_length(5));
    let (mut first, mut second) = (session(&*model), of(SessionOptions::default()));
    let mut logits: [Logits; 4] = std::array::from_fn(|_| Logits::default());
    let (request, rest) = (LogitsRequest::Last(1), &all[3..]);
    cancel.cancel();
    let [a, b, c, d] = &mut logits;
    let mut appends = [
        Append::new(&mut *first, &all, request, a),
        Append::new(&mut *cancelled, rest, request, b),
        Append::new(&mut *full, rest, request, c),
        Append::new(&mut *second, &rest[..1], request, d),
    ];
    let results = model.append_batch(&mut appends);
    assert!(matches!(results[1], Err(Error::Cancelled)), "{:?}", results[1]);
    assert!(matches!(results[2], Err(Error::ContextFull { .. })), "{:?}", results[2]);
    assert!(results[0].is_ok() && results[3].is_ok(), "{results:?}");
    assert_eq!([first.n_tokens(), cancelled.n_tokens(), full.n_tokens(), second.n_tokens()], [9, 3, 3, 4]);
    let expected = last(&mut *session(&*model), &all);
    assert_close(fixture, logits[0].values(), &expected, "beside those that failed");
    assert_close(fixture, logits[3].values(), &last(&mut *session(&*model), &all[..4]), "a token beside those that failed");
    cancel.reset();
    assert_close(fixture, &last(&mut *cancelled, rest), &expected, "cancelled, and gone on with");
    assert_close(fixture, &last(&mut *full, &rest[..2]), &last(&mut *session(&*model), &all[..5]), "full, and gone on with");
}

/// The last rows are those of all rows.
pub fn last_rows_equal_those_of_all(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::AllLogits]) else { return };
    let prompt = tokens(&*model, 9);
    let all = session(&*model).append(&prompt, LogitsRequest::All).unwrap();
    for n in [1, 2, 5, 9, 100] {
        let rows = session(&*model).append(&prompt, LogitsRequest::Last(n)).unwrap();
        assert_eq!(rows.n_rows(), n.min(9));
        for i in 0..rows.n_rows() {
            assert_close(fixture, rows.row(i), all.row(9 - rows.n_rows() + i), &format!("row {i} of the last {n}"));
        }
    }
}

/// A fork goes on as a session that was given the same tokens, and neither sees the other.
pub fn fork_equals_fresh(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::Fork]) else { return };
    let all = tokens(&*model, 12);
    let fresh = |tokens: &[TokenId]| last(&mut *session(&*model), tokens);
    let mut original = session(&*model);
    original.append(&all[..8], LogitsRequest::None).unwrap();
    for n in [0, 1, 5, 8] {
        let mut fork = original.fork(n, &SessionOptions::default()).unwrap();
        assert_eq!(fork.n_tokens(), n);
        assert_close(fixture, &last(&mut *fork, &all[n..]), &fresh(&all), &format!("forked at {n}"));
    }
    assert_close(fixture, &last(&mut *original, &all[8..]), &fresh(&all), "the session that was forked");
    assert!(matches!(original.fork(13, &SessionOptions::default()), Err(Error::InvalidOption { .. })));
    let small = SessionOptions { context_length: Some(4), ..SessionOptions::default() };
    assert!(matches!(original.fork(5, &small), Err(Error::ContextFull { .. })));
}

/// Keys and values that another session computed continue a session as its own, whole or block by block.
pub fn imported_keys_and_values_equal_computed_ones(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::KvTransfer]) else { return };
    let all = tokens(&*model, 12);
    let mut original = session(&*model);
    original.append(&all[..9], LogitsRequest::None).unwrap();
    let expected = last(&mut *session(&*model), &all);
    for ends in [&[9][..], &[4, 5, 9]] {
        let mut restored = session(&*model);
        for &end in ends {
            restored.import_kv(&original.export_kv(restored.n_tokens()..end).unwrap()).unwrap();
        }
        assert_eq!(restored.n_tokens(), 9);
        assert_close(fixture, &last(&mut *restored, &all[9..]), &expected, "restored");
    }
    let mut state = original.export_kv(3..9).unwrap();
    assert!(matches!(session(&*model).import_kv(&state), Err(Error::InvalidOption { .. })), "a beginning is missing");
    (state.first_position, state.data) = (0, Vec::new());
    assert!(matches!(session(&*model).import_kv(&state), Err(Error::InvalidOption { .. })), "values are missing");
    assert!(matches!(original.export_kv(3..10), Err(Error::InvalidOption { .. })), "positions that are not held");
    let mut other = original.export_kv(0..9).unwrap();
    let KvShape { n_layers, kv_heads, head_dim } = other.shape;
    other.shape = KvShape { n_layers: head_dim, kv_heads, head_dim: n_layers };
    if n_layers != head_dim {
        assert!(matches!(session(&*model).import_kv(&other), Err(Error::InvalidOption { .. })), "another model's");
    }
}

/// What a session exports is what it holds, to the bit. A session whose cache is of another dtype imports it, rounded as its own keys and values
/// are, and refuses what its dtype cannot hold.
pub fn keys_and_values_move_between_dtypes(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::KvTransfer]) else { return };
    let all = tokens(&*model, 9);
    let load = |dtype: KvDType| {
        let options = LoadOptions { kv_dtype: Some(dtype), ..fixture.options.clone() };
        Some((dtype, fixture.backend.load(&fixture.files, &options).ok()?))
    };
    let models: Vec<_> = KvDType::ALL.iter().filter_map(|dtype| load(*dtype)).collect();
    for ((from, source), (to, target)) in models.iter().flat_map(|from| models.iter().map(move |to| (from, to))) {
        let mut original = session(&**source);
        original.append(&all[..6], LogitsRequest::None).unwrap();
        let state = original.export_kv(0..6).unwrap();
        assert_eq!(state.dtype, from.dtype());
        let mut restored = session(&**target);
        restored.import_kv(&state).unwrap();
        let held = restored.export_kv(0..6).unwrap();
        let rounded = |value: f32| if *to == KvDType::F16 { f16::from_f32(value).to_f32() } else { value };
        let is_held = state.data.iter().zip(&held.data).all(|(given, held)| rounded(*given).to_bits() == held.to_bits());
        assert!(is_held && held.data.len() == state.data.len(), "from {from} to {to}");
        restored.append(&all[6..], LogitsRequest::Last(1)).unwrap();
        if *to == KvDType::F16 {
            let mut large = state.clone();
            (large.first_position, large.data[1]) = (9, -1e5);
            let refused = restored.import_kv(&large);
            assert!(matches!(refused, Err(Error::BadKv { value: 1e5, dtype: KvDType::F16 })), "{refused:?}");
            assert_eq!(restored.n_tokens(), 9);
            restored.append(&all[..1], LogitsRequest::Last(1)).unwrap();
        }
    }
}

/// A cancelled encoding says so.
pub fn cancelled_encode_is_an_error(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::HiddenStates]) else { return };
    let cancel = CancelToken::new();
    cancel.cancel();
    let batch = TokenBatch::new(&[tokens(&*model, 5)]).unwrap();
    assert!(matches!(model.encode(&batch, &cancel), Err(Error::Cancelled)));
}

/// Type 0 is what a token has without types; others are the model's or refused, and so is a list of another length.
pub fn token_types_are_those_of_the_model(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::HiddenStates]) else { return };
    let batch = TokenBatch::new(&[tokens(&*model, 5), tokens(&*model, 3)]).unwrap();
    let encode = |types: Vec<u32>| model.encode(&batch.clone().with_types(types), &CancelToken::new());
    let plain = model.encode(&batch, &CancelToken::new()).unwrap();
    assert_eq!(encode(vec![0; 8]).unwrap(), plain);
    let n_types = u32::try_from(model.info().n_token_types.max(1)).unwrap();
    assert!(matches!(encode(vec![0; 7]), Err(Error::InvalidOption { .. })));
    assert!(matches!(encode(vec![0, 0, 0, 0, n_types, 0, 0, 0]), Err(Error::InvalidOption { .. })));
    if n_types > 1 {
        let second = encode(vec![0, 0, 0, 0, 0, 0, 0, n_types - 1]).unwrap();
        let first = 5 * plain.hidden_size;
        assert_eq!(second.values[..first], plain.values[..first], "the other sequence is unchanged");
        assert_ne!(second.values[first..], plain.values[first..]);
    }
}

/// A row for each sequence, which is what the sequence has alone.
pub fn pooled_rows_equal_those_of_each_alone(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::PooledOutput]) else { return };
    let sequences = [tokens(&*model, 7), tokens(&*model, 2), tokens(&*model, 7).into_iter().rev().collect()];
    let encode =
        |sequences: &[Vec<TokenId>]| model.encode_pooled(&TokenBatch::new(sequences).unwrap(), &CancelToken::new()).unwrap();
    let together = encode(&sequences);
    let alone = sequences.iter().flat_map(|sequence| encode(std::slice::from_ref(sequence)).values);
    assert_eq!(together.values, alone.collect::<Vec<_>>());
    assert_eq!(together.values.len(), 3 * together.width);
    let cancel = CancelToken::new();
    cancel.cancel();
    assert!(matches!(model.encode_pooled(&TokenBatch::new(&sequences).unwrap(), &cancel), Err(Error::Cancelled)));
}
