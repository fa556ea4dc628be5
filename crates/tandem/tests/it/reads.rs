//! A load opens each of a model's files once, counted by the kernel: whatever is read twice is opened twice.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tandem::{BackendKind, Settings};
use tandem_core::conformance::GgufWriter;
use tandem_core::gguf::TensorType;

use crate::support::{copy_checkpoint, engines, golden, resolver};

/// Counts how often the files of a directory are opened.
struct Opens(OwnedFd);

impl Opens {
    fn watch(directory: &Path) -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        // Equal events that follow each other are one: with each close between them, opens are counted.
        inotify::add_watch(&inotify, directory, WatchFlags::OPEN | WatchFlags::CLOSE).unwrap();
        Self(inotify)
    }

    fn by_file(&self) -> BTreeMap<String, usize> {
        let mut buffer = [MaybeUninit::uninit(); 1 << 16];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut opens = BTreeMap::new();
        while let Ok(event) = reader.next() {
            if let Some(name) = event.file_name().filter(|_| event.events().contains(ReadFlags::OPEN)) {
                *opens.entry(name.to_string_lossy().into_owned()).or_default() += 1;
            }
        }
        opens
    }
}

/// Loads the model at `path`, whose files are in `directory`, and expects each to have been opened once.
#[track_caller]
fn check(path: &Path, directory: &Path, settings: &Settings, files: &[&str]) {
    let opens = Opens::watch(directory);
    let model = resolver().load(&path.into(), settings).unwrap();
    assert!(model.admission().is_some(), "the plan is part of it");
    let opens = opens.by_file();
    for file in files {
        assert_eq!(opens.get(*file), Some(&1), "{file} on {:?}: {opens:?}", settings.backend);
    }
}

#[test]
fn a_checkpoint_is_opened_once() {
    for settings in engines() {
        let dir = tempfile::tempdir().unwrap();
        copy_checkpoint(dir.path());
        check(dir.path(), dir.path(), &settings, &crate::support::CHECKPOINT);
    }
}

#[test]
fn a_graph_is_opened_once() {
    let on_onnx = |settings: &Settings| settings.backend == Some(BackendKind::Onnx);
    for settings in engines().iter().filter(|settings| on_onnx(settings)) {
        let dir = tempfile::tempdir().unwrap();
        copy_checkpoint(dir.path());
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        fs::copy(golden("qwen2-tied").join("onnx/optimum_f32/model.onnx"), dir.path().join("model.onnx")).unwrap();
        check(dir.path(), dir.path(), settings, &["config.json", "tokenizer.json", "model.onnx"]);
    }
}

#[test]
fn a_gguf_file_is_opened_once() {
    let on_candle = |settings: &Settings| settings.backend == Some(BackendKind::Candle);
    for settings in engines().iter().filter(|settings| on_candle(settings)) {
        let dir = tempfile::tempdir().unwrap();
        let floats = |_: &str, _: &[usize], values: &[f32]| {
            (TensorType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        };
        let path = dir.path().join("model.gguf");
        fs::write(&path, GgufWriter::of_checkpoint(&golden("qwen2-tied"), &floats).to_bytes()).unwrap();
        check(&path, dir.path(), settings, &["model.gguf"]);
    }
}
