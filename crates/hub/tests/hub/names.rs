//! Names and hashes that a hostile hub could send to write where it should not.

use serde_json::json;

use crate::place::{Place, files_below, random};
use crate::server::{COMMIT, listing_of};

fn with_name(place: &Place, name: &str) {
    let files = crate::place::checkpoint(300_000).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let mut listing = listing_of(&files);
    let mut sibling = listing["siblings"][0].clone();
    sibling["rfilename"] = name.into();
    listing["siblings"].as_array_mut().unwrap().push(sibling);
    place.hub.list(listing.to_string());
}

#[test]
fn names_that_leave_the_directory_are_never_written() {
    let long = "a".repeat(4096);
    for name in ["../../../evil", "/tmp/evil", "a/../../../evil", "evil\0", "a\\..\\evil", "C:evil", "", "a//b", &long] {
        let place = Place::new();
        with_name(&place, name);
        place.pulls();
        assert!(files_below(place.dir.path()).keys().all(|path| !path.to_string_lossy().contains("evil")), "{name}");
    }
}

#[test]
fn shards_that_leave_the_directory_are_refused() {
    for shard in ["../../evil.safetensors", "/tmp/evil.safetensors", "evil\0.safetensors", "not-there.safetensors", "config.json"]
    {
        let place = Place::with(&[
            ("config.json", b"{}".to_vec()),
            ("model-1.safetensors", random(10, 1)),
            ("model.safetensors.index.json", json!({"weight_map": {"a": shard}}).to_string().into_bytes()),
        ]);
        place.fails(&["`owner/name/model.safetensors.index.json`: field `weight_map", "names `"]);
    }
}

#[test]
fn shards_are_those_of_the_index() {
    let index = json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).to_string().into_bytes();
    let place = Place::with(&[
        ("config.json", b"{}".to_vec()),
        ("model-1.safetensors", random(10, 1)),
        ("model-2.safetensors", random(20, 2)),
        ("model-3.safetensors", random(30, 3)),
        ("model.safetensors.index.json", index),
    ]);
    let pulled = place.pull().unwrap();
    let names: Vec<_> = pulled.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"]);
    assert_eq!(std::fs::read(place.snapshot().join("model-2.safetensors")).unwrap(), random(20, 2));
    place.check_cache();
}

#[test]
fn a_commit_that_is_none_is_refused() {
    for commit in ["../../../evil", "main", "a/b", "", &"0".repeat(4096), &format!("{}\0", &COMMIT[1..])] {
        let place = Place::new();
        place.hub.list(json!({"sha": commit, "siblings": []}).to_string());
        place.fails(&["the hub names a commit that is not valid"]);
        assert!(files_below(place.dir.path()).is_empty());
    }
}

#[test]
fn a_hash_that_is_none_is_asked_for_again_and_then_refused() {
    for hash in ["../../../evil", "a/b", "", "0123", &"g".repeat(64)] {
        let place = Place::new();
        let files = crate::place::checkpoint(300_000).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let mut listing = listing_of(&files);
        for sibling in listing["siblings"].as_array_mut().unwrap() {
            sibling["blobId"] = hash.into();
            if !sibling["lfs"].is_null() {
                sibling["lfs"]["sha256"] = hash.into();
            }
        }
        place.hub.list(listing.to_string());
        // The headers of the files themselves are right.
        place.pulls();
        place.hub.always("config.json", crate::server::Fault::Header("ETag", format!("\"{hash}\"")));
        std::fs::remove_dir_all(place.cache()).unwrap();
        place.fails(&["`config.json`", "neither listing nor answer has its size and hash"]);
    }
}

#[test]
fn a_mirror_that_lists_only_names_is_enough() {
    let place = Place::new();
    place.hub.list(
        json!({"sha": COMMIT, "siblings": [
            {"rfilename": "config.json"}, {"rfilename": "tokenizer.json"}, {"rfilename": "model.safetensors"}
        ]})
        .to_string(),
    );
    let pulled = place.pulls();
    assert_eq!(pulled.received, 320_023);
}

#[test]
fn a_listing_without_a_model_says_so() {
    let place = Place::new();
    place.hub.list(json!({"sha": COMMIT, "siblings": [{"rfilename": "README.md"}]}).to_string());
    place.fails(&["no model `owner/name`: the repository holds neither `config.json` nor `genai_config.json`"]);
}
