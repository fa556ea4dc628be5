//! A model as one file, there and back; and files that only look like one.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use tandem_core::{CancelToken, Progress, Result};
use tandem_hub::{Hub, HubReference, HubSettings, LockFile, LockedModel, PullOptions, Pulled};

use crate::place::{Place, WEIGHTS, random, reference, wanted};
use crate::server::COMMIT;

fn write(place: &Place) -> PathBuf {
    let pulled = place.pulls();
    let path = place.dir.path().join("home");
    let hub = Hub::new(place.settings());
    let revision = &reference().revision;
    let bytes = hub.write_bundle(&pulled, revision, &path, &Progress::default(), &CancelToken::new()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
    path
}

/// Reads a bundle into an empty cache, without a network.
fn read(place: &Place, bundle: &[u8], locks: Option<&LockFile>) -> Result<(HubReference, Pulled)> {
    if place.cache().exists() {
        fs::remove_dir_all(place.cache()).unwrap();
    }
    let path = place.dir.path().join("home");
    fs::write(&path, bundle).unwrap();
    let hub = Hub::new(HubSettings { offline: true, ..place.settings() });
    hub.read_bundle(&path, locks, &Progress::default(), &CancelToken::new())
}

#[test]
fn a_bundle_brings_a_model_to_a_machine_without_a_network() {
    let place = Place::new();
    let bundle = fs::read(write(&place)).unwrap();
    let (named, pulled) = read(&place, &bundle, None).unwrap();
    assert_eq!((named, pulled.files.len()), (reference(), 3));
    assert_eq!(fs::read(place.snapshot().join(WEIGHTS)).unwrap(), place.weights());
    place.check_cache();
    let offline = Hub::new(HubSettings { offline: true, ..place.settings() });
    assert_eq!(offline.find(&reference(), &PullOptions::new(wanted())).unwrap().directory, place.snapshot());
    // Online nothing of it is asked for again.
    let sent = place.hub.sent();
    place.pulls();
    assert_eq!(place.hub.sent(), sent);
}

#[test]
fn a_bundle_is_a_tar_archive_that_others_can_read() {
    let place = Place::new();
    let file = fs::File::open(write(&place)).unwrap();
    let names: Vec<String> = tar::Archive::new(file)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["tandem-bundle.json", "files/config.json", "files/tokenizer.json", "files/model.safetensors"]);
}

#[test]
fn a_bundle_is_held_to_the_lock() {
    let place = Place::new();
    let bundle = fs::read(write(&place)).unwrap();
    let locked = LockedModel::of(&place.pulls(), &reference().revision, &Progress::default(), &CancelToken::new()).unwrap();
    let with = |change: fn(&mut LockedModel)| {
        let mut locked = locked.clone();
        change(&mut locked);
        LockFile { models: vec![locked] }
    };
    read(&place, &bundle, Some(&with(|_| ()))).unwrap();
    let fails = |locks: &LockFile, part: &str| {
        let error = read(&place, &bundle, Some(locks)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        for name in ["refs", "trees", "snapshots"] {
            assert!(!place.repository().join(name).exists(), "{name} was written before the lock was checked");
        }
    };
    fails(&with(|locked| drop(locked.files.pop())), "is not in the lock file");
    fails(&with(|locked| locked.files[0].sha256 = "0".repeat(64)), "`owner/name`: field `config.json`: has the SHA-256");
    fails(&with(|locked| locked.commit = "0".repeat(40).parse().unwrap()), "is not what the lock file has");
    fails(&LockFile::default(), "is not what the lock file has");
}

/// Whatever a bundle says of itself, what the cache has under the same names is worth more.
#[test]
fn a_bundle_does_not_replace_what_is_in_the_cache() {
    let place = Place::new();
    place.pulls();
    let before =
        (fs::read(place.snapshot().join("config.json")).unwrap(), fs::read(place.repository().join("refs/main")).unwrap());
    let hub = Hub::new(HubSettings { offline: true, ..place.settings() });
    let read = |bundle: Vec<u8>| {
        let path = place.dir.path().join("home");
        fs::write(&path, bundle).unwrap();
        hub.read_bundle(&path, None, &Progress::default(), &CancelToken::new())
    };
    let evil: &[(&str, &[u8])] = &[("files/config.json", b"{}")];
    let check = |bundle: Vec<u8>, part: &str| {
        let error = read(bundle).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(fs::read(place.snapshot().join("config.json")).unwrap(), before.0);
        assert_eq!(fs::read(place.repository().join("refs/main")).unwrap(), before.1);
        place.check_cache();
    };
    check(forged(|_| (), evil), "field `config.json`: has the hash `");
    // A file that the cache knows of and does not have.
    fs::remove_file(place.snapshot().join("config.json")).unwrap();
    assert!(read(forged(|_| (), evil)).unwrap_err().to_string().contains("field `config.json`: has the hash `"));
    place.pulls();
    // Another commit under the name of a branch.
    check(forged(|manifest| manifest["commit"] = "f".repeat(40).into(), evil), "field `revision`: `main` is");
    assert!(!place.repository().join("snapshots").join("f".repeat(40)).exists());
    // The same again is as good as before, and so is what the lock file vouches for.
    let bundle = fs::read(write(&place)).unwrap();
    read(bundle).unwrap();
}

/// What a bundle said of a commit yields to what the hub says.
#[test]
fn the_hub_corrects_what_a_bundle_said_of_a_commit() {
    let place = Place::new();
    let entry = |name: &str, bytes: &[u8]| serde_json::json!({"size": bytes.len(), "blob_id": crate::server::etag(name, bytes)});
    let said = serde_json::json!({"format_version": 1, "files": {"config.json": entry("config.json", b"{}")}});
    let bundle = forged(|manifest| manifest["tree"] = said, &[("files/config.json", b"{}")]);
    read(&place, &bundle, None).unwrap();
    place.pulls();
    assert_eq!(Hub::new(place.settings()).verify(None, &Progress::default(), &CancelToken::new()).unwrap(), []);
}

#[test]
fn a_bundle_that_contradicts_itself_is_refused() {
    let place = Place::new();
    let tree = serde_json::json!({"format_version": 1, "files": {"config.json": {"size": 2, "blob_id": "0".repeat(40)}}});
    let bundle = forged(|manifest| manifest["tree"] = tree, &[("files/config.json", b"{}")]);
    let error = read(&place, &bundle, None).unwrap_err();
    assert!(error.to_string().contains("field `tree`: "), "{error}");
    assert!(!place.repository().join("trees").exists());
}

#[track_caller]
fn check(damage: impl FnOnce(&mut Vec<u8>), part: &str) {
    let place = Place::new();
    let mut bundle = fs::read(write(&place)).unwrap();
    damage(&mut bundle);
    let error = read(&place, &bundle, None).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let text = format!("{error} {source}");
    assert!(text.contains(part), "{text}");
    assert!(!place.repository().join("refs/main").exists());
    place.check_cache();
}

fn position(bundle: &[u8], text: &[u8]) -> usize {
    bundle.windows(text.len()).position(|window| window == text).unwrap()
}

#[test]
fn a_damaged_bundle_is_refused() {
    let weights = random(300_000, 2);
    check(
        |bundle| {
            let at = position(bundle, &weights[1000..1100]);
            bundle[at] ^= 1
        },
        "field `model.safetensors`: its hash is not",
    );
    check(|bundle| bundle.truncate(200_000), "");
    check(|bundle| bundle.truncate(100), "is not a whole bundle");
    check(|bundle| bundle[0] = b'x', "is not a whole bundle");
    check(Vec::clear, "it is not a bundle");
    check(|bundle| *bundle = b"{}".repeat(1000), "is not a whole bundle");
}

/// Of a member's long name no more is read than a name may have.
#[test]
fn a_long_name_without_end_is_refused() {
    let place = Place::new();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(8 << 20);
    header.set_cksum();
    archive.append(&header, std::io::repeat(b'a').take(8 << 20)).unwrap();
    let long = archive.into_inner().unwrap();
    let good = forged(|_| (), &[]);
    // In the place of the manifest, and after it.
    for bundle in [long.clone(), [&good[..good.len() - 1024], &long].concat()] {
        let error = read(&place, &bundle, None).unwrap_err();
        assert!(error.to_string().contains("the name of a member has 8388608 bytes"), "{error}");
    }
}

#[test]
fn long_names_are_read() {
    let name = format!("onnx/{}.json", "a".repeat(200));
    let place = Place::with(&[(&name, b"{}".to_vec()), ("config.json", b"{}".to_vec())]);
    let hub = Hub::new(place.settings());
    let all = tandem_hub::FileSelector::new(|listing| Ok(listing.files.iter().map(|&file| file.to_owned()).collect()));
    let pulled = hub.pull(&reference(), &PullOptions::new(all)).unwrap();
    let path = place.dir.path().join("home");
    hub.write_bundle(&pulled, &reference().revision, &path, &Progress::default(), &CancelToken::new()).unwrap();
    let bundle = fs::read(&path).unwrap();
    read(&place, &bundle, None).unwrap();
    assert_eq!(fs::read(place.snapshot().join(&name)).unwrap(), b"{}");
}

/// A bundle whose manifest was changed, with members of these names.
fn forged(change: impl FnOnce(&mut serde_json::Value), members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut manifest = serde_json::json!({
        "version": 1, "repository": "owner/name", "revision": "main", "commit": COMMIT, "tree": null,
        "files": [{"name": "config.json", "bytes": 2, "hash": crate::server::etag("config.json", b"{}")}],
    });
    change(&mut manifest);
    let mut archive = tar::Builder::new(Vec::new());
    let text = manifest.to_string();
    for (name, bytes) in [("tandem-bundle.json", text.as_bytes())].iter().chain(members) {
        let mut header = tar::Header::new_old();
        // Written by hand, since the library refuses to write what should not be read.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn a_forged_bundle_writes_nothing_outside() {
    let good: &[(&str, &[u8])] = &[("files/config.json", b"{}")];
    let place = Place::new();
    read(&place, &forged(|_| (), good), None).unwrap();
    let check = |change: fn(&mut serde_json::Value), members: &[(&str, &[u8])], part: &str| {
        let error = read(&place, &forged(change, members), None).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        place.check_cache();
    };
    check(|_| (), &[("../config.json", b"{}")], "is not listed in the manifest");
    check(|_| (), &[("/tmp/config.json", b"{}")], "is not listed in the manifest");
    check(|_| (), &[("files/../../config.json", b"{}")], "is not listed in the manifest");
    check(|_| (), &[("files/config.json", b"{ }")], "not a file of the size");
    check(|_| (), &[("files/config.json", b"[]")], "its hash is not");
    check(|_| (), &[], "the manifest names it, and it is not in the bundle");
    check(|manifest| manifest["files"][0]["name"] = "../config.json".into(), good, "no possible name or hash");
    check(|manifest| manifest["files"][0]["hash"] = "../../evil".into(), good, "no possible name or hash");
    check(|manifest| manifest["repository"] = "../evil".into(), good, "field `repository`");
    check(|manifest| manifest["revision"] = "../evil".into(), good, "field `revision`");
    check(|manifest| manifest["commit"] = "../evil".into(), good, "field `commit`");
    let huge = |manifest: &mut serde_json::Value| {
        let row = |name: &str| serde_json::json!({"name": name, "bytes": u64::MAX - 1, "hash": "0".repeat(64)});
        manifest["files"] = vec![row("a.safetensors"), row("b.safetensors")].into();
    };
    check(huge, good, "not enough room");
    check(|manifest| manifest["version"] = 2.into(), good, "field `version`: is 2");
}
