//! What adapters do to a model, in every dtype and on every engine.

use super::Fixture;
use super::adapters::{Lora, concatenated, modules, scaled, write_merged};
use super::cases::{assert_close, last, relative_difference, session, tokens};
use crate::adapter::{Adapter, LowRankFactors, ScaledAdapter};
use crate::backend::{
    Append, AppliedAdapter, BackendKind, Capability, DType, HiddenStates, Logits, LogitsRequest, Model, Numerics, TokenBatch,
    TokenId,
};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::files::ModelFiles;

/// How far a merged model may be from the adapter at run time, in f32, relative to the largest logit.
const MERGED: f32 = 1e-4;

/// How far another order of sums may lead, relative to the largest value.
const ORDER: f32 = 2e-5;

/// The same where activations are rounded to 8 bits: another order of sums in an adapter's products, which are not rounded, can send one
/// activation to the next of its 255 values. On a golden of 64 columns that was 4.2e-5 of the largest logit.
const ORDER_OF_ROUNDED: f32 = 2e-4;

/// No adapter, one of zeros, and one that is applied to no extent are the model itself, to the bit.
pub fn zero_adapter_is_the_identity(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Adapters]) else { return };
    let modules = modules(fixture, &*model);
    let plain = outputs(&*model);
    let some = Lora { seed: 1, ..Lora::default() }.adapter(&modules);
    let lengths = Lora { seed: 1, magnitudes: true, ..Lora::default() }.adapter(&modules);
    let zeros = Lora { zeros: true, ..Lora::default() }.adapter(&modules);
    for adapters in [vec![], vec![scaled(&zeros, 1.0)], vec![scaled(&some, 0.0), scaled(&lengths, 0.0)]] {
        assert_eq!(outputs(&*model.with_adapters(&adapters).unwrap()), plain);
    }
    assert_ne!(outputs(&*model.with_adapters(&[scaled(&some, 1.0)]).unwrap()), plain);
    let endless = model.with_adapters(&[scaled(&some, f32::NAN)]);
    assert!(matches!(endless, Err(Error::InvalidOption { .. })));
}

/// Two adapters are one whose factors stand side by side, whatever their scales; one and its opposite are nothing.
pub fn adapters_add_up(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Adapters]) else { return };
    let modules = modules(fixture, &*model);
    let first = Lora { seed: 1, ..Lora::default() }.adapter(&modules);
    // The second leaves some modules of a packed projection as they are.
    let second = Lora { seed: 2, every: 2, ..Lora::default() }.adapter(&modules);
    let of = |adapters: &[ScaledAdapter]| outputs(&*model.with_adapters(adapters).unwrap());
    let both = of(&[scaled(&first, 1.0), scaled(&second, 1.0)]);
    assert_eq!(both, of(&[scaled(&concatenated(&first, &second), 1.0)]));
    assert_ne!(both, of(&[scaled(&first, 1.0)]));
    assert_ne!(both, of(&[scaled(&second, 1.0)]));
    if model.info().backend == BackendKind::Fake {
        return; // Its outputs are hashes.
    }
    let close = |left: &[f32], right: &[f32], what: &str| {
        let (difference, allowed) = (relative_difference(left, right), fixture.tolerance.max(ORDER));
        assert!(difference <= allowed, "{what}: {difference:e} of the largest value, {allowed:e} is allowed");
    };
    let halves = of(&[scaled(&first, 0.5), scaled(&second, 1.0), scaled(&first, 0.5)]);
    close(&halves, &both, "an adapter in two halves");
    let opposite = of(&[scaled(&first, 1.0), scaled(&first, -1.0)]);
    close(&opposite, &outputs(&*model), "an adapter and its opposite");
}

/// A model with adapters leads to one with others, and back to the model itself, to the bit; each says what is applied to it.
pub fn switching_adapters_restores_the_base(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Adapters]) else { return };
    let modules = modules(fixture, &*model);
    let plain = outputs(&*model);
    let first = Lora { seed: 1, ..Lora::default() }.adapter(&modules);
    let second = Lora { seed: 2, magnitudes: true, ..Lora::default() }.adapter(&modules);
    let with_first = model.with_adapters(&[scaled(&first, 1.0)]).unwrap();
    let expected = outputs(&*with_first);
    let with_second = with_first.with_adapters(&[scaled(&second, 0.5)]).unwrap();
    assert_eq!(outputs(&*with_second), outputs(&*model.with_adapters(&[scaled(&second, 0.5)]).unwrap()));
    assert_eq!(outputs(&*with_second.with_adapters(&[scaled(&first, 1.0)]).unwrap()), expected);
    let without = with_second.with_adapters(&[]).unwrap();
    assert_eq!(outputs(&*without), plain);
    assert_eq!(outputs(&*model), plain);
    let applied = |model: &dyn Model| model.info().adapters.clone();
    assert_eq!(applied(&*with_second), [AppliedAdapter { name: "adapter 2".into(), scale: 0.5, ..AppliedAdapter::default() }]);
    assert_eq!((applied(&*model), applied(&*without)), (Vec::new(), Vec::new()));
    // An engine may compute the products with an adapter's factors in another way.
    let abilities = |model: &dyn Model| {
        let abilities = model.info().capabilities.iter();
        abilities.filter(|ability| *ability != Capability::PromptParts).collect::<Vec<_>>()
    };
    assert_eq!(abilities(&*model), abilities(&*with_first));
    drop((model, with_second, without));
    assert_eq!(outputs(&*with_first), expected, "it needs no other handle");
}

/// Prompts, their parts and single tokens go through the same weights.
pub fn adapted_prefill_equals_stepwise(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::Adapters]) else { return };
    let modules = modules(fixture, &*model);
    let all = tokens(&*model, 70);
    let is_rounded = fixture.options.numerics == Numerics::Fast && matches!(model.info().dtype, DType::Int8 | DType::Int4);
    let allowed = if is_rounded { fixture.tolerance.max(ORDER_OF_ROUNDED) } else { fixture.tolerance };
    for magnitudes in [false, true] {
        let adapter = Lora { seed: 3, magnitudes, ..Lora::default() }.adapter(&modules);
        let adapted = model.with_adapters(&[scaled(&adapter, 1.0)]).unwrap();
        let whole = last(&mut *session(&*adapted), &all);
        let mut stepwise = session(&*adapted);
        for parts in [&[12, 3, 1, 1, 20, 8, 1, 9, 14][..], &[1; 70], &[70]] {
            stepwise.rewind(0).unwrap();
            let mut rest = &all[..];
            let mut logits = Vec::new();
            for &n in parts {
                logits = last(&mut *stepwise, &rest[..n]);
                rest = &rest[n..];
            }
            if rest.is_empty() {
                let difference = relative_difference(&logits, &whole);
                assert!(difference <= allowed, "magnitudes: {magnitudes}, in parts of {parts:?}: {difference:e}");
            }
        }
    }
}

/// Sessions of a model and of it with adapters take turns, and each gets what it would get alone.
pub fn adapted_sessions_run_beside_those_of_the_base(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::Adapters]) else { return };
    let modules = modules(fixture, &*model);
    let adapter = |seed| Lora { seed, ..Lora::default() }.adapter(&modules);
    let adapted: Vec<_> = (1..3).map(|seed| model.with_adapters(&[scaled(&adapter(seed), 1.0)]).unwrap()).collect();
    let models: [&dyn Model; 3] = [&*model, &*adapted[0], &*adapted[1]];
    let all = tokens(&*model, 12);
    let mut sessions = models.map(session);
    for session in &mut sessions {
        session.append(&all[..4], LogitsRequest::None).unwrap();
    }
    for token in &all[4..11] {
        for session in &mut sessions {
            session.append(&[*token], LogitsRequest::None).unwrap();
        }
    }
    let ends = sessions.each_mut().map(|session| last(&mut **session, &all[11..]));
    for (end, model) in ends.iter().zip(models) {
        let mut alone = session(model);
        alone.append(&all[..4], LogitsRequest::None).unwrap();
        let alone = all[4..].iter().map(|token| last(&mut *alone, &[*token])).last().unwrap();
        assert_eq!(*end, alone);
    }
    assert!(ends[0] != ends[1] && ends[1] != ends[2], "the adapters differ");
    // A batch takes sessions of one model.
    let [plain, other, _] = &mut sessions;
    let mut logits = [Logits::default(), Logits::default()];
    let [first, second] = &mut logits;
    let request = LogitsRequest::Last(1);
    let mut appends =
        [Append::new(&mut **plain, &all[..1], request, first), Append::new(&mut **other, &all[..1], request, second)];
    let results = model.append_batch(&mut appends);
    assert!(results[0].is_ok() && matches!(results[1], Err(Error::InvalidOption { .. })), "{results:?}");
}

/// In f32, an adapter that is applied while running is what it is when merged into the checkpoint: `W + s B A`, and with magnitudes `m`
/// each row of that scaled to the length `m`.
pub fn applied_adapter_equals_the_merged_one(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Generation, Capability::Adapters]) else { return };
    let Some(golden) = fixture.golden.as_ref().filter(|_| model.info().dtype == DType::F32) else { return };
    let modules = modules(fixture, &*model);
    let prompt = tokens(&*model, 40);
    let plain = rows(&*model, &prompt);
    for magnitudes in [false, true] {
        let adapter = Lora { seed: 5, magnitudes, ..Lora::default() }.adapter(&modules);
        let directory = tempfile::tempdir().unwrap();
        write_merged(&golden.directory, &adapter, directory.path());
        let mut options = fixture.options.clone().with_dtype(Some(DType::F32));
        options.onnx.graph = None;
        let files = ModelFiles::discover(directory.path(), "merged").unwrap();
        let merged = fixture.backend.load(&files, &options).unwrap_or_else(|error| panic!("{}", super::describe(&error)));
        let adapted = model.with_adapters(&[scaled(&adapter, 1.0)]).unwrap();
        let (merged, applied) = (rows(&*merged, &prompt), rows(&*adapted, &prompt));
        let difference = relative_difference(&applied, &merged);
        // A rounded cache rounds the two computations either way.
        let has_rounded_cache = model.info().kv_dtype == Some(DType::F16);
        let allowed = if has_rounded_cache { MERGED.max(fixture.tolerance) } else { MERGED };
        assert!(difference <= allowed, "magnitudes: {magnitudes}: {difference:e} of the largest, {allowed:e} is allowed");
        assert!(relative_difference(&plain, &merged) > 100.0 * MERGED, "the adapter changes something");
    }
}

/// A module that the model lacks and factors of another shape are errors that name them, and the model stays as it is.
pub fn adapters_that_do_not_fit_are_errors(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::Adapters]) else { return };
    let modules = modules(fixture, &*model);
    let plain = outputs(&*model);
    let (name, [n_outputs, n_inputs]) = modules.iter().find(|(name, _)| name.contains("layers.0.")).unwrap().clone();
    let factors = |module: &str, n_outputs: usize, n_inputs: usize| LowRankFactors {
        module: module.into(),
        a: vec![0.5; 2 * n_inputs],
        b: vec![0.5; 2 * n_outputs],
        rank: 2,
        scale: 1.0,
        magnitude: None,
    };
    let fits = || factors(&name, n_outputs, n_inputs);
    let apply = |factors: Vec<LowRankFactors>| -> Result<()> {
        model.with_adapters(&[scaled(&Adapter::new("mine", factors).unwrap(), 1.0)]).map(|_| ())
    };
    let missing = name.replace("layers.0.", "layers.999.");
    for bad in [
        vec![fits(), factors(&missing, n_outputs, n_inputs)],
        vec![fits(), factors("model.layers.0.self_attn.z_proj", n_outputs, n_inputs)],
        vec![factors(&name, n_outputs + 1, n_inputs)],
        vec![factors(&name, n_outputs, n_inputs - 1)],
        vec![factors(&name, 2 * n_outputs, 2 * n_inputs)],
    ] {
        let module = bad.last().unwrap().module.rsplit('.').next().unwrap().to_owned();
        match apply(bad) {
            Err(Error::BadField { file, field, .. }) => assert!(file == "mine" && field.ends_with(&module), "{file}: {field}"),
            other => panic!("`{module}`: {other:?}"),
        }
    }
    assert_eq!(outputs(&*model), plain);
    apply(vec![fits()]).unwrap();
}

/// Hidden states with an adapter do not depend on the batch either.
pub fn adapted_hidden_states_equal_those_of_each_alone(fixture: &Fixture) {
    let Some(model) = fixture.load_with(&[Capability::HiddenStates, Capability::Adapters]) else { return };
    let modules = modules(fixture, &*model);
    let sequences = [tokens(&*model, 7), tokens(&*model, 1), tokens(&*model, 40), tokens(&*model, 7).into_iter().rev().collect()];
    let plain = encode(&*model, &sequences).values;
    for magnitudes in [false, true] {
        let adapter = Lora { seed: 4, magnitudes, ..Lora::default() }.adapter(&modules);
        let adapted = model.with_adapters(&[scaled(&adapter, 1.0)]).unwrap();
        let together = encode(&*adapted, &sequences).values;
        let alone: Vec<f32> =
            sequences.iter().flat_map(|sequence| encode(&*adapted, std::slice::from_ref(sequence)).values).collect();
        assert_close(fixture, &together, &alone, "in a batch");
        assert_ne!(together, plain);
    }
}

/// What a model gives for some tokens, whichever of its abilities it has.
fn outputs(model: &dyn Model) -> Vec<f32> {
    let all = tokens(model, 8);
    if model.info().capabilities.has(Capability::Generation) {
        let mut session = session(model);
        // A prompt, and a token alone.
        [last(&mut *session, &all[..7]), last(&mut *session, &all[7..])].concat()
    } else if model.info().capabilities.has(Capability::HiddenStates) {
        encode(model, &[all]).values
    } else {
        model.encode_pooled(&TokenBatch::new(&[all]).unwrap(), &CancelToken::new()).unwrap().values
    }
}

/// The logits after the tokens from the fifth on, those of the last few decoded one at a time.
fn rows(model: &dyn Model, tokens: &[TokenId]) -> Vec<f32> {
    let mut session = session(model);
    let (prompt, rest) = tokens.split_at(tokens.len() - 5);
    let mut rows = last(&mut *session, prompt);
    rest.iter().for_each(|token| rows.extend(last(&mut *session, &[*token])));
    rows
}

fn encode(model: &dyn Model, sequences: &[Vec<TokenId>]) -> HiddenStates {
    model.encode(&TokenBatch::new(sequences).unwrap(), &CancelToken::new()).unwrap()
}
