//! A byte that flipped on the disk is found, and brought again.

use std::fs;

use tandem_core::{CancelToken, Progress};
use tandem_hub::{Damage, Fault, Hub};

use crate::place::{Place, WEIGHTS, reference};

fn verify(place: &Place) -> Vec<Damage> {
    let hub = Hub::new(place.settings());
    hub.verify(None, &Progress::default(), &CancelToken::new()).unwrap()
}

#[track_caller]
fn check(damage: impl FnOnce(&Place), file: &str, fault: Fault) {
    let place = Place::new();
    place.pulls();
    assert_eq!(verify(&place), []);
    damage(&place);
    let found = verify(&place);
    assert_eq!(found.iter().map(|damage| (damage.file.as_str(), damage.fault)).collect::<Vec<_>>(), [(file, fault)]);
    let hub = Hub::new(place.settings());
    hub.repair(&found[0], &Progress::default(), &CancelToken::new()).unwrap();
    assert_eq!(verify(&place), []);
    place.pulls();
}

fn flip(place: &Place, file: &str) {
    let path = place.snapshot().join(file).canonicalize().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[11] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_is_found_and_mended() {
    check(|place| flip(place, WEIGHTS), WEIGHTS, Fault::Content);
    check(|place| flip(place, "config.json"), "config.json", Fault::Content);
}

#[test]
fn other_damage_is_found_and_mended() {
    check(|place| fs::write(place.snapshot().join(WEIGHTS).canonicalize().unwrap(), "short").unwrap(), WEIGHTS, Fault::Size);
    check(|place| fs::remove_file(place.snapshot().join(WEIGHTS).canonicalize().unwrap()).unwrap(), WEIGHTS, Fault::Missing);
    // A copy where a link should be, as in a cache without links.
    let copy = |place: &Place| {
        fs::remove_file(place.snapshot().join(WEIGHTS)).unwrap();
        fs::write(place.snapshot().join(WEIGHTS), vec![1; 300_000]).unwrap();
    };
    check(copy, WEIGHTS, Fault::Content);
}

/// A link that leads elsewhere is damage, and it alone is replaced: what it led to is not Tandem's.
#[cfg(unix)]
#[test]
fn repair_and_removal_touch_nothing_outside_the_cache() {
    let leads_to = |place: &Place, target: &std::path::Path| {
        fs::remove_file(place.snapshot().join(WEIGHTS)).unwrap();
        std::os::unix::fs::symlink(target, place.snapshot().join(WEIGHTS)).unwrap();
    };
    // The name of the directory proves nothing.
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("blobs")).unwrap();
    for name in ["precious", "blobs/precious"] {
        let precious = outside.path().join(name);
        fs::write(&precious, "a person's own file").unwrap();
        check(|place| leads_to(place, &precious), WEIGHTS, Fault::Size);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "a person's own file");

        let place = Place::new();
        place.pulls();
        leads_to(&place, &precious);
        let other = place.repository().join("snapshots").join("f".repeat(40));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("config.json"), "{}").unwrap();
        Hub::new(place.settings()).cache().remove_revision(&reference()).unwrap();
        assert!(!place.snapshot().exists() && precious.exists());
    }
}

/// A link to the content of another file: the link is wrong, the content is not.
#[cfg(unix)]
#[test]
fn repair_leaves_contents_that_are_right_under_their_own_name() {
    let swap = |place: &Place| {
        let weights = fs::read_link(place.snapshot().join(WEIGHTS)).unwrap();
        fs::remove_file(place.snapshot().join("config.json")).unwrap();
        std::os::unix::fs::symlink(weights, place.snapshot().join("config.json")).unwrap();
    };
    check(swap, "config.json", Fault::Size);
}

#[test]
fn what_is_not_there_cannot_be_verified() {
    let place = Place::new();
    let hub = Hub::new(place.settings());
    let error = hub.verify(Some(&reference().repository), &Progress::default(), &CancelToken::new()).unwrap_err();
    assert!(error.to_string().contains("it is not in the cache"), "{error}");
    place.pulls();
    let cancel = CancelToken::new();
    cancel.cancel();
    assert!(matches!(hub.verify(None, &Progress::default(), &cancel), Err(tandem_core::Error::Cancelled)));
}

#[test]
fn a_content_of_another_size_is_downloaded_again() {
    let place = Place::new();
    place.pulls();
    let weights = place.snapshot().join(WEIGHTS).canonicalize().unwrap();
    let mut longer = std::fs::read(&weights).unwrap();
    longer.push(0);
    std::fs::write(&weights, longer).unwrap();
    assert_eq!(place.pulls().received, place.weights().len() as u64);
}
