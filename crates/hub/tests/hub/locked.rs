//! `tandem.lock`: exactly these bytes, or an error.

use tandem_core::{CancelToken, Progress};
use tandem_hub::{Hub, HubSettings, LockFile, LockedModel, PullOptions};

use crate::place::{Place, WEIGHTS, random, reference, wanted};
use crate::server::COMMIT;

fn lock(place: &Place) -> LockedModel {
    let pulled = place.pulls();
    LockedModel::of(&pulled, &reference().revision, &Progress::default(), &CancelToken::new()).unwrap()
}

fn pull(settings: HubSettings, locked: LockedModel) -> tandem_core::Result<tandem_hub::Pulled> {
    Hub::new(settings).pull(&reference(), &PullOptions { locked: Some(locked), ..PullOptions::new(wanted()) })
}

#[test]
fn what_is_locked_is_pulled_by_its_commit() {
    let place = Place::new();
    let locked = lock(&place);
    let names: Vec<_> = locked.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", WEIGHTS, "tokenizer.json"]);
    let file = place.dir.path().join("home");
    let mut written = LockFile::default();
    written.insert(locked.clone());
    written.write(&file).unwrap();
    let read = LockFile::read(&file).unwrap().unwrap();
    assert_eq!(read.get(&reference().repository), Some(&locked));
    std::fs::remove_dir_all(place.cache()).unwrap();
    assert_eq!(pull(place.settings(), locked).unwrap().received, 320_023);
    assert_eq!(place.hub.seen(&format!("/revision/{COMMIT}")).len(), 1);
}

#[test]
fn anything_else_is_refused() {
    for (change, part) in [(0, "has 299999 bytes, and 300000 in the lock file"), (1, "has the SHA-256 `")] {
        let place = Place::new();
        let locked = lock(&place);
        std::fs::remove_dir_all(place.cache()).unwrap();
        let other = if change == 0 { random(299_999, 2) } else { random(300_000, 3) };
        place.hub.set(WEIGHTS, other);
        let error = pull(place.settings(), locked).unwrap_err();
        assert!(error.to_string().contains("field `model.safetensors`") && error.to_string().contains(part), "{error}");
        assert_eq!(place.hub.transfers(WEIGHTS).len(), 1, "nothing is downloaded that is not locked");
    }
    // A small file of the same size: its hash in git is not in the lock file, its SHA-256 is.
    let place = Place::new();
    let locked = lock(&place);
    std::fs::remove_dir_all(place.cache()).unwrap();
    place.hub.set("config.json", br#"{"model_type": "qwen3"}"#.to_vec());
    let error = pull(place.settings(), locked).unwrap_err().to_string();
    assert!(error.contains("`owner/name`: field `config.json`: has the SHA-256 `"), "{error}");
    assert!(!place.repository().join("refs/main").exists());
}

#[test]
fn offline_the_cache_is_held_to_the_lock() {
    let place = Place::new();
    let locked = lock(&place);
    let settings = HubSettings { offline: true, ..place.settings() };
    let n_requests = place.hub.seen("").len();
    assert_eq!(pull(settings.clone(), locked.clone()).unwrap().received, 0);
    std::fs::remove_file(place.snapshot().join(WEIGHTS)).unwrap();
    std::fs::write(place.snapshot().join(WEIGHTS), random(300_000, 9)).unwrap();
    let error = pull(settings, locked).unwrap_err().to_string();
    assert!(error.contains("field `model.safetensors`: has the SHA-256 `"), "{error}");
    assert_eq!(place.hub.seen("").len(), n_requests);
}
