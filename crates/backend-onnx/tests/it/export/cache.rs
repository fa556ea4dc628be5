//! Graphs in the cache: made once, by one process, and found again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use safetensors::Dtype;
use tandem_backend_onnx::graph_cache::cached_graph;
use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::backend::LogitsRequest;
use tandem_core::cache;
use tandem_core::conformance;
use tandem_core::export::{CachedInfo, CachedKind};
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, DType, Error, LoadOptions, Progress, ProgressEvent, SessionOptions};

use super::checkpoints::{Checkpoint, Weight, golden};
use super::names;

/// Loads with the cache `cache` and counts the exports.
fn counting(cache: &Path) -> (LoadOptions, Arc<AtomicUsize>) {
    let n_exports = Arc::new(AtomicUsize::new(0));
    let progress = Progress::new({
        let n_exports = Arc::clone(&n_exports);
        move |event| {
            if matches!(event, ProgressEvent::Exporting { done: 0, .. }) {
                n_exports.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (LoadOptions::new().with_cache(cache.to_owned()).with_progress(progress), n_exports)
}

#[test]
fn checkpoint_is_exported_once_for_each_dtype_and_content() {
    let dir = tempfile::tempdir().unwrap();
    let (options, n_exports) = counting(&dir.path().join("cache"));
    let checkpoint = dir.path().join("checkpoint");
    let mut content = Checkpoint::of_golden("qwen3");
    content.write(&checkpoint);
    let graph = |dtype| {
        let files = ModelFiles::discover(&checkpoint, "qwen3").unwrap();
        cached_graph(&files, dtype, &options).unwrap().path().to_owned()
    };
    let int4 = graph(DType::Int4);
    assert_eq!((graph(DType::Int4), n_exports.load(Ordering::SeqCst)), (int4.clone(), 1));
    let int8 = graph(DType::Int8);
    assert_eq!((int8 != int4, n_exports.load(Ordering::SeqCst)), (true, 2));

    // One bit of one weight, in a file of the same size.
    content.weights.get_mut("model.norm.weight").unwrap().bytes[0] ^= 1;
    content.write(&checkpoint);
    let changed = graph(DType::Int4);
    assert_eq!((changed != int4, n_exports.load(Ordering::SeqCst)), (true, 3));
    content.config["rms_norm_eps"] = 1e-5.into();
    content.write(&checkpoint);
    assert_eq!((graph(DType::Int4) != changed, n_exports.load(Ordering::SeqCst)), (true, 4));

    // The same content elsewhere is the same graph.
    let elsewhere = dir.path().join("elsewhere");
    content.write(&elsewhere);
    cached_graph(&ModelFiles::discover(&elsewhere, "other").unwrap(), DType::Int4, &options).unwrap();
    assert_eq!(n_exports.load(Ordering::SeqCst), 4);
    assert_eq!(names(int4.parent().unwrap()), ["manifest.json", "model.onnx", "model.onnx.data"]);
}

#[test]
fn damaged_entry_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let (options, n_exports) = counting(dir.path());
    let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
    let graph = || cached_graph(&files, DType::Int4, &options).unwrap().path().to_owned();
    let path = graph();
    let whole = |name: &str| fs::read(path.with_file_name(name)).unwrap();
    let (onnx, weights) = (whole("model.onnx"), whole("model.onnx.data"));
    let damaged = |bytes: &[u8], at: usize| [&bytes[..at], &[bytes[at] ^ 1], &bytes[at + 1..]].concat();
    for (n_before, (name, content)) in [
        ("model.onnx", damaged(&onnx, onnx.len() / 2)),
        ("model.onnx", Vec::new()),
        ("model.onnx.data", weights[..weights.len() - 1].to_vec()),
        ("manifest.json", Vec::new()),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(path.with_file_name(name), content).unwrap();
        assert_eq!((graph(), n_exports.load(Ordering::SeqCst)), (path.clone(), n_before + 2), "{name}");
        assert!(whole("model.onnx") == onnx && whole("model.onnx.data") == weights, "{name}");
    }
    fs::remove_file(path.with_file_name("model.onnx.data")).unwrap();
    assert_eq!((graph(), n_exports.load(Ordering::SeqCst)), (path.clone(), 6));
}

#[test]
fn concurrent_loads_share_one_export() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (n_exports, waits) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let start = Arc::new(Barrier::new(2));
    let one = || -> PathBuf {
        let progress = Progress::new({
            let (n_exports, waits) = (Arc::clone(&n_exports), Arc::clone(&waits));
            move |event| match event {
                ProgressEvent::Waiting { what } => {
                    assert_eq!(*what, "the export of qwen3 to int4");
                    waits.store(true, Ordering::SeqCst);
                }
                // Whoever exports does not end before the other one waits.
                ProgressEvent::Exporting { done: 0, .. } => {
                    n_exports.fetch_add(1, Ordering::SeqCst);
                    let begun = Instant::now();
                    while !waits.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(20) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
                _ => {}
            }
        });
        let options = LoadOptions::new().with_cache(cache.clone()).with_progress(progress);
        let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
        start.wait();
        cached_graph(&files, DType::Int4, &options).unwrap().path().to_owned()
    };
    let (first, second) = std::thread::scope(|scope| {
        let threads = [scope.spawn(one), scope.spawn(one)];
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        (first, second)
    });
    assert_eq!(first, second);
    assert!(waits.load(Ordering::SeqCst), "the second waited");
    assert_eq!(n_exports.load(Ordering::SeqCst), 1);
}

#[test]
fn waiting_for_an_export_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
    let (options, _) = counting(dir.path());
    let graph = cached_graph(&files, DType::Int4, &options).unwrap();
    let directory = &graph.path().parent().unwrap().to_owned();
    drop(graph);
    fs::remove_dir_all(directory).unwrap();
    let lock = fs::File::open(directory.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let mut options = options;
    options.progress = Progress::new({
        let cancel = options.cancel.clone();
        move |event| {
            if matches!(event, ProgressEvent::Waiting { .. }) {
                cancel.cancel();
            }
        }
    });
    assert!(matches!(cached_graph(&files, DType::Int4, &options), Err(Error::Cancelled)));
    assert!(!directory.exists());
}

#[test]
fn export_succeeds_after_a_cancelled_one() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::discover(&golden("mistral"), "mistral").unwrap();
    let mut options = LoadOptions::new().with_cache(dir.path().to_owned());
    options.progress = Progress::new({
        let cancel = options.cancel.clone();
        move |event| {
            if matches!(event, ProgressEvent::Exporting { done: 1.., .. }) {
                cancel.cancel();
            }
        }
    });
    assert!(matches!(cached_graph(&files, DType::F32, &options), Err(Error::Cancelled)));
    let left = names(&dir.path().join("graphs"));
    assert!(left.iter().all(|name| name.ends_with(".lock") || name == "hashes.json"), "{left:?}");
    let options = LoadOptions::new().with_cache(dir.path().to_owned());
    assert!(cached_graph(&files, DType::F32, &options).unwrap().path().is_file());
}

#[test]
fn clear_keeps_graphs_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let options = LoadOptions::new().with_cache(dir.path().to_owned());
    let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
    let [used, idle] = [DType::Int4, DType::Int8].map(|dtype| cached_graph(&files, dtype, &options).unwrap());
    drop(idle);
    let graphs = cache::directory(options.cache.as_deref()).unwrap();
    let kinds = |of: &[CachedInfo]| of.iter().map(|graph| graph.dtype.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(kinds(&cache::list(&graphs)), ["int4", "int8"]);
    let first = &cache::list(&graphs)[0];
    assert_eq!((first.source.as_deref(), first.kind), (Some("qwen3"), CachedKind::Graph));
    let done = cache::clear(&graphs).unwrap();
    assert_eq!((kinds(&done.removed), kinds(&done.in_use)), (vec!["int8".into()], vec!["int4".into()]));
    assert!(used.path().is_file());
    drop(used);
    assert_eq!(cache::clear(&graphs).unwrap().removed.len(), 1);
    assert!(cache::list(&graphs).is_empty());
    // What was removed is made again.
    assert!(cached_graph(&files, DType::Int8, &options).unwrap().path().is_file());
}

#[test]
fn unwritable_cache_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let files = ModelFiles::discover(&golden("qwen3"), "qwen3").unwrap();
    let options = LoadOptions::new().with_cache(dir.path().join("file"));
    let error = cached_graph(&files, DType::Int4, &options).unwrap_err();
    assert!(error.to_string().contains("file/graphs`: cannot be made"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("TANDEM_CACHE"));
}

/// A checkpoint of some 40 MB, made of a golden one by many more rows of the embedding.
fn large(directory: &Path) {
    let mut checkpoint = Checkpoint::of_golden("qwen3");
    let embedding = &checkpoint.weights["model.embed_tokens.weight"];
    let (n_rows, hidden_size) = (600_000, embedding.shape[1]);
    assert_eq!(embedding.dtype, Dtype::BF16);
    let bytes = embedding.bytes.iter().copied().cycle().take(n_rows * hidden_size * 2).collect();
    let weight = Weight { dtype: Dtype::BF16, shape: vec![n_rows, hidden_size], bytes };
    checkpoint.weights.insert("model.embed_tokens.weight".into(), weight);
    checkpoint.config["vocab_size"] = n_rows.into();
    checkpoint.write(directory);
}

#[test]
fn load_caches_graphs_of_large_checkpoints_only() {
    conformance::with_fixture(
        || library::find(None).map_err(|error| conformance::describe(&error)),
        |_| caches_graphs_of_large_checkpoints_only(),
    );
}

fn caches_graphs_of_large_checkpoints_only() {
    let dir = tempfile::tempdir().unwrap();
    large(&dir.path().join("large"));
    let (options, n_exports) = counting(&dir.path().join("cache"));
    let options = options.with_dtype(DType::Int8);
    let load = |path: &Path| OnnxBackend::new(None).load(&ModelFiles::discover(path, "model").unwrap(), &options).unwrap();
    let small = load(&golden("qwen3"));
    assert_eq!((small.info().dtype, n_exports.load(Ordering::SeqCst)), (DType::Int8, 0));
    assert!(!dir.path().join("cache").exists());

    for _ in 0..2 {
        let model = load(&dir.path().join("large"));
        assert_eq!((model.info().dtype, n_exports.load(Ordering::SeqCst)), (DType::Int8, 1));
        let files: Vec<_> = model.info().weight_files.iter().map(|file| file.path.clone().unwrap()).collect();
        assert!(files.iter().all(|path| path.starts_with(dir.path().join("cache/graphs"))), "{files:?}");
        let mut session = model.new_session(&SessionOptions::default()).unwrap();
        assert_eq!(session.append(&[1, 2, 3], LogitsRequest::Last(1)).unwrap().n_rows(), 1);
    }
}
