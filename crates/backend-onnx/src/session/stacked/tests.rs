//! Sessions that decode share one run of the engine's own kernels, which is counted.

use std::path::{Path, PathBuf};

use tandem_core::backend::{Append, Backend, Kernels};
use tandem_core::conformance::{adapter_of_two_modules, describe, session_of, text, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{CancelToken, DType, LoadOptions, Logits, LogitsRequest, Model, OnnxOptions, Session, SessionOptions, TokenId};

use super::*;
use crate::run::tests::n_runs;
use crate::{OnnxBackend, library};

/// Products of several rows may sum in another order than those of one.
const TOLERANCE: f32 = 2e-5;

const LAST: LogitsRequest = LogitsRequest::Last(1);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

fn with_engine(test: fn()) {
    with_fixture(|| library::find(None).map_err(|error| describe(&error)), |_| test());
}

/// The golden `name` with this of its graphs, or one that is built in `dtype`.
fn load_with(name: &str, dtype: Option<DType>, graph: Option<&str>, kernels: Kernels) -> Arc<dyn Model> {
    let graph = graph.map(|graph| golden(name).join("onnx").join(graph));
    let onnx = OnnxOptions::new().with_graph(graph).with_kernels(kernels);
    let options = LoadOptions::new().with_dtype(dtype).with_onnx(onnx);
    let files = ModelFiles::discover(&golden(name), name).unwrap();
    OnnxBackend::new(None).load(&files, &options).unwrap_or_else(|error| panic!("{name}: {}", describe(&error)))
}

fn load(name: &str, dtype: DType) -> Arc<dyn Model> {
    load_with(name, Some(dtype), None, Kernels::Runtime)
}

/// A sequence, and the same that is always alone.
struct Pair {
    shared: Box<dyn Session>,
    alone: Box<dyn Session>,
    next: TokenId,
}

impl Pair {
    fn new(model: &dyn Model, n: usize, seed: usize) -> Self {
        let all = text(n, seed);
        Self { shared: session_of(model, &all), alone: session_of(model, &all), next: seed as TokenId }
    }

    fn append(&mut self, tokens: &[TokenId]) {
        self.shared.append(tokens, LogitsRequest::None).unwrap();
        self.alone.append(tokens, LogitsRequest::None).unwrap();
    }
}

/// Appends a token to each of `pairs` in a batch, which is so many runs, and checks that each gets what it gets alone. The most likely token is the next
/// of each.
#[track_caller]
fn step(model: &dyn Model, pairs: &mut [Pair], expected_runs: usize) {
    let tokens: Vec<[TokenId; 1]> = pairs.iter().map(|pair| [pair.next]).collect();
    let rows = pairs.iter_mut().zip(&tokens).map(|(pair, tokens)| (&mut pair.shared, &tokens[..], LAST));
    let (results, logits, n) = append_together(model, rows);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(n, expected_runs);
    for (pair, logits) in pairs.iter_mut().zip(&logits) {
        let expected = pair.alone.append(&[pair.next], LAST).unwrap();
        assert_eq!(pair.shared.n_tokens(), pair.alone.n_tokens());
        assert_close(logits, &expected);
        pair.next = most_likely(&expected);
        assert_eq!(most_likely(logits), pair.next);
    }
}

/// Appends tokens to each session of `rows` in a batch: the results, the logits, and the number of runs.
fn append_together<'s>(
    model: &dyn Model,
    rows: impl IntoIterator<Item = (&'s mut Box<dyn Session>, &'s [TokenId], LogitsRequest)>,
) -> (Vec<tandem_core::Result<()>>, Vec<Logits>, usize) {
    let mut rows: Vec<_> = rows.into_iter().map(|row| (row, Logits::default())).collect();
    let appends = rows.iter_mut();
    let appends = appends.map(|((session, tokens, request), logits)| Append::new(&mut ***session, tokens, *request, logits));
    let mut appends: Vec<Append<'_>> = appends.collect();
    let mut results = Vec::new();
    let n = n_runs(|| results = model.append_batch(&mut appends));
    (results, rows.into_iter().map(|(_, logits)| logits).collect(), n)
}

#[track_caller]
fn assert_close(logits: &Logits, expected: &Logits) {
    assert_eq!(logits.values().len(), expected.values().len());
    let difference = logits.values().iter().zip(expected.values()).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(difference <= TOLERANCE, "{difference}");
}

fn most_likely(logits: &Logits) -> TokenId {
    let row = logits.values().iter().enumerate();
    row.max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as TokenId
}

#[test]
fn a_token_of_each_is_one_run_where_all_kernels_are_the_engines() {
    with_engine(|| {
        let built = |name, dtype| (name, Some(dtype), None, Kernels::Runtime, 1);
        let published = |name, graph, n_runs| (name, None, Some(graph), Kernels::Runtime, n_runs);
        for (name, dtype, graph, kernels, n_runs) in [
            built("qwen2-tied", DType::F32),
            built("qwen3", DType::Int4),
            built("mistral-window", DType::Int4),
            built("llama3-rope", DType::Int8),
            published("qwen2-untied", "genai_f32/model.onnx", 1),
            published("qwen3", "genai_int4/model.onnx", 1),
            published("onnx-community", "model.onnx", 1),
            published("onnx-community", "model_q4.onnx", 1),
            // One scale of rounded inputs is for all rows.
            published("onnx-community", "model_int8.onnx", 4),
            // Its attention consists of other operators.
            published("qwen3", "optimum_f32/model.onnx", 4),
            // It rotates by positions that the graph computes of the mask.
            ("llama-head24", Some(DType::F32), None, Kernels::Runtime, 4),
            // Ours attends to each session for itself.
            ("qwen3", Some(DType::F32), None, Kernels::Tandem, 1),
        ] {
            let model = load_with(name, dtype, graph, kernels);
            let lengths = [9, 0, 40, 2];
            let mut pairs: Vec<Pair> = lengths.iter().enumerate().map(|(i, n)| Pair::new(&*model, *n, i)).collect();
            for _ in 0..12 {
                step(&*model, &mut pairs, n_runs);
            }
        }
    });
}

#[test]
fn sessions_join_grow_and_leave() {
    with_engine(|| {
        for dtype in [DType::F32, DType::Int4] {
            let model = load("qwen2-untied", dtype);
            let mut pairs: Vec<Pair> = (0..3).map(|i| Pair::new(&*model, 5 + 7 * i, i)).collect();
            step(&*model, &mut pairs, 1);
            pairs.push(Pair::new(&*model, 120, 5));
            step(&*model, &mut pairs, 1);
            drop(pairs.remove(1));
            step(&*model, &mut pairs, 1);
            // A prompt, on its slot and then on one of its own.
            let n = pairs[0].shared.n_tokens();
            pairs[0].append(&text(30, 8));
            step(&*model, &mut pairs, 1);
            pairs[0].append(&text(model.info().max_context - n - 40, 9));
            for _ in 0..3 {
                step(&*model, &mut pairs, 1);
            }
            pairs.truncate(1);
            step(&*model, &mut pairs, 1);
            pairs.push(Pair::new(&*model, 3, 6));
            step(&*model, &mut pairs, 1);
        }
    });
}

#[test]
fn a_session_that_shared_runs_rewinds_forks_and_moves() {
    with_engine(|| {
        let model = load("qwen3", DType::F32);
        let mut pairs: Vec<Pair> = (0..4).map(|i| Pair::new(&*model, 12 + i, i)).collect();
        step(&*model, &mut pairs, 1);
        let Pair { shared, alone, .. } = &mut pairs[1];
        for session in [shared, alone] {
            session.rewind(4).unwrap();
        }
        step(&*model, &mut pairs, 1);
        let fork = |session: &dyn Session| session.fork(9, &SessionOptions::default()).unwrap();
        let forked = Pair { shared: fork(&*pairs[2].shared), alone: fork(&*pairs[2].alone), next: 11 };
        pairs.push(forked);
        step(&*model, &mut pairs, 1);
        let (state, expected) = (pairs[3].shared.export_kv(2..14).unwrap(), pairs[3].alone.export_kv(2..14).unwrap());
        let difference = state.data.iter().zip(&expected.data).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(difference <= TOLERANCE && state.data.len() == expected.data.len(), "{difference}");
        let Pair { shared, alone, .. } = &mut pairs[0];
        for session in [shared, alone] {
            session.rewind(2).unwrap();
            session.import_kv(&expected).unwrap();
        }
        step(&*model, &mut pairs, 1);
        step(&*model, &mut pairs, 1);
    });
}

#[test]
fn prompts_run_alone_beside_tokens_that_share_a_run() {
    with_engine(|| {
        let model = load("qwen2-tied", DType::Int4);
        let mut pairs: Vec<Pair> = (0..5).map(|i| Pair::new(&*model, 3 + i, i)).collect();
        let tokens = [text(1, 1), text(20, 2), text(1, 3), text(1, 4), text(2, 5)];
        let requests = [LAST, LogitsRequest::All, LogitsRequest::None, LAST, LAST];
        let rows = pairs.iter_mut().zip(tokens.iter().zip(requests));
        let rows = rows.map(|(pair, (tokens, request))| (&mut pair.shared, &tokens[..], request));
        let (results, logits, n) = append_together(&*model, rows);
        assert!(results.iter().all(Result::is_ok) && n == 3, "{n} runs: {results:?}");
        for ((pair, logits), (tokens, request)) in pairs.iter_mut().zip(&logits).zip(tokens.iter().zip(requests)) {
            let expected = pair.alone.append(tokens, request).unwrap();
            assert_eq!(logits.n_rows(), expected.n_rows());
            assert_close(logits, &expected);
        }
        step(&*model, &mut pairs, 1);
    });
}

/// As [`append_together`], one of `tokens` to each of `sessions`.
fn batch(
    model: &dyn Model,
    sessions: &mut [Box<dyn Session>],
    tokens: &[TokenId],
) -> (Vec<tandem_core::Result<()>>, Vec<Logits>, usize) {
    append_together(model, sessions.iter_mut().zip(tokens.chunks(1)).map(|(session, tokens)| (session, tokens, LAST)))
}

#[test]
fn one_that_is_cancelled_leaves_the_others() {
    with_engine(|| {
        let model = load("qwen2-tied", DType::F32);
        let cancel = CancelToken::new();
        let mut sessions: Vec<_> = (0..3).map(|i| session_of(&*model, &text(6, i))).collect();
        sessions[1] = model.new_session(&SessionOptions::new().with_cancel(cancel.clone())).unwrap();
        sessions[1].append(&text(6, 1), LogitsRequest::None).unwrap();
        let (results, _, n) = batch(&*model, &mut sessions, &[1, 2, 3]);
        assert!(results.iter().all(Result::is_ok) && n == 1, "{results:?}");
        cancel.cancel();
        let (results, logits, n) = batch(&*model, &mut sessions, &[4, 5, 6]);
        assert!(matches!(results[1], Err(Error::Cancelled)) && results[0].is_ok() && results[2].is_ok(), "{results:?}");
        assert_eq!((n, sessions.iter().map(|session| session.n_tokens()).collect::<Vec<_>>()), (1, vec![8, 7, 8]));
        let alone = |seed, after: &[TokenId]| session_of(&*model, &text(6, seed)).append(after, LAST).unwrap();
        assert_close(&logits[2], &alone(2, &[3, 6]));
        cancel.reset();
        let (results, logits, n) = batch(&*model, &mut sessions, &[7, 8, 9]);
        assert!(results.iter().all(Result::is_ok) && n == 1, "{results:?}");
        assert_close(&logits[1], &alone(1, &[2, 8]));
        assert_close(&logits[0], &alone(0, &[1, 4, 7]));
    });
}

#[test]
fn an_error_of_one_row_is_not_that_of_the_others() {
    with_engine(|| {
        let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
        let options = LoadOptions::new().with_onnx(OnnxOptions::new().with_kernels(Kernels::Runtime));
        // Without the checks before the engine, so that the run fails.
        let model = OnnxBackend::new(None).open(&files, &options).unwrap().load_unchecked().unwrap();
        let outside = model.info().vocab_size as TokenId + 5;
        let mut sessions: Vec<_> = (0..3).map(|i| session_of(&*model, &text(6, i))).collect();
        let (results, logits, n) = batch(&*model, &mut sessions, &[1, outside, 3]);
        assert!(results[1].is_err() && results[0].is_ok() && results[2].is_ok(), "{results:?}");
        assert_eq!((n, sessions.iter().map(|session| session.n_tokens()).collect::<Vec<_>>()), (4, vec![7, 6, 7]));
        let alone = |seed, after: &[TokenId]| session_of(&*model, &text(6, seed)).append(after, LAST).unwrap();
        assert_close(&logits[0], &alone(0, &[1]));
        assert_close(&logits[2], &alone(2, &[3]));
        let (results, logits, n) = batch(&*model, &mut sessions, &[4, 5, 6]);
        assert!(results.iter().all(Result::is_ok) && n == 1, "{results:?}");
        assert_close(&logits[1], &alone(1, &[5]));
        assert_close(&logits[2], &alone(2, &[3, 6]));
    });
}

#[test]
fn sessions_of_other_models_and_with_factors_are_no_part_of_a_run() {
    with_engine(|| {
        let (model, other) = (load("qwen2-untied", DType::F32), load("qwen2-untied", DType::F32));
        let mut sessions: Vec<_> = (0..3).map(|i| session_of(&*model, &text(6, i))).collect();
        sessions[1] = session_of(&*other, &text(6, 1));
        let (results, _, n) = batch(&*model, &mut sessions, &[1, 2, 3]);
        assert!(
            matches!(results[1], Err(Error::InvalidOption { .. })) && results[0].is_ok() && results[2].is_ok(),
            "{results:?}"
        );
        assert_eq!((n, sessions[1].n_tokens()), (1, 6));

        let config = ModelFiles::discover(&golden("qwen2-untied"), "model").unwrap().model_config().unwrap();
        let adapter = tandem_core::adapter::ScaledAdapter::new(adapter_of_two_modules(&config));
        let adapted = model.with_adapters(&[adapter]).unwrap();
        let mut pairs: Vec<Pair> = (0..3).map(|i| Pair::new(&*adapted, 5, i)).collect();
        step(&*adapted, &mut pairs, 3);
    });
}

#[test]
fn sessions_of_one_slab_run_at_the_same_time() {
    with_engine(|| {
        let model = load("qwen2-tied", DType::F32);
        let mut pairs: Vec<Pair> = (0..6).map(|i| Pair::new(&*model, 4 + 3 * i, i)).collect();
        step(&*model, &mut pairs, 1);
        std::thread::scope(|scope| {
            for pairs in pairs.chunks_mut(2) {
                let model = &model;
                scope.spawn(move || (0..40).for_each(|_| step(&**model, pairs, 1)));
            }
        });
        step(&*model, &mut pairs, 1);
    });
}
