//! What `tandem doctor` says of the hub and of what is in its cache, and how it mends that.

use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::Value;

use crate::loopback::{Hub, WEIGHTS, outcome};
use crate::support::{Outcome, Place};

/// The check called `name` in the report of `tandem doctor --json`.
fn check(report: &Outcome, name: &str) -> Value {
    let report = report.json();
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("there is no `{name}` in {report}")).clone()
}

/// The weights in the cache.
fn weights(hub: &Hub) -> PathBuf {
    let models = hub.json(&["list", "--json"]);
    PathBuf::from(models["models"][0]["snapshots"][0]["directory"].as_str().unwrap()).join(WEIGHTS)
}

/// A hub whose model was pulled, with a byte in its weights flipped since.
fn damaged() -> (Hub, Vec<u8>) {
    let hub = Hub::new(Place::new());
    hub.json(&["pull", "owner/name", "--backend", "candle", "--json"]);
    let good = std::fs::read(weights(&hub)).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(weights(&hub), bad).unwrap();
    (hub, good)
}

#[test]
fn a_flipped_byte_is_found_and_brought_again() {
    let (hub, good) = damaged();
    let found = check(&hub.run(&["doctor", "--verify", "--json"]), "contents");
    assert_eq!(found["state"], "bad", "{found}");
    assert!(found["finding"].as_str().unwrap().contains("`model.safetensors` of owner/name has another content"), "{found}");
    assert_ne!(std::fs::read(weights(&hub)).unwrap(), good, "to look changes nothing");
    let mended = check(&hub.run(&["doctor", "--repair", "--json"]), "contents");
    assert_eq!(mended["state"], "good", "{mended}");
    assert!(mended["finding"].as_str().unwrap().ends_with("and was brought again"), "{mended}");
    assert_eq!(std::fs::read(weights(&hub)).unwrap(), good);
    assert_eq!(hub.hub.transfers(WEIGHTS).len(), 2, "nothing else came again");
    let whole = check(&hub.run(&["doctor", "--verify", "--json"]), "contents");
    assert_eq!(whole["finding"], "every file is what its hash says", "{whole}");
}

#[test]
fn nothing_is_mended_offline_and_nothing_is_lost() {
    let (hub, good) = damaged();
    let refused = outcome(hub.offline(&["doctor", "--repair", "--json"]));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let contents = check(&refused, "contents");
    assert_eq!(contents["state"], "bad", "{contents}");
    let finding = contents["finding"].as_str().unwrap();
    assert!(finding.contains("`model.safetensors` of owner/name") && finding.contains("`HF_HUB_OFFLINE` is set"), "{finding}");
    assert!(contents["remedy"].as_str().unwrap().contains("unset `HF_HUB_OFFLINE`"), "{contents}");
    assert_eq!(std::fs::read(weights(&hub)).unwrap().len(), good.len(), "it is still there");
    let absent = check(&refused, "hub");
    assert_eq!(absent["state"], "absent", "{absent}");
}

#[test]
fn a_hub_that_answers_is_told_from_one_that_does_not() {
    let hub = Hub::new(Place::new());
    let with_password = |address: &str| address.replace("http://", "http://me:s3cr3t@");
    let mut command = hub.command(&["doctor", "--json"]);
    command.env("HF_ENDPOINT", with_password(&hub.hub.endpoint()));
    let reached = outcome(command);
    assert!(!reached.stdout.contains("s3cr3t"), "{}", reached.stdout);
    let reached = check(&reached, "hub");
    assert_eq!((&reached["state"], &reached["finding"]), (&"good".into(), &format!("{} answers", hub.hub.endpoint()).into()));
    // A port that was free a moment ago.
    let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let mut command = hub.command(&["doctor", "--json"]);
    command.env("HF_ENDPOINT", with_password(&nobody));
    let unreached = outcome(command);
    assert!(!(unreached.stdout.clone() + &unreached.stderr).contains("s3cr3t"), "{}", unreached.stdout);
    let said = check(&unreached, "hub");
    assert_eq!(said["state"], "warning", "{said}");
    assert!(said["remedy"].as_str().unwrap().contains("set `HF_HUB_OFFLINE=1` to work with what is in the cache"), "{said}");
    let with_hub = hub.run(&["doctor", "--json"]);
    assert_eq!(unreached.code, with_hub.code, "models that are here run without a hub");
}

#[cfg(unix)]
#[test]
fn what_was_found_is_shown_in_80_columns() {
    let (hub, _) = damaged();
    // The other findings are those of the machine.
    let contents = |text: &str| {
        let lines = text.lines().skip_while(|line| !line.contains(" contents "));
        let lines = lines.take_while(|line| line.contains(" contents ") || line.starts_with(&" ".repeat(30)));
        lines.map(|line| format!("{}\n", line.replace('\u{1b}', "␛"))).collect::<String>()
    };
    let shown = contents(&hub.run(&["doctor", "--verify"]).stdout);
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    insta::assert_snapshot!("damaged", shown);
    let (_, terminal) = crate::terminal::on_terminal(hub.command(&["doctor", "--verify"]));
    insta::assert_snapshot!("damaged_terminal", contents(&terminal));
    insta::assert_snapshot!("repaired", contents(&hub.run(&["doctor", "--repair"]).stdout));
}
