//! Adapters at run time, on graphs of every exporter: what PEFT computes, and what the adapter computes when it is built into the graph.

mod backend;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_backend_onnx::export::export;
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::adapter::{Adapter, AdapterFiles, AdapterSum, LowRankFactors, ScaledAdapter, canonical_module};
use tandem_core::backend::{Kernels, Numerics, ProbePoint, Stage};
use tandem_core::conformance::{self, Fixture, Golden, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::{
    Backend, DType, Error, ExportOptions, GraphFormat, LoadOptions, LogitsRequest, Model, OnnxOptions, Result, SessionOptions,
};
use tandem_onnx_graph::{Graph, LowRank};

use self::backend::WithAdapters;
use crate::export::checkpoints::{Checkpoint, golden};

/// The graphs of f32 that a golden checkpoint has; `made` is built from its weights.
const EXPORTS: [&str; 3] = [Golden::MADE, "genai_f32", "optimum_f32"];
const IDS: [u32; 9] = [3, 14, 1, 5, 9, 2, 6, 5, 35];

fn adapters() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/adapters")
}

fn ready() -> std::result::Result<(), String> {
    library::find(None).map(|_| ()).map_err(|error| conformance::describe(&error))
}

fn options(checkpoint: &str, export: &str) -> LoadOptions {
    let graph = golden(checkpoint).join("onnx").join(export).join("model.onnx");
    let graph = (export != Golden::MADE).then_some(graph);
    LoadOptions::new().with_device(conformance::device_under_test()).with_onnx(OnnxOptions::new().with_graph(graph))
}

fn load(checkpoint: &str, options: &LoadOptions) -> Arc<dyn Model> {
    let files = ModelFiles::discover(&golden(checkpoint), checkpoint).unwrap();
    OnnxBackend::new(None).load(&files, options).unwrap_or_else(|error| panic!("{}", conformance::describe(&error)))
}

/// The adapter in `path`, read for the checkpoint `base`.
fn read(path: &Path, base: &str) -> ScaledAdapter {
    let config = ModelFiles::discover(&golden(base), base).unwrap().model_config().unwrap();
    let files = AdapterFiles::discover(path, "an adapter").unwrap();
    ScaledAdapter::new(Arc::new(files.read(Some(&config)).unwrap()))
}

/// The logits of `IDS`: those of a prompt, and those of a token after it.
fn logits(model: &dyn Model) -> Vec<f32> {
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    let (prompt, last) = IDS.split_at(IDS.len() - 1);
    let mut values = session.append(prompt, LogitsRequest::Last(1)).unwrap().last().unwrap().to_vec();
    values.extend(session.append(last, LogitsRequest::Last(1)).unwrap().last().unwrap());
    values
}

/// The largest difference, relative to the largest logit.
fn difference(one: &[f32], other: &[f32]) -> f32 {
    let largest = other.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn adapters_of_peft_match_their_goldens() {
    with_fixture(ready, |()| {
        let cases = [
            ("qwen2-all-linear", "qwen2-tied"),
            ("qwen2-rslora", "qwen2-tied"),
            ("qwen3-dora", "qwen3"),
            ("qwen3-layers", "qwen3"),
            ("llama3-all-linear", "llama3-rope"),
            ("llama3-patterns", "llama3-rope"),
            ("mistral-regex", "mistral"),
            ("mistral-head", "mistral"),
            ("qwen2-all-linear/onnx", "qwen2-tied"),
        ];
        for (name, base) in cases {
            let adapter = read(&adapters_path(name), base);
            let directory = adapters().join(name.trim_end_matches("/onnx"));
            for export in EXPORTS {
                let fixture = Fixture {
                    backend: Box::new(WithAdapters { inner: OnnxBackend::new(None), adapters: vec![adapter.clone()] }),
                    files: ModelFiles::discover(&golden(base), base).unwrap(),
                    options: options(base, export),
                    tolerance: 2e-5,
                    golden: Some(Golden::read(&directory, Golden::MADE)),
                };
                conformance::logits_match_golden(&fixture);
                conformance::greedy_tokens_match_golden(&fixture);
            }
        }
    });
}

fn adapters_path(name: &str) -> PathBuf {
    let path = adapters().join(name);
    // A file of ONNX Runtime is named itself.
    match name.ends_with("/onnx") {
        true => fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some()).unwrap(),
        false => path,
    }
}

/// Factors of rank 3 for the modules of a golden checkpoint whose names end so.
fn factors(checkpoint: &str, ends: &[&str], magnitude: Option<f32>) -> ScaledAdapter {
    let weights = Checkpoint::of_golden(checkpoint).weights;
    let named = weights.iter().filter_map(|(name, weight)| Some((name.strip_suffix(".weight")?, weight)));
    let chosen = named.filter(|(module, _)| ends.iter().any(|end| module.ends_with(end)));
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|index| ((index * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
    };
    let factors = chosen.enumerate().map(|(index, (module, weight))| {
        let [outputs, inputs] = weight.shape[..] else { panic!("{module}") };
        let rows = weight.floats();
        let length = |row: &[f32]| row.iter().map(|value| value * value).sum::<f32>().sqrt();
        LowRankFactors {
            module: module.into(),
            a: numbers(3 * inputs, index + 1),
            b: if magnitude.is_some() { vec![0.0; 3 * outputs] } else { numbers(3 * outputs, index + 50) },
            rank: 3,
            scale: 0.4,
            magnitude: magnitude.map(|scale| rows.chunks(inputs).map(|row| scale * length(row)).collect()),
        }
    });
    ScaledAdapter::new(Arc::new(Adapter::new("mine", factors.collect()).unwrap()))
}

const LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The graph at `path` with the adapter built into it, beside it.
fn built_in(path: &Path, adapter: &Adapter) -> tempfile::NamedTempFile {
    let graph = Graph::open(path).unwrap();
    let update = |factors: &'_ LowRankFactors| LowRank {
        module: factors.module.clone().leak(),
        rank: factors.rank,
        a: factors.a.clone().leak(),
        b: factors.b.clone().leak(),
        scale: factors.scale,
    };
    let mut edit = graph.edit();
    edit.add_low_rank(&adapter.factors().iter().map(update).collect::<Vec<_>>()).unwrap();
    let file = tempfile::Builder::new().suffix(".onnx").tempfile_in(path.parent().unwrap()).unwrap();
    fs::write(file.path(), edit.to_bytes().unwrap()).unwrap();
    file
}

#[test]
fn every_published_form_takes_an_adapter() {
    with_fixture(ready, |()| {
        let community = ["model", "model_fp16", "model_int8", "model_q4", "model_q4f16"];
        let community = community.map(|graph| ("onnx-community", golden("onnx-community").join(format!("onnx/{graph}.onnx"))));
        let exports = ["genai_int4", "optimum_int8", "optimum_f32"];
        let others = exports.map(|export| ("qwen2-tied", golden("qwen2-tied").join(format!("onnx/{export}/model.onnx"))));
        // Of Tandem's kernels, factors beside quantised weights are f16: with exact numerics nothing else is rounded.
        let all = community
            .into_iter()
            .chain(others)
            .flat_map(|of| [(of.clone(), Kernels::Runtime, 1e-4), (of, Kernels::Tandem, 2e-3)]);
        for ((checkpoint, graph), kernels, allowed) in all {
            // The graphs of onnx-community are of this checkpoint.
            let adapter = factors("qwen2-tied", &LINEAR, None);
            let copy = tempfile::tempdir().unwrap();
            let copied = copy.path().join(graph.file_name().unwrap());
            for file in fs::read_dir(graph.parent().unwrap()).unwrap() {
                let path = file.unwrap().path();
                fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
            let of = |graph: &Path| {
                let onnx = OnnxOptions::new().with_graph(Some(graph.to_owned())).with_kernels(Some(kernels));
                let numerics = if kernels == Kernels::Tandem { Numerics::Exact } else { Numerics::Fast };
                load(checkpoint, &LoadOptions::new().with_numerics(numerics).with_onnx(onnx))
            };
            let base = of(&copied);
            let adapted = base.with_adapters(std::slice::from_ref(&adapter)).unwrap();
            let expected = logits(&*of(built_in(&copied, &adapter.adapter).path()));
            let (applied, plain) = (logits(&*adapted), logits(&*base));
            let allowed = if graph.to_string_lossy().contains("16") { 1e-2 } else { allowed };
            assert!(difference(&applied, &expected) < allowed, "{graph:?}, {kernels}: {}", difference(&applied, &expected));
            assert!(difference(&applied, &plain) > 0.1, "{graph:?}: {}", difference(&applied, &plain));
            assert_eq!(logits(&*base), plain, "the base is what it was");
        }
    });
}

#[test]
fn cases_of_adapters_hold_for_quantised_graphs() {
    with_fixture(ready, |()| {
        let made = [DType::Int8, DType::Int4, DType::F16].map(|dtype| (Golden::MADE, Some(dtype)));
        for (export, dtype) in made.into_iter().chain([("genai_int4", None), ("optimum_int8", None)]) {
            let fixture = Fixture {
                backend: Box::new(OnnxBackend::new(None)),
                files: ModelFiles::discover(&golden("qwen2-tied"), "qwen2-tied").unwrap(),
                options: options("qwen2-tied", export).with_dtype(dtype),
                // The whole prompt of such a graph shares one scale of activations, and f16 rounds sums.
                tolerance: if export == "optimum_int8" || dtype == Some(DType::F16) { 0.1 } else { 2e-5 },
                golden: None,
            };
            conformance::zero_adapter_is_the_identity(&fixture);
            conformance::adapters_add_up(&fixture);
            conformance::switching_adapters_restores_the_base(&fixture);
            conformance::adapted_prefill_equals_stepwise(&fixture);
            conformance::adapted_sessions_run_beside_those_of_the_base(&fixture);
            conformance::adapters_that_do_not_fit_are_errors(&fixture);
        }
    });
}

#[test]
fn magnitudes_are_those_of_the_weights_as_the_graph_has_them() {
    with_fixture(ready, |()| {
        for export in ["genai_f32", "genai_int4", "optimum_f32", "optimum_int8"] {
            let model = load("qwen2-tied", &options("qwen2-tied", export));
            let plain = logits(&*model);
            let with = |magnitude| logits(&*model.with_adapters(&[factors("qwen2-tied", &LINEAR, Some(magnitude))]).unwrap());
            // The lengths of the rows themselves change nothing but what quantisation did to them.
            let allowed = if export.ends_with("f32") { 1e-4 } else { 0.12 };
            assert!(difference(&with(1.0), &plain) < allowed, "{export}: {}", difference(&with(1.0), &plain));
            assert!(difference(&with(1.5), &plain) > 0.15, "{export}: {}", difference(&with(1.5), &plain));
        }
    });
}

#[test]
fn graph_that_was_prepared_takes_adapters_as_it_is() {
    with_fixture(ready, |()| {
        let dir = tempfile::tempdir().unwrap();
        let prepare = |dtype: DType| {
            let format = GraphFormat { adapter_inputs: true, ..GraphFormat::of(dtype) };
            let options = ExportOptions { format, ..ExportOptions::new(dir.path().join(dtype.to_string()), dtype) };
            export(&ModelFiles::discover(&golden("qwen2-tied"), "qwen2-tied").unwrap(), &options).unwrap().graph
        };
        let file = read(&adapters_path("qwen2-all-linear/onnx"), "qwen2-tied");
        let peft = read(&adapters().join("qwen2-all-linear"), "qwen2-tied");
        for dtype in [DType::F32, DType::Int8, DType::Int4] {
            let graph = prepare(dtype);
            let model = load("qwen2-tied", &LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(Some(graph))));
            let unprepared = load("qwen2-tied", &LoadOptions::new().with_dtype(dtype));
            assert!(difference(&logits(&*model), &logits(&*unprepared)) < 1e-5);
            let expected = logits(&*unprepared.with_adapters(std::slice::from_ref(&peft)).unwrap());
            for adapter in [&file, &peft] {
                let applied = logits(&*model.with_adapters(std::slice::from_ref(adapter)).unwrap());
                assert!(difference(&applied, &expected) < 1e-4, "{dtype}: {}", difference(&applied, &expected));
            }
            // It has no inputs for magnitudes, and gets them.
            let lengths = factors("qwen2-tied", &["o_proj", "q_proj"], Some(1.5));
            let applied = logits(&*model.with_adapters(std::slice::from_ref(&lengths)).unwrap());
            let expected = logits(&*unprepared.with_adapters(&[lengths]).unwrap());
            assert!(difference(&applied, &expected) < 1e-4, "{dtype}: {}", difference(&applied, &expected));
        }
    });
}

#[test]
fn exported_adapter_matches_its_golden() {
    with_fixture(ready, |()| {
        for (name, base) in [("qwen2-all-linear", "qwen2-tied"), ("qwen3-dora", "qwen3"), ("qwen2-saved", "qwen2-tied")] {
            let dir = tempfile::tempdir().unwrap();
            let adapters = vec![read(&adapters().join(name), base)];
            let files = ModelFiles::discover(&golden(base), base).unwrap();
            let options = ExportOptions { adapters, ..ExportOptions::new(dir.path().join("merged"), DType::F32) };
            let exported = export(&files, &options).unwrap();
            let metadata = Graph::open(&exported.graph).unwrap().metadata().to_vec();
            let applied = metadata.iter().find(|(key, _)| key == "tandem.adapter.0").unwrap();
            assert!(applied.1.contains(" scale 1 sha256 "), "{applied:?}");
            let fixture = Fixture {
                backend: Box::new(OnnxBackend::new(None)),
                files: ModelFiles::discover(&exported.directory, name).unwrap(),
                options: LoadOptions::new(),
                tolerance: 2e-5,
                golden: Some(Golden::read(&self::adapters().join(name), Golden::MADE)),
            };
            conformance::logits_match_golden(&fixture);
            conformance::greedy_tokens_match_golden(&fixture);
        }
        let dir = tempfile::tempdir().unwrap();
        let options = ExportOptions {
            adapters: vec![factors("mistral", &["lm_head"], None)],
            ..ExportOptions::new(dir.path().join("merged"), DType::Int4)
        };
        let files = ModelFiles::discover(&golden("qwen2-tied"), "qwen2-tied").unwrap();
        let error = export(&files, &options).unwrap_err().to_string();
        assert!(error.contains("lm_head"), "{error}");
        assert!(!dir.path().join("merged").exists(), "nothing is written");
    });
}

#[test]
fn graph_loaded_for_adapters_is_the_base_without_them() {
    with_fixture(ready, |()| {
        for (export, allowed) in [(Golden::MADE, 1e-5), ("optimum_f32", 1e-5), ("genai_int4", 1e-5)] {
            let adapter = factors("qwen2-tied", &["q_proj", "v_proj", "down_proj"], None);
            let later = load("qwen2-tied", &options("qwen2-tied", export));
            let modules = AdapterSum::new(std::slice::from_ref(&adapter)).unwrap().modules();
            let mut options = options("qwen2-tied", export);
            options.onnx.adapted_modules = modules;
            let once = load("qwen2-tied", &options);
            assert!(difference(&logits(&*once), &logits(&*later)) < allowed);
            let [one, other] =
                [&once, &later].map(|model| logits(&*model.with_adapters(std::slice::from_ref(&adapter)).unwrap()));
            assert_eq!(one, other, "{export}");
        }
    });
}

#[test]
fn adapters_of_other_modules_are_added_to_the_graph() {
    with_fixture(ready, |()| {
        let model = load("mistral", &options("mistral", "optimum_f32"));
        let of = |adapter: &ScaledAdapter| logits(&*model.with_adapters(std::slice::from_ref(adapter)).unwrap());
        let (queries, head) = (factors("mistral", &["q_proj"], None), factors("mistral", &["lm_head"], None));
        let (first, second) = (of(&queries), of(&head));
        assert!(difference(&first, &second) > 1e-2);
        assert!(difference(&of(&queries), &first) < 1e-5, "with inputs that it does not use");
    });
}

#[test]
fn prober_shows_the_values_of_the_adapted_model() {
    with_fixture(ready, |()| {
        for export in EXPORTS {
            let model = load("qwen2-tied", &options("qwen2-tied", export));
            let adapted = model.with_adapters(&[factors("qwen2-tied", &LINEAR, None)]).unwrap();
            let points = [Stage::FinalNorm, Stage::Logits].map(|stage| ProbePoint { layer: None, stage });
            for model in [&model, &adapted] {
                let probes = model.prober().unwrap().probe(&IDS, &points).unwrap();
                let vocab_size = model.info().vocab_size;
                let shown = &probes.last().unwrap().values;
                let expected = logits(&**model);
                let end = &expected[vocab_size..];
                assert!(difference(&shown[shown.len() - vocab_size..], end) < 1e-5, "{export}");
            }
        }
    });
}

#[test]
fn factors_that_do_not_fit_never_reach_the_engine() {
    with_fixture(ready, |()| {
        let apply = |model: &dyn Model, factors: LowRankFactors| -> Result<Arc<dyn Model>> {
            model.with_adapters(&[ScaledAdapter::new(Arc::new(Adapter::new("mine", vec![factors]).unwrap()))])
        };
        let factors = |module: &str, outputs: usize, inputs: usize, value: f32| LowRankFactors {
            module: module.into(),
            a: vec![value; inputs],
            b: vec![value; outputs],
            rank: 1,
            scale: 1.0,
            magnitude: None,
        };
        let q_proj = "model.layers.0.self_attn.q_proj";
        for export in EXPORTS {
            let model = load("qwen2-tied", &options("qwen2-tied", export));
            for (module, outputs, inputs) in
                [(q_proj, 33, 32), (q_proj, 32, 31), (q_proj, 64, 32), ("model.layers.2.mlp.up_proj", 64, 32)]
            {
                let error = apply(&*model, factors(module, outputs, inputs, 1.0)).map(|_| ()).unwrap_err();
                let Error::BadField { file, field, .. } = &error else { panic!("{error:?}") };
                assert_eq!((file.as_str(), canonical_module(field)), ("mine", canonical_module(module)), "{error}");
            }
            apply(&*model, factors(q_proj, 32, 32, 1.0)).unwrap();
        }
        let graph = golden("onnx-community").join("onnx/model_fp16.onnx");
        let model = load("onnx-community", &LoadOptions::new().with_onnx(OnnxOptions::new().with_graph(Some(graph))));
        let error = apply(&*model, factors(q_proj, 32, 32, 1e6)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("f16") && error.contains("layers.0.self_attn.qkv_proj"), "{error}");
    });
}
