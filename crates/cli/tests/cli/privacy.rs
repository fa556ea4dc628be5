//! What runs locally stays there: the system kills a process that makes a socket, and nothing is written outside the cache.

use std::process::{Command, Stdio};

use crate::export::checkpoint;
use crate::loopback::{Hub, outcome};
use crate::support::{Place, engine, place_with_engine};

/// `command` in a process that the system kills when it makes a socket.
#[cfg(target_os = "linux")]
pub(crate) fn without_sockets(command: Command) -> Command {
    let mut guarded = Command::new(std::env::current_exe().unwrap());
    guarded.args(["privacy::guarded", "--exact", "--nocapture"]).env(GUARDED, guarded_command(&command));
    guarded.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }
    guarded
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn without_sockets(command: Command) -> Command {
    command
}

/// Set in a process that is to become the binary under a filter: its arguments.
#[cfg(target_os = "linux")]
const GUARDED: &str = "TANDEM_TEST_GUARDED";

#[cfg(target_os = "linux")]
fn guarded_command(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join("\u{1f}")
}

/// Becomes the binary. Run as a test of its own it does nothing.
#[cfg(target_os = "linux")]
#[test]
fn guarded() {
    use std::os::unix::process::CommandExt;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let Ok(words) = std::env::var(GUARDED) else { return };
    let words: Vec<&str> = words.split('\u{1f}').collect();
    let rules = std::collections::BTreeMap::from([(libc::SYS_socket, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
    // What the test harness has said so far is not the binary's.
    let error = Command::new(words[0]).args(&words[1..]).env_remove(GUARDED).exec();
    panic!("{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_filter_kills_what_goes_online() {
    use std::os::unix::process::ExitStatusExt;
    let hub = Hub::new(Place::new());
    let mut command = without_sockets(hub.command(&["pull", "owner/name"]));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}

#[test]
fn generation_opens_no_socket_and_writes_nothing() {
    let Some(place) = place_with_engine() else { return };
    std::fs::create_dir(place.path("temporary")).unwrap();
    checkpoint(&place);
    let before = place.files_below(".");
    let backends = tandem::backends::compiled();
    let of = |backend: &tandem::BackendKind, model: &str| {
        let backend = backend.to_string();
        let options = ["--backend", &backend, "--max-tokens", "8", "--threads", "2", "--json"];
        for args in [&["run", model, "The fox", "--raw"][..], &["run", model, "The fox", "--raw", "--dtype", "int8"]] {
            let mut command = place.command(&[args, &options[..]].concat());
            command.env("TMPDIR", place.path("temporary")).stdin(Stdio::null());
            let outcome = outcome(without_sockets(command));
            assert_eq!(outcome.code, Some(0), "{model} on {backend}: {}", outcome.stderr);
            assert!(!outcome.json()["tokens"].as_array().unwrap().is_empty());
        }
        let scored = outcome(without_sockets(place.command(&["score", model, "The fox", "--backend", &backend])));
        assert_eq!(scored.code, Some(0), "{model} on {backend}: {}", scored.stderr);
    };
    for backend in &backends {
        for model in ["demo", "checkpoint"] {
            of(backend, model);
        }
    }
    // A graph that was published has one dtype, and is loaded and closed by `show` as well.
    let shown = outcome(without_sockets(place.command(&["show", "model", "--backend", engine()])));
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert_eq!(place.files_below("."), before);
}
