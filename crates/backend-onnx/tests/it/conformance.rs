//! ONNX Runtime passes the suite on every f32 export of the golden checkpoints, and on the graphs built from them.

use std::num::NonZeroUsize;
use std::path::Path;

use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::{Kernels, Purpose};
use tandem_core::conformance;
use tandem_core::conformance::{Fixture, Golden};
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Device, LoadOptions, OnnxOptions};

/// Chunks of other lengths sum in another order.
const TOLERANCE: f32 = 2e-5;

conformance!(qwen2_tied_built, || built("qwen2-tied"));
conformance!(qwen2_untied_built, || built("qwen2-untied"));
conformance!(qwen3_built, || built("qwen3"));
conformance!(llama3_rope_built, || built("llama3-rope"));
conformance!(mistral_built, || built("mistral"));
conformance!(llama_yarn_built, || built("llama-yarn"));
conformance!(llama_linear_built, || built("llama-linear"));
conformance!(llama_head24_built, || built("llama-head24"));
conformance!(qwen2_tied_genai, || fixture("qwen2-tied", "genai_f32"));
conformance!(qwen2_tied_optimum, || fixture("qwen2-tied", "optimum_f32"));
conformance!(qwen2_untied_genai, || fixture("qwen2-untied", "genai_f32"));
conformance!(qwen2_untied_optimum, || fixture("qwen2-untied", "optimum_f32"));
conformance!(qwen3_genai, || fixture("qwen3", "genai_f32"));
conformance!(qwen3_optimum, || fixture("qwen3", "optimum_f32"));
conformance!(llama3_rope_genai, || fixture("llama3-rope", "genai_f32"));
conformance!(llama3_rope_optimum, || fixture("llama3-rope", "optimum_f32"));
conformance!(mistral_genai, || fixture("mistral", "genai_f32"));
conformance!(mistral_optimum, || fixture("mistral", "optimum_f32"));

conformance!(qwen3_one_thread, || threads(built("qwen3"), 1));
conformance!(qwen3_int8, || quantized("qwen3", DType::Int8, 2));
conformance!(qwen2_tied_int8_one_thread, || quantized("qwen2-tied", DType::Int8, 1));
conformance!(qwen2_untied_int4, || quantized("qwen2-untied", DType::Int4, 2));
conformance!(mistral_int4_one_thread, || quantized("mistral", DType::Int4, 1));

// The others have Tandem's kernels where these know a node.
conformance!(qwen2_tied_runtime, || runtime(built("qwen2-tied")));
conformance!(llama_head24_runtime, || runtime(built("llama-head24")));
conformance!(qwen3_genai_runtime, || runtime(fixture("qwen3", "genai_f32")));
conformance!(qwen3_encoding_runtime, || runtime(embedder("qwen3-no-end", None)));

conformance!(bert_built, || embedder("bert-cls", None));
conformance!(mpnet_built, || embedder("mpnet", None));
conformance!(modernbert_built, || embedder("modernbert", None));
conformance!(gemma3_built, || embedder("gemma3", None));
conformance!(qwen2_bidirectional_built, || embedder("qwen2-bidirectional", None));
conformance!(qwen3_encoding_built, || embedder("qwen3-no-end", None));
conformance!(bert_published, || embedder("bert-mean", Some("model.onnx")));
conformance!(qwen3_encoding_published, || embedder("qwen3", Some("model.onnx")));
conformance!(cross_bert_published, || embedder("cross-bert", Some("model.onnx")));

/// The embedder or cross-encoder `name`, with `graph` or one that is built.
fn embedder(name: &str, graph: Option<&str>) -> Result<Fixture, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders").join(name);
    let graph = graph.map(|graph| directory.join("onnx").join(graph));
    let fixture = built(&format!("embedders/{name}"))?;
    let options = fixture.options.with_purpose(Purpose::Encode).with_onnx(OnnxOptions::new().with_graph(graph));
    Ok(Fixture { options, ..fixture })
}

/// The same on so many threads.
fn threads(fixture: Result<Fixture, String>, n: usize) -> Result<Fixture, String> {
    let fixture = fixture?;
    let options = fixture.options.with_threads(NonZeroUsize::new(n).unwrap());
    Ok(Fixture { options, ..fixture })
}

/// The checkpoint `name` with weights of `dtype` and rounded inputs, on so many threads.
fn quantized(name: &str, dtype: DType, n_threads: usize) -> Result<Fixture, String> {
    let mut fixture = threads(built(name), n_threads)?;
    // Quantised weights are for the processor.
    fixture.options = fixture.options.with_dtype(dtype).with_device(Device::Cpu);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
    let mut golden = Golden::read(&directory, if dtype == DType::Int8 { "optimum_int8" } else { "genai_int4" });
    golden.greedy_equal = false;
    // Differences in the last bit may be rounded either way, so two computations may each be that far from the golden.
    fixture.tolerance = 2.0 * golden.tolerance;
    fixture.golden = Some(golden);
    Ok(fixture)
}

/// The same with the engine's own kernels.
fn runtime(fixture: Result<Fixture, String>) -> Result<Fixture, String> {
    let mut fixture = fixture?;
    fixture.options.onnx.kernels = Some(Kernels::Runtime);
    Ok(fixture)
}

/// The checkpoint `name`, whose graph is built from its weights.
fn built(name: &str) -> Result<Fixture, String> {
    library::find(None).map_err(|error| conformance::describe(&error))?;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
    Ok(Fixture {
        backend: Box::new(OnnxBackend::new(None)),
        files: ModelFiles::discover(&directory, name).unwrap(),
        options: LoadOptions::new().with_device(conformance::device_under_test()),
        tolerance: TOLERANCE,
        golden: directory.join("golden.json").exists().then(|| Golden::read(&directory, Golden::MADE)),
    })
}

/// The checkpoint `name` with its export `export`.
fn fixture(name: &str, export: &str) -> Result<Fixture, String> {
    library::find(None).map_err(|error| conformance::describe(&error))?;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
    Ok(Fixture {
        backend: Box::new(OnnxBackend::new(None)),
        files: ModelFiles::discover(&directory, name).unwrap(),
        options: LoadOptions::new()
            .with_device(conformance::device_under_test())
            .with_onnx(OnnxOptions::new().with_graph(directory.join("onnx").join(export).join("model.onnx"))),
        tolerance: TOLERANCE,
        golden: Some(Golden::read(&directory, export)),
    })
}
