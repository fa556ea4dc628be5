//! `tandem pull`, `list` and `rm`, and models of the hub in every other command.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::loopback::{Hub, SECRET, WEIGHTS, outcome};
use crate::privacy::without_sockets;
use crate::server::{COMMIT, Fault};
use crate::support::{Outcome, Place, place_with_engine, place_with_onnx};

#[track_caller]
fn snapshot(name: &str, hub: &Hub, args: &[&str]) {
    let outcome = hub.run(args);
    let text = format!("exit code {:?}\n--- stdout\n{}--- stderr\n{}", outcome.code.unwrap(), outcome.stdout, outcome.stderr);
    let text = hub.plain(&text);
    let is_path = |line: &str| line.contains("CACHE");
    assert!(text.lines().all(|line| line.chars().count() <= 80 || is_path(line)), "{text}");
    insta::assert_snapshot!(name, text);
}

#[test]
fn models_are_pulled_listed_and_removed() {
    let hub = Hub::new(Place::new());
    snapshot("list_empty", &hub, &["list"]);
    snapshot("pull", &hub, &["pull", "owner/name"]);
    snapshot("pull_again", &hub, &["pull", "owner/name"]);
    assert_eq!(hub.hub.transfers(WEIGHTS).len(), 1);
    assert!(hub.hub.seen("README.md").is_empty());
    snapshot("pull_quiet", &hub, &["pull", "owner/name", "-q"]);
    hub.run(&["pull", "owner/name@refs/pr/1", "-q"]);
    snapshot("list", &hub, &["list"]);
    snapshot("rm", &hub, &["rm", "owner/name"]);
    snapshot("rm_again", &hub, &["rm", "owner/name"]);
    assert!(!std::path::Path::new(&hub.cache()).join("models--owner--name").exists());
}

#[test]
fn long_names_and_revisions_are_listed_in_80_columns() {
    let hub = Hub::new(Place::new());
    let name = format!("{}/{}", "an-owner-with-a-long-name".repeat(2), "a-model-with-a-longer-one");
    let longest = format!("owner/{}", "x".repeat(90));
    let branch = format!("a-branch/with/{}", "y".repeat(120));
    for reference in [&name, &longest, &format!("owner/name@{branch}"), "owner/name@a-tag-of-some-length", "owner/other@v1"] {
        let pulled = hub.run(&["pull", reference, "-q"]);
        assert_eq!(pulled.code, Some(0), "{reference}: {}", pulled.stderr);
    }
    // What broke off is said below its model.
    let partial = format!("{}/models--owner--other/blobs/{}.incomplete", hub.cache(), "0".repeat(64));
    std::fs::write(partial, [0; 1000]).unwrap();
    snapshot("list_long", &hub, &["list"]);
    let listed = hub.json(&["list", "--json"]);
    let models = listed["models"].as_array().unwrap();
    assert!([&name, &longest].iter().all(|name| models.iter().any(|model| model["model"] == name.as_str())), "{listed}");
    #[cfg(unix)]
    {
        let (_, text) = crate::terminal::on_terminal(hub.command(&["list"]));
        insta::assert_snapshot!("terminal_list_long", hub.plain(&text).replace('\u{1b}', "␛"));
    }
}

#[test]
fn the_same_as_documents() {
    let hub = Hub::new(Place::new());
    let pulled = hub.json(&["pull", "owner/name", "--json"]);
    let model = &pulled["models"][0];
    assert_eq!((&model["commit"], &model["model"]), (&COMMIT.into(), &"owner/name".into()));
    assert_eq!(model["bytes"], model["received_bytes"]);
    let files = model["files"].as_array().unwrap();
    assert_eq!(files.len(), 5);
    assert!(files.iter().all(|file| std::path::Path::new(file["path"].as_str().unwrap()).exists()));
    let listed = hub.json(&["list", "--json"]);
    assert_eq!((&listed["cache"], &listed["models"][0]["model"]), (&hub.cache().into(), &"owner/name".into()));
    let snapshot = &listed["models"][0]["snapshots"][0];
    assert_eq!((&snapshot["revisions"][0], &snapshot["bytes"]), (&"main".into(), &model["bytes"]));
    let removed = hub.json(&["rm", "owner/name", "--json"]);
    assert_eq!((&removed["bytes"], &removed["removed"][0]["commits"][0]), (&model["bytes"], &COMMIT.into()));
    let failed = hub.run(&["rm", "owner/name", "--json"]);
    assert_eq!((failed.code, failed.json()["error"]["message"].as_str().unwrap().starts_with("no model")), (Some(1), true));
}

#[test]
fn graphs_made_of_checkpoints_are_listed_and_removed() {
    let Some(place) = place_with_onnx() else { return };
    let hub = Hub::new(place);
    let key = "a".repeat(64);
    hub.place.copy("onnx/optimum_f32/model.onnx", &format!("cache/graphs/{key}/model.onnx"));
    let run = |args: &[&str]| {
        let mut command = hub.command(args);
        command.env("TANDEM_CACHE", hub.place.path("cache"));
        outcome(command)
    };
    let listed = run(&["list", "--json"]).json();
    let graph = &listed["graphs"]["graphs"][0];
    assert_eq!((&graph["bytes"], &listed["graphs"]["limit"]), (&listed["graphs"]["bytes"], &30_000_000_000_u64.into()));
    assert!(graph["directory"].as_str().unwrap().ends_with(&key), "{listed}");
    let said = run(&["list"]).stderr;
    assert!(said.contains("1 graph made of checkpoints, ") && said.contains("`tandem rm --graphs` removes them"), "{said}");
    let removed = run(&["rm", "--graphs", "--json"]).json();
    assert_eq!((&removed["bytes"], removed["graphs"].as_array().map(Vec::len)), (&graph["bytes"], Some(1)));
    assert!(!hub.place.path("cache/graphs").join(&key).exists());
    assert_eq!(run(&["rm", "--graphs"]).stdout, "removed 0 graphs made of checkpoints: 0 bytes\n");
    let mut command = hub.command(&["list"]);
    command.env("TANDEM_CACHE", hub.place.path("cache")).env("TANDEM_CACHE_SIZE", "much");
    let refused = outcome(command);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("TANDEM_CACHE_SIZE"), "{}", refused.stderr);
    assert_eq!(run(&["rm"]).code, Some(2), "something must be named");
}

#[cfg(unix)]
#[test]
fn a_terminal_of_80_columns_shows_the_same() {
    let hub = Hub::new(Place::new());
    let show = |args: &[&str]| {
        let (code, text) = crate::terminal::on_terminal(hub.command(args));
        format!("exit code {}\n{}", code.unwrap(), hub.plain(&text).replace('\u{1b}', "␛"))
    };
    insta::assert_snapshot!("terminal_pull", show(&["pull", "owner/name"]));
    insta::assert_snapshot!("terminal_list", show(&["list"]));
    insta::assert_snapshot!("terminal_rm", show(&["rm", "owner/name"]));
}

#[cfg(unix)]
#[test]
fn a_terminal_shows_how_far_a_download_is() {
    let hub = Hub::new(Place::new());
    hub.hub.set(WEIGHTS, vec![7; 1_000_000]);
    hub.hub.slow_down(Duration::from_millis(30));
    let (code, text) = crate::terminal::on_terminal(hub.command(&["pull", "owner/name"]));
    assert_eq!(code, Some(0), "{text}");
    for part in ["downloading model", " MB, ", "/s, ", " left"] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_model_of_the_hub_is_downloaded_once_and_runs() {
    let Some(place) = place_with_engine() else { return };
    let hub = Hub::new(place);
    let args = ["run", "owner/name", "The fox", "--raw", "--temperature", "0", "--max-tokens", "8", "--json"];
    let first = hub.run(&args);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stderr.starts_with("downloading owner/name: "), "{}", first.stderr);
    let n_requests = hub.hub.seen("").len();
    let second = hub.json(&args);
    assert_eq!((&second["tokens"], &second["model"]), (&first.json()["tokens"], &"owner/name".into()));
    assert_eq!(hub.hub.seen("").len(), n_requests, "what is there is not asked for");
    for args in [&args[..], &["show", "owner/name", "--json"], &["score", "owner/name", "The fox", "--json"]] {
        let outcome = outcome(without_sockets(hub.offline(args)));
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.stderr);
    }
    let other = outcome(without_sockets(hub.offline(&["run", "owner/other", "x"])));
    other.fails(1, &["no model `owner/other`", "`HF_HUB_OFFLINE` is set", "hint: "]);
    for args in [&["pull", "owner/name", "--json"][..], &["list", "--json"], &["rm", "owner/name", "--json"]] {
        let outcome = outcome(without_sockets(hub.offline(args)));
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_lock_file_is_written_and_obeyed() {
    let hub = Hub::new(Place::new());
    hub.run(&["pull", "--locked"]).fails(2, &["the lock file `tandem.lock` does not exist", "--lock"]);
    let report = hub.json(&["pull", "owner/name", "--lock", "--json"]);
    assert_eq!(report["lock_file"], "tandem.lock");
    let lock = hub.place.read("tandem.lock");
    assert!(lock.contains("repository = \"owner/name\"") && lock.contains(COMMIT) && lock.contains(WEIGHTS), "{lock}");
    hub.json(&["rm", "owner/name", "--json"]);
    let report = hub.json(&["pull", "--locked", "--json"]);
    assert_eq!((&report["models"][0]["model"], report["models"].as_array().unwrap().len()), (&"owner/name".into(), 1));
    hub.run(&["pull", "owner/other", "--locked"]).fails(2, &["does not lock `owner/other`"]);
    let mut changed = std::fs::read(hub.place.path("published/config.json")).unwrap();
    *changed.last_mut().unwrap() = b' ';
    hub.json(&["rm", "owner/name", "--json"]);
    hub.hub.set("config.json", changed);
    let refused = hub.run(&["pull", "--locked"]);
    refused.fails_after_notes(&["`owner/name`: field `config.json`: has the SHA-256 `", "not what was locked"]);
}

#[test]
fn a_bundle_carries_a_model_over() {
    let hub = Hub::new(Place::new());
    let report = hub.json(&["pull", "owner/name", "--bundle", "name.tar", "--json"]);
    assert_eq!(report["bundle"], "name.tar");
    hub.json(&["rm", "owner/name", "--json"]);
    let carried = outcome(without_sockets(hub.offline(&["pull", "--from-bundle", "name.tar", "--json"])));
    assert_eq!(carried.code, Some(0), "{}", carried.stderr);
    let shown = outcome(hub.offline(&["show", "owner/name", "--no-load", "--json"]));
    assert_eq!(shown.json()["architecture"], "qwen2");
    hub.place.truncate("name.tar", 3000);
    hub.json(&["rm", "owner/name", "--json"]);
    hub.run(&["pull", "--from-bundle", "name.tar"]).fails(1, &["name.tar"]);
    hub.run(&["pull", "--from-bundle", "published/config.json"]).fails(1, &["published/config.json"]);
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let hub = Hub::new(Place::new());
    assert_eq!(hub.run(&["pull"]).code, Some(2));
    assert_eq!(hub.run(&["rm"]).code, Some(2));
    hub.run(&["pull", "demo"]).fails(1, &["no model `demo`: it is part of the program"]);
    hub.run(&["pull", "a/b/c"]).fails(1, &["nor of the form `owner/name[@revision]`"]);
    let mut command = hub.command(&["pull", "owner/name"]);
    command.env("HF_ENDPOINT", "nonsense");
    outcome(command).fails(2, &["option `HF_ENDPOINT`: `nonsense`"]);
    hub.hub.always("api", Fault::Status(404, Vec::new()));
    hub.run(&["pull", "owner/name"]).fails(1, &["no model `owner/name`: the hub says", "status 404"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_what_can_be_continued() {
    let hub = Hub::new(Place::new());
    hub.hub.set(WEIGHTS, vec![7; 1_000_000]);
    hub.hub.next(WEIGHTS, [Fault::Stall(400_000)]);
    let mut child = hub.command(&["pull", "owner/name"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let partial = || {
        let blobs = std::fs::read_dir(format!("{}/models--owner--name/blobs", hub.cache())).into_iter().flatten().flatten();
        blobs
            .filter(|blob| blob.path().extension().is_some_and(|end| end == "incomplete"))
            .find_map(|blob| Some(blob.metadata().ok()?.len()))
    };
    let started = Instant::now();
    while partial().is_none_or(|have| have < 400_000) {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{stderr}");
    assert!(stderr.trim_end().ends_with("error: cancelled"), "{stderr}");
    assert_eq!(partial(), Some(400_000));
    let listed = hub.run(&["list"]);
    assert!(listed.stdout.contains("400 kB of a download that is not whole"), "{}", listed.stdout);
    let received = hub.json(&["pull", "owner/name", "--json"])["models"][0]["received_bytes"].as_u64().unwrap();
    assert!(received < 650_000, "{received}");
}

/// `command` with files of at most 800 blocks.
#[cfg(unix)]
fn limited(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -f 800; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_no_signal() {
    let hub = Hub::new(Place::new());
    hub.hub.set(WEIGHTS, vec![7; 1_000_000]);
    let full = outcome(limited(&hub.command(&["pull", "owner/name"])));
    full.fails_after_notes(&[".incomplete`: cannot be written beyond ", " more are needed for `model.safetensors`", "hint: "]);
}

impl Outcome {
    /// Checks for a failure whose message, after remarks, has all `parts`.
    #[track_caller]
    fn fails_after_notes(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in:\n{}", self.stderr);
        }
    }
}

/// A proxy that leads everything to `hub`; gives its address and what it was asked for.
fn proxy(hub: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://user:{SECRET}@{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            seen.lock().unwrap().push(line.trim_end().to_owned());
            let mut header = String::new();
            while reader.read_line(&mut header).unwrap() > 2 {
                header.clear();
            }
            let server =
                TcpStream::connect(if line.contains("hub.invalid") { &hub } else { line.split(' ').nth(1).unwrap() }).unwrap();
            (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
            let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            std::thread::spawn(move || std::io::copy(&mut reader, &mut &server));
        }
    });
    (address, asked)
}

#[test]
fn a_proxy_of_the_environment_is_used() {
    let hub = Hub::new(Place::new());
    let (address, asked) = proxy(hub.hub.endpoint().trim_start_matches("http://").to_owned());
    let mut command = hub.command(&["pull", "owner/name", "--json"]);
    command.env("HF_ENDPOINT", "http://hub.invalid").env("HTTP_PROXY", &address).env("NO_PROXY", "127.0.0.1");
    let pulled = outcome(command);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    let asked = asked.lock().unwrap();
    assert!(!asked.is_empty() && asked.iter().all(|line| line.contains("hub.invalid:80")), "{asked:?}");
}
