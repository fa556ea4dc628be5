//! Appends that are longer than a run of the graph: their parts give what the same tokens give in other parts, and an error in one of them
//! takes back the others.

use std::path::Path;
use std::sync::Arc;

use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::{Backend, Kernels, KvDType};
use tandem_core::conformance::{describe, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Error, LoadOptions, LogitsRequest, Model, OnnxOptions, SessionOptions, TokenId};

use crate::batch::{LARGE, large_keys};
use crate::export::checkpoints::Checkpoint;

/// More tokens than three runs take.
const CONTEXT: usize = 2048;

fn tokens(n: usize) -> Vec<TokenId> {
    (0..n).map(|i| ((i * i * 31 + i * 7) % 256) as TokenId).filter(|token| *token != LARGE).collect()
}

/// `checkpoint` with a long context.
fn load(mut checkpoint: Checkpoint, directory: &Path, options: &LoadOptions) -> Arc<dyn Model> {
    checkpoint.config["max_position_embeddings"] = CONTEXT.into();
    checkpoint.write(directory);
    let files = ModelFiles::discover(directory, "long").unwrap();
    OnnxBackend::new(None).load(&files, options).unwrap_or_else(|error| panic!("{}", describe(&error)))
}

fn with_engine(test: fn()) {
    with_fixture(|| library::find(None).map_err(|error| describe(&error)), |_| test());
}

/// The logits of the last `n_rows` of `tokens`, where at most `most` are appended at a time, and those of a token after them.
fn logits(model: &dyn Model, tokens: &[TokenId], n_rows: usize, most: usize) -> Vec<f32> {
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    let (mut all, mut rest) = (Vec::new(), tokens.len());
    for part in tokens.chunks(most) {
        rest -= part.len();
        let n = n_rows.saturating_sub(rest).min(part.len());
        let request = match n {
            0 => LogitsRequest::None,
            n if n == part.len() => LogitsRequest::All,
            n => LogitsRequest::Last(n),
        };
        all.extend_from_slice(session.append(part, request).unwrap().values());
    }
    all.extend_from_slice(session.append(&[7], LogitsRequest::Last(1)).unwrap().values());
    all
}

#[test]
fn long_appends_have_the_bits_of_their_parts() {
    with_engine(|| {
        for (name, dtype) in [("qwen2-tied", DType::F32), ("qwen3", DType::Int4), ("llama-head24", DType::Int8)] {
            for kernels in [Kernels::Tandem, Kernels::Runtime] {
                let directory = tempfile::tempdir().unwrap();
                let options = LoadOptions::new().with_dtype(dtype).with_onnx(OnnxOptions::new().with_kernels(kernels));
                let model = load(Checkpoint::of_golden(name), directory.path(), &options);
                // The last token of 513 is not alone in a run.
                for (n, rows, most) in [(513, 1, 300), (1100, 0, 256), (1300, 40, 400), (1300, 900, 500), (700, 700, 350)] {
                    let (tokens, what) = (&tokens(CONTEXT - 10)[..n], format!("{name}, {dtype}, {kernels}, {rows} of {n}"));
                    let (whole, parts) = (logits(&*model, tokens, rows, n), logits(&*model, tokens, rows, most));
                    assert_eq!(whole.len(), (rows + 1) * model.info().vocab_size, "{what}");
                    match kernels {
                        Kernels::Tandem => assert!(whole == parts, "{what}"),
                        Kernels::Runtime => {
                            let difference = whole.iter().zip(&parts).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
                            assert!(difference < 1e-3, "{what}: {difference}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn an_error_in_a_part_takes_back_the_whole_append() {
    with_engine(|| {
        let directory = tempfile::tempdir().unwrap();
        let options = LoadOptions::new().with_dtype(DType::F32).with_kv_dtype(KvDType::F16);
        let model = load(large_keys(), directory.path(), &options);
        let mut session = model.new_session(&SessionOptions::default()).unwrap();
        let mut all = tokens(1500);
        session.append(&all[..20], LogitsRequest::None).unwrap();
        let good = std::mem::replace(&mut all[1200], LARGE);
        let error = session.append(&all[20..], LogitsRequest::Last(1)).unwrap_err();
        assert!(matches!(error, Error::BadKv { .. }), "{error:?}");
        assert_eq!(session.n_tokens(), 20, "nothing is held of the call");
        all[1200] = good;
        let after = session.append(&all[20..], LogitsRequest::Last(1)).unwrap();
        let mut fresh = model.new_session(&SessionOptions::default()).unwrap();
        fresh.append(&all[..20], LogitsRequest::None).unwrap();
        assert!(after == fresh.append(&all[20..], LogitsRequest::Last(1)).unwrap());
    });
}
