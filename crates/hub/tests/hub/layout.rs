//! The cache on disk is that of Python's `huggingface_hub`, to the name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tandem_core::DType;
use tandem_hub::{Cache, FileSelector, Hub, HubReference, HubSettings, PullOptions};

use crate::place::{Place, WEIGHTS, random, reference, wanted};
use crate::server::{COMMIT, etag};

#[test]
fn names_and_links_are_those_of_python() {
    let place = Place::new();
    place.pulls();
    let config = etag("config.json", br#"{"model_type": "qwen2"}"#);
    let (tokenizer, weights) = (etag("tokenizer.json", &random(20_000, 1)), etag(WEIGHTS, &place.weights()));
    let names = |path: &Path| -> BTreeSet<String> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names(&place.cache()), set(&[".locks", "models--owner--name"]));
    assert_eq!(names(&place.repository()), set(&["blobs", "refs", "snapshots", "trees"]));
    assert_eq!(names(&place.repository().join("blobs")), set(&[&config, &tokenizer, &weights]));
    assert_eq!(names(&place.repository().join("snapshots")), set(&[COMMIT]));
    assert_eq!(names(&place.snapshot()), set(&["config.json", "tokenizer.json", WEIGHTS]));
    assert_eq!(fs::read_to_string(place.repository().join("refs/main")).unwrap(), COMMIT);
    let locks = [&config, &tokenizer, &weights].map(|hash| format!("{hash}.lock"));
    assert_eq!(names(&place.cache().join(".locks/models--owner--name")), locks.into_iter().collect());
    if cfg!(unix) {
        let link = fs::read_link(place.snapshot().join("config.json")).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(config));
    }
}

#[test]
fn a_revision_with_a_slash_is_a_reference_in_directories() {
    let place = Place::new();
    let pinned: HubReference = "owner/name@refs/pr/7".parse().unwrap();
    let pulled = Hub::new(place.settings()).pull(&pinned, &PullOptions::new(wanted())).unwrap();
    assert_eq!(fs::read_to_string(place.repository().join("refs/refs/pr/7")).unwrap(), COMMIT);
    assert!(place.hub.seen("/revision/refs%2Fpr%2F7").len() == 1);
    assert_eq!(pulled.snapshot.commit.as_str(), COMMIT);
    let by_commit: HubReference = format!("owner/name@{COMMIT}").parse().unwrap();
    let snapshot = Hub::new(place.settings()).cached(&by_commit, &wanted()).unwrap().unwrap();
    assert_eq!(snapshot.directory, place.snapshot());
    assert!(!place.repository().join("refs/main").exists());
}

#[test]
fn what_is_cached_is_found_without_a_request() {
    let place = Place::new();
    let hub = Hub::new(place.settings());
    assert_eq!(hub.cached(&reference(), &wanted()).unwrap(), None);
    let snapshot = hub.find(&reference(), &PullOptions::new(wanted())).unwrap();
    let n_requests = place.hub.seen("").len();
    assert_eq!(hub.find(&reference(), &PullOptions::new(wanted())).unwrap(), snapshot);
    assert_eq!(place.hub.seen("").len(), n_requests);
    // A file that is gone is brought again.
    fs::remove_file(snapshot.directory.join("tokenizer.json")).unwrap();
    assert_eq!(hub.cached(&reference(), &wanted()).unwrap(), None);
    hub.find(&reference(), &PullOptions::new(wanted())).unwrap();
    assert!(snapshot.directory.join("tokenizer.json").exists());
}

#[test]
fn a_dtype_that_was_not_pulled_is_not_taken_for_one_that_was() {
    let place = Place::with(&[
        ("config.json", b"{}".to_vec()),
        ("onnx/model.onnx", random(100, 1)),
        ("onnx/model.onnx_data", random(5000, 2)),
        ("onnx/model_q4.onnx", random(50, 3)),
    ]);
    let hub = Hub::new(place.settings());
    let onnx = |dtype| {
        FileSelector::new(move |listing| Ok([listing.small()?, listing.with_data(listing.model()?.graph_for(dtype)?)].concat()))
    };
    let pulled = hub.pull(&reference(), &PullOptions::new(onnx(Some(DType::Int4)))).unwrap();
    assert_eq!(pulled.received, 52);
    assert!(hub.cached(&reference(), &onnx(Some(DType::Int4))).unwrap().is_some());
    assert_eq!(hub.cached(&reference(), &onnx(None)).unwrap(), None);
    assert_eq!(hub.pull(&reference(), &PullOptions::new(onnx(None))).unwrap().received, 5100);
}

#[test]
fn the_cache_is_listed_and_removed() {
    let place = Place::new();
    let cache = Cache::new(place.cache());
    assert!(cache.models().is_empty());
    place.pulls();
    fs::create_dir_all(place.cache().join("datasets--owner--other")).unwrap();
    fs::create_dir_all(place.cache().join("models--..--evil")).unwrap();
    let models = cache.models();
    assert_eq!(models.len(), 1);
    assert_eq!((models[0].repository.id(), models[0].bytes, models[0].partial_bytes), ("owner/name", 320_023, 0));
    let snapshot = &models[0].snapshots[0];
    assert_eq!((snapshot.commit.as_str(), &snapshot.revisions[..], snapshot.files.len()), (COMMIT, &["main".to_owned()][..], 3));

    // Another commit shares what did not change.
    place.hub.set("config.json", b"{\"model_type\": \"qwen3\"}".to_vec());
    let other = "f".repeat(40);
    fs::create_dir_all(place.repository().join("snapshots").join(&other)).unwrap();
    fs::copy(place.snapshot().join("config.json"), place.repository().join("snapshots").join(&other).join("config.json"))
        .unwrap();
    let removed = cache.remove_revision(&format!("owner/name@{COMMIT}").parse().unwrap()).unwrap();
    assert_eq!((removed.n_files, removed.bytes), (3, 320_023));
    assert!(!place.repository().join("refs/main").exists());
    let removed = cache.remove(&reference().repository).unwrap();
    assert_eq!(removed.commits, [other]);
    assert!(cache.models().is_empty() && !place.repository().exists());
    let error = cache.remove(&reference().repository).unwrap_err();
    assert!(error.to_string().contains("no model `owner/name`: it is not in the cache"), "{error}");
}

#[test]
fn what_is_being_downloaded_is_not_removed() {
    let place = Place::new();
    place.hub.next(WEIGHTS, [crate::server::Fault::Stall(1000)]);
    let mut child = crate::kill::spawn(&place);
    let started = std::time::Instant::now();
    while !place.partial().exists() {
        assert!(started.elapsed().as_secs() < 20);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let error = Cache::new(place.cache()).remove(&reference().repository).unwrap_err();
    assert!(error.to_string().contains("another process downloads into it"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    Cache::new(place.cache()).remove(&reference().repository).unwrap();
    assert!(!place.repository().exists());
}

#[test]
fn an_endpoint_may_have_a_path() {
    let place = Place::new();
    let settings = HubSettings { endpoint: format!("{}/mirror", place.hub.endpoint()), ..place.settings() };
    // The server knows no such place, and is asked for it all the same.
    let error = Hub::new(settings).pull(&reference(), &PullOptions::new(wanted())).unwrap_err();
    assert!(error.to_string().contains("status 404"), "{error}");
    assert!(place.hub.seen("")[0].path.starts_with("/mirror/api/models/owner/name/revision/main"));
}
