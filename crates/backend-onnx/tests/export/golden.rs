//! Exports of the golden checkpoints, loaded as any directory, against what transformers computed.

use std::sync::Arc;

use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::Numerics;
use tandem_core::conformance;
use tandem_core::conformance::{Fixture, Golden};
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, BackendKind, DType, DeviceReport, LoadOptions, Model, Result};
use tempfile::TempDir;

use crate::checkpoints::golden;
use crate::export_to;

conformance!(qwen2_tied, || fixture("qwen2-tied", DType::F32, Numerics::Fast, 1e-4));
conformance!(qwen2_untied, || fixture("qwen2-untied", DType::F32, Numerics::Fast, 1e-4));
conformance!(qwen3, || fixture("qwen3", DType::F32, Numerics::Fast, 1e-4));
conformance!(llama3_rope, || fixture("llama3-rope", DType::F32, Numerics::Fast, 1e-4));
conformance!(mistral, || fixture("mistral", DType::F32, Numerics::Fast, 1e-4));

/// The goldens' weights lie on a grid that 4 bits hold: with activations in floats nothing is lost.
#[test]
fn int4_holds_weights_of_4_bits_exactly() {
    for name in crate::checkpoints::GOLDENS {
        conformance::with_fixture(|| fixture(name, DType::Int4, Numerics::Exact, 1e-4), |fixture| {
            conformance::logits_match_golden(fixture);
            conformance::greedy_tokens_match_golden(fixture);
        });
    }
}

/// How far activations of 8 bits, and with int8 weights on a grid of another step, take the logits: about 1.5 times what was measured.
#[test]
fn quantised_exports_are_within_their_tolerance() {
    for (name, dtype, numerics, tolerance) in TOLERANCES {
        conformance::with_fixture(|| fixture(name, dtype, numerics, tolerance), |fixture| {
            let golden = fixture.golden.as_ref().map(|golden| golden.tolerance);
            assert_eq!(golden, Some(tolerance));
            conformance::loaded_as_asked(fixture);
            conformance::logits_match_golden(fixture);
        });
    }
}

const TOLERANCES: [(&str, DType, Numerics, f32); 15] = [
    ("qwen2-tied", DType::Int4, Numerics::Fast, 0.0),
    ("qwen2-untied", DType::Int4, Numerics::Fast, 0.0),
    ("qwen3", DType::Int4, Numerics::Fast, 0.0),
    ("llama3-rope", DType::Int4, Numerics::Fast, 0.0),
    ("mistral", DType::Int4, Numerics::Fast, 0.0),
    ("qwen2-tied", DType::Int8, Numerics::Fast, 0.0),
    ("qwen2-untied", DType::Int8, Numerics::Fast, 0.0),
    ("qwen3", DType::Int8, Numerics::Fast, 0.0),
    ("llama3-rope", DType::Int8, Numerics::Fast, 0.0),
    ("mistral", DType::Int8, Numerics::Fast, 0.0),
    ("qwen2-tied", DType::Int8, Numerics::Exact, 0.0),
    ("qwen2-untied", DType::Int8, Numerics::Exact, 0.0),
    ("qwen3", DType::Int8, Numerics::Exact, 0.0),
    ("llama3-rope", DType::Int8, Numerics::Exact, 0.0),
    ("mistral", DType::Int8, Numerics::Exact, 0.0),
];

/// An export of the golden checkpoint `name`, which lives as long as the backend.
fn fixture(name: &str, dtype: DType, numerics: Numerics, tolerance: f32) -> std::result::Result<Fixture, String> {
    library::find(None).map_err(|error| conformance::describe(&error))?;
    let directory = tempfile::tempdir().unwrap();
    let exported = export_to(&golden(name), &directory.path().join("graph"), dtype).unwrap();
    let record = Golden::read(&golden(name), "genai_f32");
    Ok(Fixture {
        files: ModelFiles::discover(&exported.directory, name).unwrap(),
        backend: Box::new(WithDirectory { backend: OnnxBackend::new(None), _directory: directory }),
        options: LoadOptions { dtype: (dtype != DType::F32).then_some(dtype), numerics, ..LoadOptions::default() },
        // Chunks of other lengths sum in another order.
        tolerance: 2e-5,
        golden: Some(Golden { tolerance, ..record }),
    })
}

struct WithDirectory {
    backend: OnnxBackend,
    _directory: TempDir,
}

impl Backend for WithDirectory {
    fn kind(&self) -> BackendKind {
        self.backend.kind()
    }

    fn devices(&self) -> Vec<DeviceReport> {
        self.backend.devices()
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
        self.backend.load(files, options)
    }
}
