//! Offline no socket is opened: the system itself kills the process that tries.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter_all_threads};
use tandem_core::{CancelToken, Progress};
use tandem_hub::{Hub, HubSettings, PullOptions};

use crate::place::{Place, files_below, reference, wanted};

const CHILD: &str = "TANDEM_TEST_WITHOUT_SOCKETS";

/// SIGSYS, by which a filter kills.
const KILLED: i32 = 31;

/// Everything that works from a cache, in a process that may not make a socket. Run as a test of its own it does nothing.
#[test]
fn child() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let mut words = child.split(' ');
    let (endpoint, cache, offline) = (words.next().unwrap(), words.next().unwrap(), words.next() == Some("offline"));
    forbid_sockets();
    let hub = Hub::new(HubSettings { offline, ..HubSettings::new(endpoint, cache) });
    if !offline {
        let _ = hub.pull(&reference(), &PullOptions::new(wanted()));
        return;
    }
    let options = PullOptions::new(wanted());
    hub.cached(&reference(), &wanted()).unwrap().unwrap();
    hub.find(&reference(), &options).unwrap();
    assert_eq!(hub.pull(&reference(), &options).unwrap().received, 0);
    assert_eq!(hub.verify(None, &Progress::default(), &CancelToken::new()).unwrap(), []);
    assert_eq!(hub.cache().models().len(), 1);
    for missing in ["owner/other", "owner/name@other"] {
        let error = hub.find(&missing.parse().unwrap(), &options).unwrap_err();
        assert!(error.to_string().contains("`HF_HUB_OFFLINE` is set"), "{error}");
        assert!(hub.pull(&missing.parse().unwrap(), &options).is_err());
    }
    assert!(hub.reach(&CancelToken::new()).is_err());
    hub.cache().remove(&reference().repository).unwrap();
}

fn forbid_sockets() {
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let rules = BTreeMap::from([(libc::SYS_socket, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter_all_threads(&program).unwrap();
}

fn run(place: &Place, mode: &str) -> (ExitStatus, String) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["offline::child", "--exact", "--nocapture"])
        .env(CHILD, format!("{} {} {mode}", place.hub.endpoint(), place.cache().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (child.status, String::from_utf8_lossy(&child.stderr).into_owned())
}

#[test]
fn offline_no_socket_is_opened() {
    let place = Place::new();
    place.pulls();
    let (status, text) = run(&place, "online");
    assert_eq!(status.signal(), Some(KILLED), "the filter works: {text}");
    let (status, text) = run(&place, "offline");
    assert!(status.success(), "{status}: {text}");
}

#[test]
fn offline_a_cache_that_another_program_filled_serves_without_a_listing() {
    let place = Place::new();
    place.pulls();
    std::fs::remove_dir_all(place.repository().join("trees")).unwrap();
    let offline = Hub::new(HubSettings { offline: true, ..place.settings() });
    let snapshot = offline.find(&reference(), &PullOptions::new(wanted())).unwrap();
    assert_eq!(snapshot.files, ["config.json", "tokenizer.json", "model.safetensors"]);
    // Online it is asked what else there is; nothing is downloaded twice.
    let sent = place.hub.sent();
    Hub::new(place.settings()).find(&reference(), &PullOptions::new(wanted())).unwrap();
    assert_eq!(place.hub.sent(), sent);
    std::fs::remove_file(place.snapshot().join("model.safetensors")).unwrap();
    assert!(offline.find(&reference(), &PullOptions::new(wanted())).is_err());
    assert!(!files_below(&place.cache()).is_empty());
}
