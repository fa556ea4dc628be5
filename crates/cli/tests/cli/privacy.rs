//! What runs locally stays there: the system kills a process that makes a socket or creates a file. It can also fail to write to the disk.

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

/// The same for a process that is killed, too, when it creates a file or a directory.
#[cfg(target_os = "linux")]
fn without_sockets_and_files(command: Command) -> Command {
    let mut guarded = without_sockets(command);
    guarded.env(NO_FILES, "1");
    guarded
}

/// Set beside [`GUARDED`] when no file may be created.
#[cfg(target_os = "linux")]
const NO_FILES: &str = "TANDEM_TEST_NO_FILES";

/// The same for a process whose writes do not reach the disk: `fsync` fails.
#[cfg(target_os = "linux")]
pub(crate) fn without_sync(command: Command) -> Command {
    let mut guarded = without_sockets(command);
    guarded.env(NO_SYNC, "1");
    guarded
}

/// Set beside [`GUARDED`] when `fsync` fails.
#[cfg(target_os = "linux")]
const NO_SYNC: &str = "TANDEM_TEST_NO_SYNC";

/// The system calls that create a file or a directory.
#[cfg(target_os = "linux")]
fn creating_files() -> Vec<(i64, Vec<seccompiler::SeccompRule>)> {
    use seccompiler::{SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq, SeccompCondition, SeccompRule};
    let creates = |argument| {
        let flag = libc::O_CREAT as u64;
        vec![SeccompRule::new(vec![SeccompCondition::new(argument, Dword, MaskedEq(flag), flag).unwrap()]).unwrap()]
    };
    let everywhere = [(libc::SYS_openat, creates(2)), (libc::SYS_mkdirat, Vec::new())];
    #[cfg(target_arch = "x86_64")]
    let old = [(libc::SYS_open, creates(1)), (libc::SYS_creat, Vec::new()), (libc::SYS_mkdir, Vec::new())];
    #[cfg(not(target_arch = "x86_64"))]
    let old = [];
    everywhere.into_iter().chain(old).collect()
}

/// Becomes the binary. Run as a test of its own it does nothing.
#[cfg(target_os = "linux")]
#[test]
fn guarded() {
    use std::os::unix::process::CommandExt;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let Ok(words) = std::env::var(GUARDED) else { return };
    let words: Vec<&str> = words.split('\u{1f}').collect();
    let mut rules = std::collections::BTreeMap::from([(libc::SYS_socket, Vec::new())]);
    if std::env::var_os(NO_FILES).is_some() {
        rules.extend(creating_files());
    }
    let apply = |rules, action| {
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).unwrap().try_into().unwrap();
        apply_filter(&filter).unwrap();
    };
    apply(rules, SeccompAction::KillProcess);
    if std::env::var_os(NO_SYNC).is_some() {
        let syncs = [libc::SYS_fsync, libc::SYS_fdatasync].map(|call| (call, Vec::new()));
        apply(syncs.into(), SeccompAction::Errno(libc::EIO as u32));
    }
    // What the test harness has said so far is not the binary's.
    let mut command = Command::new(words[0]);
    let error = command.args(&words[1..]).env_remove(GUARDED).env_remove(NO_FILES).env_remove(NO_SYNC).exec();
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

#[cfg(target_os = "linux")]
#[test]
fn generation_opens_no_socket_and_creates_no_file() {
    use std::os::unix::process::ExitStatusExt;
    let Some(place) = place_with_engine() else { return };
    checkpoint(&place);
    let runs = |args: &[&str]| {
        let outcome = outcome(without_sockets_and_files(place.command(args)));
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.stderr);
    };
    for backend in tandem::backends::compiled() {
        let options = ["--backend", &backend.to_string(), "--threads", "2", "--json"];
        for model in ["demo", "checkpoint"] {
            for dtype in ["f32", "int8"] {
                runs(&[&["run", model, "The fox", "--raw", "--max-tokens", "8", "--dtype", dtype], &options[..]].concat());
            }
            runs(&[&["score", model, "The fox"], &options[..]].concat());
        }
    }
    // Loaded and closed without a run.
    runs(&["show", "model", "--backend", engine(), "--json"]);

    // The filter works: what writes its result to a file is killed.
    let mut writes = without_sockets_and_files(place.command(&["bench", "demo", "--rounds", "1", "--output", "out.json"]));
    let status = writes.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}
