//! `tandem.toml`.

use serde_json::Value;

use crate::support::{Place, place_with_engine, place_with_onnx};

fn n_tokens(place: &Place, more: &[&str]) -> usize {
    let report = place.json(&[&["run", "model", "The fox", "--json", "--raw"], more].concat());
    report["tokens"].as_array().unwrap().len()
}

#[test]
fn flags_win_over_the_directory_and_the_directory_over_the_user() {
    let Some(place) = place_with_engine() else { return };
    let users = if cfg!(target_os = "macos") {
        "home/Library/Application Support/tandem/tandem.toml"
    } else {
        "home/.config/tandem/tandem.toml"
    };
    place.write(users, "max_tokens = 3\ntemperature = 1\nseed = 5\n");
    assert_eq!(n_tokens(&place, &[]), 3);
    place.write("tandem.toml", "max_tokens = 5\n");
    assert_eq!(n_tokens(&place, &[]), 5);
    assert_eq!(n_tokens(&place, &["--max-tokens", "7"]), 7);
    let report = place.json(&["run", "model", "The fox", "--json"]);
    assert_eq!(report["seed"], 5);
    let report = place.json(&["run", "model", "The fox", "--json", "--temperature", "0"]);
    assert_eq!(report["seed"], Value::Null);
}

#[test]
fn the_device_is_called_execution_target() {
    let Some(place) = place_with_engine() else { return };
    place.write("tandem.toml", "execution_target = 'cuda:99'\n");
    place.tandem(&["run", "model", "x"]).fails(1, &["device `cuda:99` cannot be used"]);
    assert_eq!(n_tokens(&place, &["--device", "cpu", "--max-tokens", "1"]), 1);
    place.write("tandem.toml", "execution_target = 'auto'\n");
    let outcome = place.tandem(&["run", "model", "x", "--max-tokens", "1", "-v"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`auto` is `"), "{}", outcome.stderr);
}

#[test]
fn what_is_wrong_is_named_with_file_and_key() {
    let place = Place::new();
    for (text, part) in [
        ("temprature = 1\n", "`tandem.toml`: field `temprature`: is not an option"),
        ("temperature = 'hot'\n", "`tandem.toml`: field `temperature`: invalid type"),
        ("device = 'cpu'\n", "hint: the key is called `execution_target`"),
        ("temperature = \n", "`tandem.toml`: is not valid TOML"),
        ("ort_library = './lib.so'\n", "`tandem.toml`: field `ort_library`: may be set in the user's own file only"),
    ] {
        place.write("tandem.toml", text);
        place.tandem(&["run", "model", "x"]).fails(2, &[part]);
    }
}

#[test]
fn paths_are_seen_from_the_file() {
    let Some(place) = place_with_onnx() else { return };
    let users = if cfg!(target_os = "macos") {
        "home/Library/Application Support/tandem/tandem.toml"
    } else {
        "home/.config/tandem/tandem.toml"
    };
    place.write(users, "ort_library = 'lib/none.so'\n");
    let beside = place.path(users).parent().unwrap().join("lib/none.so");
    place.tandem(&["run", "model", "x"]).fails(1, &[&format!("`{}`", beside.display())]);
}
