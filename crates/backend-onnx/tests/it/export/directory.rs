//! The directory that an export makes: its files, its bytes, and when it is there.

use std::fs::{self, File};
use std::sync::{Arc, Mutex};

use safetensors::Dtype;
use serde_json::Value;
use tandem_backend_onnx::export::{EXPORTER_VERSION, export};
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::{DType, Error, ExportOptions, Progress, Remedy};

use super::checkpoints::{Checkpoint, GOLDENS, golden};
use super::{export_to, names};

#[test]
fn exports_are_reproducible() {
    let dir = tempfile::tempdir().unwrap();
    for name in GOLDENS {
        for dtype in [DType::F32, DType::Int8, DType::Int4] {
            let [one, two] = ["one", "two"].map(|part| {
                let directory = dir.path().join(format!("{name}-{dtype}-{part}"));
                export_to(&golden(name), &directory, dtype).unwrap()
            });
            assert_eq!(one.files, two.files);
            for (file, n_bytes) in &one.files {
                let [first, second] = [&one, &two].map(|exported| fs::read(exported.directory.join(file)).unwrap());
                assert_eq!(first.len() as u64, *n_bytes);
                assert!(first == second, "{name} {dtype}: {file} differs");
            }
        }
    }
}

#[test]
fn exported_directory_is_self_contained() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("below/qwen3-int4");
    let exported = export_to(&golden("qwen3"), &directory, DType::Int4).unwrap();
    let expected = [
        "config.json",
        "genai_config.json",
        "generation_config.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&directory), expected);
    assert_eq!(exported.files.iter().map(|(name, _)| name).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    assert_eq!(names(&dir.path().join("below")), ["qwen3-int4"]);
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(fs::read(directory.join(file)).unwrap(), fs::read(golden("qwen3").join(file)).unwrap());
    }
    let files = ModelFiles::discover(&directory, "qwen3").unwrap();
    assert!(files.graph_for(None).unwrap().file.path().is_some_and(|path| path == exported.graph));
}

#[test]
fn graph_metadata_names_the_checkpoint_and_its_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let exported = export_to(&golden("mistral"), &dir.path().join("graph"), DType::Int8).unwrap();
    let graph = fs::read(&exported.graph).unwrap();
    let hash = |file: &str| ModelFile::Path(golden("mistral").join(file)).sha256(&mut |_| {}).unwrap();
    for (name, value) in [
        ("tandem.source", "mistral".to_owned()),
        ("tandem.exporter", format!("tandem {EXPORTER_VERSION}")),
        ("tandem.weights", "int8".into()),
        ("tandem.head", "int8".into()),
        ("tandem.sha256.config.json", hash("config.json")),
        ("tandem.sha256.model.safetensors", hash("model.safetensors")),
    ] {
        // `StringStringEntryProto`: field 1 is the key, field 2 the value, each with its length.
        let mut entry = vec![0x0a, name.len() as u8];
        entry.extend_from_slice(name.as_bytes());
        entry.extend([0x12, value.len() as u8]);
        entry.extend_from_slice(value.as_bytes());
        assert!(graph.windows(entry.len()).any(|window| window == entry), "{name} is {value}");
    }
    let place = dir.path().to_str().unwrap().as_bytes();
    assert!(!graph.windows(place.len()).any(|window| window == place), "no path of this machine");
}

#[test]
fn genai_config_matches_the_builders() {
    let dir = tempfile::tempdir().unwrap();
    for name in GOLDENS {
        let exported = export_to(&golden(name), &dir.path().join(name), DType::F32).unwrap();
        let read = |path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
        let ours = read(exported.directory.join("genai_config.json"));
        let theirs = read(golden(name).join("onnx/genai_f32/genai_config.json"));
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn sharded_checkpoint_gives_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::of_golden("qwen2-untied");
    checkpoint.write(&dir.path().join("whole"));
    checkpoint.write_sharded(&dir.path().join("shards"), 3);
    let data = |name: &str| {
        let exported = export_to(&dir.path().join(name), &dir.path().join(format!("{name}-onnx")), DType::Int4).unwrap();
        fs::read(exported.directory.join("model.onnx.data")).unwrap()
    };
    assert!(data("whole") == data("shards"));
}

#[test]
fn sixteen_bit_checkpoint_gives_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::of_golden("qwen2-tied");
    let little = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let f16 = |values: &[f32]| values.iter().map(|&value| half::f16::from_f32(value)).collect::<Vec<_>>();
    let bf16 = |values: &[f32]| values.iter().map(|&value| half::bf16::from_f32(value)).collect::<Vec<_>>();
    let check = |name: &str, narrow: Checkpoint, wide: Checkpoint| {
        let data = |part: &str, checkpoint: &Checkpoint| {
            let from = dir.path().join(format!("{name}-{part}"));
            checkpoint.write(&from);
            let exported = export_to(&from, &dir.path().join(format!("{name}-{part}-onnx")), DType::F32).unwrap();
            fs::read(exported.directory.join("model.onnx.data")).unwrap()
        };
        assert!(data("narrow", &narrow) == data("wide", &wide), "{name}");
    };
    let narrow = checkpoint.map(|values| (Dtype::F16, f16(values).iter().flat_map(|value| value.to_le_bytes()).collect()));
    let wide = checkpoint.map(|values| (Dtype::F32, little(&f16(values).iter().map(|value| value.to_f32()).collect::<Vec<_>>())));
    check("f16", narrow, wide);
    let narrow = checkpoint.map(|values| (Dtype::BF16, bf16(values).iter().flat_map(|value| value.to_le_bytes()).collect()));
    let wide =
        checkpoint.map(|values| (Dtype::F32, little(&bf16(values).iter().map(|value| value.to_f32()).collect::<Vec<_>>())));
    check("bf16", narrow, wide);
}

#[test]
fn cancelled_export_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
    for at in 0.. {
        let mut options = ExportOptions::new(dir.path().join("graph"), DType::Int4);
        let n_events = Arc::new(Mutex::new(0));
        options.progress = Progress::new({
            let (n_events, cancel) = (Arc::clone(&n_events), options.cancel.clone());
            move |_| {
                let mut n_events = n_events.lock().unwrap();
                *n_events += 1;
                if *n_events > at {
                    cancel.cancel();
                }
            }
        });
        match export(&files, &options) {
            Err(Error::Cancelled) => assert_eq!(names(dir.path()), Vec::<String>::new(), "after {at} events"),
            Err(error) => panic!("{error}"),
            Ok(_) => {
                assert!(at > 10, "every event was a chance to cancel");
                break;
            }
        }
    }
}

#[test]
fn progress_starts_at_zero_and_reaches_the_total() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut options = ExportOptions::new(dir.path().join("graph"), DType::Int8);
    options.progress = Progress::new({
        let seen = Arc::clone(&seen);
        move |event| seen.lock().unwrap().push((event.to_string(), event.bytes().unwrap()))
    });
    export(&ModelFiles::discover(&golden("llama3-rope"), "llama3-rope").unwrap(), &options).unwrap();
    let seen = seen.lock().unwrap();
    let exporting: Vec<_> =
        seen.iter().filter(|(text, _)| text.starts_with("exporting to int8")).map(|(_, bytes)| *bytes).collect();
    assert!(exporting.is_sorted(), "{exporting:?}");
    assert_eq!(exporting[0].0, 0);
    let (done, total) = exporting.last().unwrap();
    assert_eq!(done, total);
    assert!(seen.iter().any(|(text, _)| text == "hashing model.safetensors: 100%"), "{seen:?}");
}

#[test]
fn only_work_directories_of_killed_exports_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".graph.partial-dead", ".graph.partial-live", ".other.partial-dead"] {
        fs::create_dir_all(dir.path().join(name).join("export")).unwrap();
        fs::write(dir.path().join(name).join("lock"), "").unwrap();
    }
    let held = File::open(dir.path().join(".graph.partial-live/lock")).unwrap();
    held.lock().unwrap();
    export_to(&golden("qwen3"), &dir.path().join("graph"), DType::Int4).unwrap();
    assert_eq!(names(dir.path()), [".graph.partial-live", ".other.partial-dead", "graph"]);
}

#[test]
fn only_an_earlier_export_is_replaced_and_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("graph");
    let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
    let attempt = |replace: bool, dtype| export(&files, &ExportOptions { replace, ..ExportOptions::new(&directory, dtype) });
    fs::create_dir(&directory).unwrap();
    attempt(false, DType::F32).expect("an empty directory is no obstacle");
    let before = fs::read(directory.join("model.onnx")).unwrap();

    let error = attempt(false, DType::Int4).unwrap_err();
    assert!(error.to_string().ends_with("graph`: exists and is not empty"), "{error}");
    assert!(error.hint().unwrap().iter().any(|remedy| *remedy == Remedy::ReplaceExport));
    assert_eq!(fs::read(directory.join("model.onnx")).unwrap(), before);

    attempt(true, DType::Int4).unwrap();
    assert_ne!(fs::read(directory.join("model.onnx")).unwrap(), before);
    assert_eq!(names(dir.path()), ["graph"]);

    fs::write(directory.join("diary.txt"), "dear diary").unwrap();
    let error = attempt(true, DType::F32).unwrap_err();
    assert!(error.to_string().contains("contains `diary.txt`, which an export does not write"), "{error}");
    assert_eq!(fs::read_to_string(directory.join("diary.txt")).unwrap(), "dear diary");

    fs::write(dir.path().join("file"), "").unwrap();
    let error = export_to(&golden("qwen3"), &dir.path().join("file"), DType::F32).unwrap_err();
    assert!(error.to_string().ends_with("file`: exists and is not a directory"), "{error}");
}
