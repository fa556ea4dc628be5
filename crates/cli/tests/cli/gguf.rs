//! Repositories of GGUF files: which of them is meant, and that it runs.

use std::path::Path;

use half::f16;
use tandem_core::conformance::GgufWriter;
use tandem_core::gguf::TensorType;

use crate::loopback::{Hub, outcome};
use crate::support::{Place, place_with_onnx};

/// The golden checkpoint as a GGUF file whose matrices are stored as `kind`, F32 or Q8_0.
fn golden(kind: TensorType) -> Vec<u8> {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-untied");
    let writer = GgufWriter::of_checkpoint(&checkpoint, &|_, shape, values| match kind {
        TensorType::Q8_0 if shape.len() > 1 => (kind, values.as_chunks().0.iter().flat_map(block).collect()),
        _ => (TensorType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    });
    writer.to_bytes()
}

/// A block of `Q8_0`: a scale and 32 whole numbers.
fn block(values: &[f32; 32]) -> Vec<u8> {
    let scale = f16::from_f32(values.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0);
    let codes = values.iter().map(|value| ((value / scale.to_f32()).round() as i8).cast_unsigned());
    scale.to_le_bytes().into_iter().chain(codes).collect()
}

/// Several quantisations, as repositories have them; only their names count.
fn several() -> Hub {
    let names = ["README.md", "Tiny-BF16.gguf", "Tiny-Q4_0.gguf", "Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf", "mmproj-Tiny-F16.gguf"];
    Hub::with(Place::new(), &names.map(|name| (name, name.as_bytes().to_vec())))
}

#[test]
fn the_dtype_or_the_reference_says_which_file_is_meant() {
    let hub = several();
    let pulled = |args: &[&str], expected: &str| {
        let report = hub.json(&[&["pull", "--backend", "candle", "--json"], args].concat());
        let files = report["models"][0]["files"].as_array().unwrap().clone();
        assert_eq!(files.iter().map(|file| file["name"].as_str().unwrap()).collect::<Vec<_>>(), [expected], "{args:?}");
    };
    pulled(&["owner/name", "--dtype", "int4"], "Tiny-Q4_K_M.gguf");
    pulled(&["owner/name", "--dtype", "int8"], "Tiny-Q8_0.gguf");
    pulled(&["owner/name", "--dtype", "f32"], "Tiny-BF16.gguf");
    pulled(&["owner/name:Q4_0"], "Tiny-Q4_0.gguf");
    pulled(&["owner/name:tiny-q8_0.gguf"], "Tiny-Q8_0.gguf");
    assert_eq!(hub.hub.transfers("Tiny-Q8_0.gguf").len(), 1);
    assert!(hub.hub.seen("mmproj-Tiny-F16.gguf").is_empty());
    let listed = "it has 4 GGUF files, and it is not said which of them is meant: \
                  Tiny-BF16.gguf, Tiny-Q4_0.gguf, Tiny-Q4_K_M.gguf, Tiny-Q8_0.gguf";
    let hint = "hint: name one by the end of its name, such as `owner/name:Q4_K_M`, or by its dtype";
    hub.run(&["pull", "owner/name", "--backend", "candle"]).fails(1, &[listed, hint]);
    hub.run(&["pull", "owner/name:Q5_K_M", "--backend", "candle"]).fails(1, &["none of them is `Q5_K_M`: ", hint]);
    hub.run(&["rm", "owner/name:Q4_0"]).fails(2, &["`Q4_0` cannot be removed alone", "hint: `tandem rm owner/name`"]);
    assert_eq!(hub.json(&["rm", "owner/name", "--json"])["removed"][0]["n_files"], 4);
}

#[test]
fn a_locked_file_is_pulled_again() {
    let hub = several();
    hub.json(&["pull", "owner/name:Q8_0", "--backend", "candle", "--lock", "--json"]);
    hub.json(&["rm", "owner/name", "--json"]);
    let report = hub.json(&["pull", "--locked", "--json"]);
    assert_eq!(report["models"][0]["files"][0]["name"], "Tiny-Q8_0.gguf");
}

#[test]
fn onnx_runtime_says_who_reads_them() {
    if place_with_onnx().is_none() {
        return;
    }
    let hub = several();
    let parts = ["the backend `onnx` with `owner/name", "which the candle backend alone reads", "hint: use `--backend candle`"];
    hub.run(&["pull", "owner/name", "--backend", "onnx"]).fails(1, &parts);
    hub.run(&["pull", "owner/name:Q4_0", "--backend", "onnx"]).fails(1, &parts);
    hub.run(&["run", "owner/name:Q4_0", "x", "--backend", "onnx"]).fails(1, &parts);
    let hub = Hub::new(Place::new());
    hub.run(&["pull", "owner/name:Q4_0"]).fails(1, &["`Q4_0` of the repository `owner/name`", "this repository has none"]);
}

#[test]
fn they_run_on_candle() {
    if !tandem::backends::compiled().contains(&tandem::BackendKind::Candle) {
        eprintln!("skipped: this build has no backend `candle`");
        return;
    }
    let (place, exact) = (Place::new(), golden(TensorType::F32));
    place.write("local.gguf", &exact);
    let hub = Hub::with(place, &[("a-F32.gguf", exact), ("a-Q8_0.gguf", golden(TensorType::Q8_0))]);
    let run = |reference: &str, more: &[&str]| {
        let args = ["run", reference, "The fox", "--raw", "--temperature", "0", "--max-tokens", "8", "--json"];
        hub.json(&[&args[..], &["--backend", "candle"], more].concat())
    };
    let local = run("local.gguf", &[]);
    let of_hub = run("owner/name:F32", &[]);
    assert_eq!((&of_hub["tokens"], &of_hub["dtype"]), (&local["tokens"], &"f32".into()));
    let quantised = run("owner/name", &["--dtype", "int8"]);
    assert_eq!((&quantised["dtype"], &quantised["model"]), (&"int8".into(), &"owner/name".into()));
    let shown = outcome(hub.offline(&["show", "owner/name:Q8_0", "--backend", "candle", "--json"])).json();
    assert_eq!((&shown["architecture"], &shown["loaded"]["dtype"]), (&"qwen2".into(), &"int8".into()));
    hub.place.write("quantised.gguf", golden(TensorType::Q8_0));
    let short = ["--prompt", "4", "--depth", "0", "--generate", "2", "--rounds", "1", "--threads", "1", "--json"];
    let bench = hub.place.json(&[&["bench", "quantised.gguf", "--backend", "candle"], &short[..]].concat());
    assert_eq!((bench["entries"].as_array().unwrap().len(), &bench["entries"][0]["loaded"]["dtype"]), (1, &"int8".into()));
    let said = outcome(hub.offline(&["score", "owner/name:F32", "The fox", "--backend", "candle", "--json"])).json();
    assert_eq!(said["model"], "owner/name:F32");
}
