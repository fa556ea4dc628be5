//! Quantised weights in the cache: made once, found again with every bit, and made again when they are damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tandem_core::export::CachedKind;
use tandem_core::{DType, LoadOptions, LogitsRequest, Progress, ProgressEvent, SessionOptions, cache};
use tempfile::TempDir;

use crate::{golden, load};

/// Rows of an embedding with which a checkpoint is large enough to be kept.
const ROWS: usize = 300_000;

/// The golden checkpoint `name` with more tokens: some 40 MB.
fn large(name: &str) -> TempDir {
    let (source, directory) = (golden(name), tempfile::tempdir().unwrap());
    let mut config: Value = serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    config["vocab_size"] = ROWS.into();
    fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let wide: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            let (mut shape, data) = (view.shape().to_vec(), view.data());
            if name != "model.embed_tokens.weight" && name != "lm_head.weight" {
                return (name.to_owned(), view.dtype(), shape, data.to_vec());
            }
            let row = data.len() / shape[0];
            shape[0] = ROWS;
            (name.to_owned(), view.dtype(), shape, data.iter().copied().cycle().take(ROWS * row).collect())
        })
        .collect();
    let views = wide.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors")).unwrap();
    directory
}

/// What a load said.
#[derive(Default)]
struct Heard {
    n_quantised: AtomicUsize,
    problems: Mutex<Vec<String>>,
}

fn listening(cache: &Path, dtype: DType) -> (LoadOptions, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let progress = Progress::new({
        let heard = Arc::clone(&heard);
        move |event| match event {
            ProgressEvent::Quantizing { done: 0, .. } => {
                heard.n_quantised.fetch_add(1, Ordering::SeqCst);
            }
            ProgressEvent::NotKept { problem } => heard.problems.lock().unwrap().push((*problem).into()),
            _ => {}
        }
    });
    (LoadOptions::new().with_dtype(dtype).with_cache(cache.to_owned()).with_progress(progress), heard)
}

/// The bits of the logits after some tokens.
fn logits(directory: &Path, options: &LoadOptions) -> Vec<u32> {
    let model = load(directory, options).unwrap();
    let mut session = model.new_session(&SessionOptions::default()).unwrap();
    let logits = session.append(&[1, 5, 299_999, 7], LogitsRequest::Last(2)).unwrap();
    logits.values().iter().map(|value| value.to_bits()).collect()
}

/// The files of the only entry.
fn entry(cache: &Path) -> PathBuf {
    let entries = cache::list(&cache::directory(Some(cache)).unwrap());
    assert_eq!(entries.len(), 1);
    entries[0].directory.clone()
}

#[test]
fn kept_weights_have_every_bit_of_quantised_ones() {
    for name in ["qwen2-tied", "qwen2-untied"] {
        let checkpoint = large(name);
        for dtype in [DType::Int4, DType::Int8] {
            let dir = tempfile::tempdir().unwrap();
            let (options, heard) = listening(dir.path(), dtype);
            // Nothing can be kept where the cache is a file.
            let file = dir.path().join("file");
            fs::write(&file, "").unwrap();
            let quantised = logits(checkpoint.path(), &options.clone().with_cache(file));
            assert_eq!(heard.problems.lock().unwrap().len(), 1);
            let made = logits(checkpoint.path(), &options);
            let n_quantised = heard.n_quantised.load(Ordering::SeqCst);
            let read = logits(checkpoint.path(), &options.clone().with_huge_pages(true));
            let mapped = logits(checkpoint.path(), &options);
            assert!(made == quantised && read == quantised && mapped == quantised, "{name} {dtype}");
            assert_eq!(heard.n_quantised.load(Ordering::SeqCst), n_quantised, "{name} {dtype}: quantised once");
            let listed = &cache::list(&cache::directory(Some(dir.path())).unwrap())[0];
            assert_eq!((listed.kind, listed.dtype.clone()), (CachedKind::Weights, Some(dtype.to_string())));
            assert_eq!(listed.source.as_deref(), checkpoint.path().file_name().and_then(|name| name.to_str()));
        }
    }
}

#[test]
fn small_checkpoints_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (options, heard) = listening(&dir.path().join("cache"), DType::Int4);
    load(&golden("qwen2-tied"), &options).unwrap();
    assert!(heard.n_quantised.load(Ordering::SeqCst) > 0 && !dir.path().join("cache").exists());
}

#[test]
fn damaged_and_foreign_entries_are_made_again() {
    let (checkpoint, dir) = (large("qwen2-tied"), tempfile::tempdir().unwrap());
    let (options, heard) = listening(dir.path(), DType::Int4);
    let n_quantised = || heard.n_quantised.load(Ordering::SeqCst);
    let right = logits(checkpoint.path(), &options);
    let per_load = n_quantised();
    let entry = entry(dir.path());
    let whole = |name: &str| fs::read(entry.join(name)).unwrap();
    let (index, data, manifest) = (whole("weights.json"), whole("weights.bin"), whole("manifest.json"));
    let damaged = |bytes: &[u8], at: usize| [&bytes[..at], &[bytes[at] ^ 1], &bytes[at + 1..]].concat();
    let mut n_before = per_load;
    for huge_pages in [false, true] {
        let options = options.clone().with_huge_pages(huge_pages);
        for (what, name, content) in [
            ("a bit of the index", "weights.json", damaged(&index, index.len() / 2)),
            ("a bit of the weights", "weights.bin", damaged(&data, data.len() / 2)),
            ("the end of the weights", "weights.bin", data[..data.len() - 1].to_vec()),
            ("all of the manifest", "manifest.json", Vec::new()),
        ] {
            fs::write(entry.join(name), content).unwrap();
            assert!(logits(checkpoint.path(), &options) == right, "{what}");
            assert_eq!(n_quantised(), n_before + per_load, "{what}");
            n_before += per_load;
            assert!(
                whole("weights.json") == index && whole("weights.bin") == data && whole("manifest.json") == manifest,
                "{what}"
            );
        }
    }
    // That of another checkpoint: whole, and not this one's.
    let other = tempfile::tempdir().unwrap();
    let untied = large("qwen2-untied");
    load(untied.path(), &listening(other.path(), DType::Int4).0).unwrap();
    let foreign = self::entry(other.path());
    fs::remove_dir_all(&entry).unwrap();
    fs::rename(foreign, &entry).unwrap();
    assert!(logits(checkpoint.path(), &options) == right, "a foreign entry");
    assert_eq!((n_quantised(), whole("weights.bin") == data), (n_before + per_load, true));
}

#[test]
fn concurrent_loads_quantise_once() {
    let (checkpoint, dir) = (large("qwen2-tied"), tempfile::tempdir().unwrap());
    let (n_first, waits) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let start = Barrier::new(2);
    let one = || {
        let progress = Progress::new({
            let (n_first, waits, is_first) = (Arc::clone(&n_first), Arc::clone(&waits), AtomicBool::new(true));
            move |event| match event {
                ProgressEvent::Waiting { what } => {
                    assert_eq!(*what, "quantising model to int4");
                    waits.store(true, Ordering::SeqCst);
                }
                // Whoever quantises does not end before the other one waits.
                ProgressEvent::Quantizing { .. } if is_first.swap(false, Ordering::SeqCst) => {
                    n_first.fetch_add(1, Ordering::SeqCst);
                    let begun = Instant::now();
                    while !waits.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(20) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
                _ => {}
            }
        });
        let options = LoadOptions::new().with_dtype(DType::Int4).with_cache(dir.path().to_owned()).with_progress(progress);
        start.wait();
        logits(checkpoint.path(), &options)
    };
    let (first, second) = std::thread::scope(|scope| {
        let threads = [scope.spawn(one), scope.spawn(one)];
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        (first, second)
    });
    assert!(first == second && waits.load(Ordering::SeqCst), "the second waited");
    assert_eq!(n_first.load(Ordering::SeqCst), 1);
}

#[test]
fn entry_in_use_stays_while_it_is_mapped() {
    let (checkpoint, dir) = (large("qwen2-tied"), tempfile::tempdir().unwrap());
    let (options, _) = listening(dir.path(), DType::Int8);
    load(checkpoint.path(), &options).unwrap();
    let mapped = load(checkpoint.path(), &options).unwrap();
    let entries = cache::directory(Some(dir.path())).unwrap();
    assert_eq!(cache::clear(&entries).unwrap().in_use.len(), 1);
    drop(mapped);
    assert_eq!(cache::clear(&entries).unwrap().removed.len(), 1);
    // In memory of its own it needs no file.
    let own = options.with_huge_pages(true);
    load(checkpoint.path(), &own).unwrap();
    let read = load(checkpoint.path(), &own).unwrap();
    assert_eq!(cache::clear(&entries).unwrap().removed.len(), 1);
    drop(read);
}
