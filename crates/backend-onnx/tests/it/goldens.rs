//! Every golden export runs, the quantised and half-precision ones within the tolerance that its golden states.
//!
//! The f32 exports pass the whole suite in `conformance.rs`; here the others are held to what they can be held to.

use std::path::{Path, PathBuf};

use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::{Kernels, Numerics};
use tandem_core::conformance::{self, Fixture, Golden, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{DType, LoadOptions, LogitsRequest, OnnxOptions, SessionOptions};

const CHECKPOINTS: [&str; 5] = ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "mistral"];

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens")
}

/// The `export` of `checkpoint`, whose graph is `graph`, with its own tolerance or the one that the golden calls `tolerance`.
fn fixture(checkpoint: &str, export: &str, graph: &str, numerics: Numerics) -> Result<Fixture, String> {
    library::find(None).map_err(|error| conformance::describe(&error))?;
    let directory = goldens().join(checkpoint);
    let mut golden = Golden::read(&directory, export);
    if numerics == Numerics::Fast && export.starts_with("model_q4") {
        // Recorded for `model_q4`; the other differs in the type of what is not rounded.
        golden.tolerance = Golden::read(&directory, "model_q4").tolerance_with_int8_activations.unwrap();
    }
    // Greedy tokens are recorded as equal only where nothing is rounded.
    golden.greedy_equal &= numerics == Numerics::Exact;
    Ok(Fixture {
        backend: Box::new(OnnxBackend::new(None)),
        files: ModelFiles::discover(&directory, checkpoint).unwrap(),
        options: LoadOptions::new()
            .with_device(conformance::device_under_test())
            .with_numerics(numerics)
            .with_onnx(OnnxOptions::new().with_graph(directory.join("onnx").join(graph))),
        // Two ways to the same logits may each be that far from the golden.
        tolerance: 2.0 * golden.tolerance,
        golden: Some(golden),
    })
}

fn check(checkpoint: &str, export: &str, graph: &str, numerics: Numerics, dtype: DType) {
    for kernels in [Kernels::Tandem, Kernels::Runtime] {
        check_with(checkpoint, export, graph, numerics, dtype, kernels);
    }
}

fn check_with(checkpoint: &str, export: &str, graph: &str, numerics: Numerics, dtype: DType, kernels: Kernels) {
    with_fixture(
        || {
            let mut fixture = fixture(checkpoint, export, graph, numerics)?;
            fixture.options.onnx.kernels = Some(kernels);
            Ok(fixture)
        },
        |fixture| {
            assert_eq!(fixture.load().info().dtype, dtype, "{checkpoint} {export}");
            conformance::logits_match_golden(fixture);
            conformance::greedy_tokens_match_golden(fixture);
            conformance::rewind_equals_fresh(fixture);
            conformance::prefill_equals_stepwise(fixture);
        },
    );
}

#[test]
fn genai_int4() {
    for checkpoint in CHECKPOINTS {
        check(checkpoint, "genai_int4", "genai_int4/model.onnx", Numerics::Fast, DType::Int4);
    }
}

#[test]
fn optimum_int8() {
    for checkpoint in CHECKPOINTS {
        check(checkpoint, "optimum_int8", "optimum_int8/model.onnx", Numerics::Fast, DType::Int8);
    }
}

#[test]
fn published_variants() {
    for (export, dtype) in [
        ("model", DType::F32),
        ("model_fp16", DType::F16),
        ("model_q4", DType::Int4),
        ("model_q4f16", DType::Int4),
        ("model_int8", DType::Int8),
    ] {
        check("onnx-community", export, &format!("{export}.onnx"), Numerics::Exact, dtype);
        check("onnx-community", export, &format!("{export}.onnx"), Numerics::Fast, dtype);
    }
}

#[test]
fn graph_is_chosen_by_dtype() {
    with_fixture(
        || fixture("onnx-community", "model", "model.onnx", Numerics::Fast),
        |fixture| {
            for (asked, loaded) in [
                (None, DType::F32),
                (Some(DType::F32), DType::F32),
                (Some(DType::F16), DType::F16),
                (Some(DType::Int8), DType::Int8),
                (Some(DType::Int4), DType::Int4),
            ] {
                let options = LoadOptions::new().with_dtype(asked);
                let model = fixture.backend.load(&fixture.files, &options).unwrap();
                assert_eq!(model.info().dtype, loaded);
                let mut session = model.new_session(&SessionOptions::default()).unwrap();
                assert_eq!(session.append(&[5, 6, 7], LogitsRequest::All).unwrap().n_rows(), 3);
            }
            let bf16 = LoadOptions::new().with_dtype(DType::Bf16);
            let Err(error) = fixture.backend.load(&fixture.files, &bf16) else { panic!("there is no bf16 graph") };
            assert!(error.to_string().contains("bf16"), "{error}");
            let wrong = fixture.options.clone().with_dtype(DType::Int4);
            let Err(error) = fixture.backend.load(&fixture.files, &wrong) else { panic!("the graph asked for is f32") };
            assert!(error.to_string().contains("`int4` was requested"), "{error}");
        },
    );
}
