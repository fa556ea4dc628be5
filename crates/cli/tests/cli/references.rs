//! What a MODEL names, the same for every command that takes one.

use crate::loopback::{Hub, outcome};
use crate::support::{Outcome, Place, engine, has_onnx, place_with_engine, place_with_onnx};

/// An entry of a user's own: the golden checkpoint, which the loopback hub has.
const OWN: &str = "[[model]]\nname = 'mine:1b'\ncheckpoint = 'owner/name'\nkind = 'text'\narchitecture = 'qwen2'\n\
                   parameters = 1_000_000\nlayers = 2\nhidden_size = 8\nintermediate_size = 8\nheads = 2\nkv_heads = 1\n\
                   head_dim = 4\nvocabulary = 100\ntied_head = true\ncontext = 64\nlicence = 'mit'\ngood_at = 'tests'\n";

/// Every command that takes a MODEL, for which `NAME` stands, with as little work as it can be given.
const COMMANDS: [&[&str]; 9] = [
    &["pull", "NAME", "--json"],
    &["run", "NAME", "The fox", "--raw", "--max-tokens", "2", "--json"],
    &["score", "NAME", "The fox", "--json"],
    &["show", "NAME", "--json"],
    &["export", "NAME", "--output", "exported", "--force", "--json"],
    &["bench", "NAME", "--prompt", "4", "--depth", "0", "--generate", "2", "--rounds", "1", "--dtype", "f32", "--json"],
    &["parity", "NAME", "--candidate", "ENGINE", "--reference", "ENGINE", "--texts", "1", "--generate", "2", "--json"],
    &["chat", "NAME", "--raw=false"],
    &["rm", "NAME", "--json"],
];

fn with_own(place: Place) -> Hub {
    let users = match cfg!(target_os = "macos") {
        true => "home/Library/Application Support/tandem/tandem.toml",
        false => "home/.config/tandem/tandem.toml",
    };
    place.write(users, OWN);
    Hub::new(place)
}

fn named<'a>(args: &[&'a str], name: &'a str) -> Vec<&'a str> {
    let word = |&arg: &&'a str| match arg {
        "NAME" => name,
        "ENGINE" => engine(),
        other => other,
    };
    args.iter().map(word).collect()
}

#[test]
fn a_users_own_model_is_known_to_every_command() {
    let Some(place) = place_with_engine() else { return };
    let hub = with_own(place);
    hub.place.write("prompts.txt", "The fox\n");
    // Only ONNX Runtime's backend makes graphs.
    for args in COMMANDS.into_iter().filter(|args| has_onnx() || args[0] != "export") {
        let mut args = named(args, "mine:1b");
        if args[0] == "parity" {
            args.extend(["--corpus", "prompts.txt"]);
        }
        let Outcome { code, stdout, stderr } = hub.run(&args);
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        match args[0] {
            "show" => assert!(stdout.contains("\"checkpoint\":\"owner/name\""), "{stdout}"),
            "chat" => {}
            _ => assert!(stdout.contains("owner/name"), "{args:?}: {stdout}"),
        }
    }
    assert_eq!(hub.json(&["list", "--json"])["models"].as_array().unwrap().len(), 0, "`rm` was the last");
}

#[test]
fn a_name_that_is_nearly_right_is_offered_by_every_command() {
    let hub = with_own(Place::new());
    let check = |name: &str, parts: &[&str]| {
        for args in COMMANDS {
            let args: Vec<&str> = named(args, name).into_iter().filter(|arg| *arg != "--json").collect();
            outcome(hub.offline(&args)).fails(1, &[&[&*format!("no model `{name}`")], parts].concat());
        }
    };
    check("mine:2b", &["the catalog has no such name", "did you mean `mine:1b`?"]);
    check("mine-1b", &["it is neither the built-in model, a name of the catalog, an existing path", "did you mean `mine:1b`"]);
    check("dmeo", &["it is neither the built-in model", "did you mean `demo`?"]);
    check("qwen2.5-0.5b", &["did you mean `qwen2.5:0.5b`"]);
    check("nothing-of-the-kind", &["hint: name `demo`, a directory"]);
}

#[test]
fn auto_is_the_same_model_to_every_command() {
    let hub = with_own(Place::new());
    // Nothing else fits what this user has: the entry says that it is tiny, and so it is the smallest.
    hub.place.write("tandem.toml", "memory = '640MiB'\ndtype = 'int4'\n");
    let shown = hub.json(&["show", "auto", "--json"]);
    assert_eq!(shown["entry"]["name"], "mine:1b", "{shown}");
    let pulled = hub.run(&["pull", "auto", "--json"]);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    assert_eq!(pulled.json()["models"][0]["model"], "owner/name");
    assert!(pulled.stderr.contains("`auto` is `mine:1b` in int4: about "), "{}", pulled.stderr);
    let removed = hub.run(&["rm", "auto", "--json"]);
    assert_eq!(removed.json()["removed"][0]["model"], "owner/name");
    hub.place.write("tandem.toml", "memory = '1MiB'\n");
    for args in COMMANDS {
        let args: Vec<&str> = named(args, "auto").into_iter().filter(|arg| *arg != "--json").collect();
        outcome(hub.offline(&args))
            .fails(1, &["no model `auto`: no model of the catalog fits 0 bytes", "hint: `mine:1b` takes "]);
    }
}

#[test]
fn what_is_not_of_the_hub_is_neither_pulled_nor_removed() {
    let hub = Hub::new(Place::new());
    for command in ["pull", "rm"] {
        hub.run(&[command, "demo"]).fails(1, &["no model `demo`: it is part of the program and not on the hub", "hint: "]);
        hub.run(&[command, "model"]).fails(1, &["no model `model`: it is a path on this machine and not on the hub", "hint: "]);
        hub.run(&[command, "./gone"]).fails(1, &["no model `./gone`: it is a path on this machine"]);
    }
    // Both of its repositories are meant, and none is here.
    hub.run(&["rm", "qwen2.5:0.5b"]).fails(1, &["no model `Qwen/Qwen2.5-0.5B-Instruct`: it is not in the cache"]);
}

#[test]
fn what_was_configured_is_pulled() {
    if place_with_onnx().is_none() {
        return;
    }
    let hub = Hub::new(Place::new());
    hub.place.write("tandem.toml", "backend = 'candle'\n");
    hub.hub.set("onnx/model.onnx", vec![1; 10]);
    let names = |args: &[&str]| {
        let report = hub.json(args);
        let files = report["models"][0]["files"].as_array().unwrap().clone();
        files.iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let configured = names(&["pull", "owner/name", "--json"]);
    assert!(configured.iter().any(|name| name == "model.safetensors"), "{configured:?}");
    let said = names(&["pull", "owner/name", "--backend", "onnx", "--json"]);
    assert!(said.iter().any(|name| name == "onnx/model.onnx"), "{said:?}");
}
