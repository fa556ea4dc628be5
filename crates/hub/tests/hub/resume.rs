//! What an earlier download left is used as far as it is right.

use crate::place::{Place, WEIGHTS, random};

#[track_caller]
fn check(partial: &[u8], received: u64, from: &[Option<u64>]) {
    let place = Place::new();
    place.leave_partial(partial);
    let pulled = place.pulls();
    assert_eq!(pulled.received - 20_023, received);
    let asked: Vec<_> = place.hub.transfers(WEIGHTS).iter().map(|seen| seen.from).collect();
    assert_eq!(asked, from);
    assert!(!place.partial().exists());
}

#[test]
fn a_partial_is_continued() {
    let weights = random(300_000, 2);
    check(&weights[..123_456], 176_544, &[Some(123_456)]);
    check(&weights[..299_999], 1, &[Some(299_999)]);
    check(b"", 300_000, &[None]);
}

#[test]
fn a_partial_of_exactly_the_size_is_verified_and_not_asked_for() {
    check(&random(300_000, 2), 0, &[]);
}

#[test]
fn a_corrupt_partial_is_found_and_thrown_away() {
    let mut weights = random(300_000, 2);
    weights[77] ^= 1;
    check(&weights[..200_000], 400_000, &[Some(200_000), None]);
    check(&weights, 300_000, &[None]);
}

#[test]
fn a_partial_larger_than_the_file_is_thrown_away() {
    check(&random(300_001, 2), 300_000, &[None]);
    check(&vec![0; 1_000_000], 300_000, &[None]);
}

#[test]
fn a_content_of_the_wrong_size_under_its_final_name_is_replaced() {
    let place = Place::new();
    place.leave_partial(b"");
    let blob = place.partial().with_extension("");
    std::fs::write(&blob, b"an error page that another program took for a model").unwrap();
    place.pulls();
}

#[test]
fn a_link_that_leads_nowhere_is_mended() {
    let place = Place::new();
    let pulled = place.pulls();
    let file = pulled.files.iter().find(|file| file.name == WEIGHTS).unwrap();
    std::fs::remove_file(place.repository().join("blobs").join(file.hash.as_ref().unwrap().digits())).unwrap();
    assert_eq!(place.pulls().received, 300_000);
    std::fs::remove_file(&file.path).unwrap();
    assert_eq!(place.pulls().received, 0);
}
