//! A process that is killed in the middle of a download, many times, at positions of chance.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tandem_core::CancelToken;
use tandem_hub::{Hub, HubSettings, PullOptions};

use crate::place::{Place, WEIGHTS, checkpoint, random, reference, wanted};
use crate::server::Fault;

/// Set in the process that is to be killed: the hub's address and the cache.
pub(crate) const CHILD: &str = "TANDEM_TEST_CHILD";

/// How many times a process is killed.
const KILLS: usize = 200;

/// What may be fetched twice: what waits between network and disk.
const CHUNK: u64 = 64 << 10;

const SIZE: usize = 400_000;

/// The process that is to be killed. Run as a test of its own it does nothing.
#[test]
fn child() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let (endpoint, cache) = child.split_once(' ').unwrap();
    let settings = HubSettings { silence: Duration::from_secs(60), ..HubSettings::new(endpoint, cache) };
    let pulled = Hub::new(settings).pull(&reference(), &PullOptions { cancel: CancelToken::new(), ..PullOptions::new(wanted()) });
    match pulled {
        Ok(pulled) => eprintln!("received {}", pulled.received),
        Err(error) => panic!("{error}: {error:?}"),
    }
}

pub(crate) fn spawn(place: &Place) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture"])
        .env(CHILD, format!("{} {}", place.hub.endpoint(), place.cache().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_download_goes_on_where_it_was_and_no_wrong_byte_is_ever_visible() {
    let mut chance = fastrand::Rng::with_seed(20_261_120);
    let mut kills = 0;
    while kills < KILLS {
        kills += kill_until_whole(&mut chance, 20.min(KILLS - kills));
    }
}

/// One download, killed `n_kills` times, then left alone.
fn kill_until_whole(chance: &mut fastrand::Rng, n_kills: usize) -> usize {
    let place = Place::with(&checkpoint(SIZE));
    let (sender, stalls) = mpsc::channel();
    place.hub.tell_stalls(sender);
    for _ in 0..n_kills {
        let have = fs::metadata(partial(&place)).map_or(0, |metadata| metadata.len());
        let missing = usize::try_from(SIZE as u64 - have).unwrap();
        // Small steps, so that the file is not whole too soon; from time to time it is, and the kill comes at the very end.
        let step = chance.usize(..=missing.min(2 * SIZE / n_kills));
        place.hub.behave();
        place.hub.next(WEIGHTS, [Fault::Stall(step)]);
        let before = place.hub.transfers(WEIGHTS).len();
        let mut child = spawn(&place);
        if let Ok(position) = stalls.recv_timeout(Duration::from_secs(20)) {
            let sent = position;
            match chance.u8(..4) {
                // At once, whatever the process is doing.
                0 => {}
                // In the midst of the rest.
                1 => std::thread::sleep(Duration::from_micros(chance.u64(..3000))),
                _ => wait_for(&place, sent),
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        place.check_cache();
        assert!(!place.snapshot().join(WEIGHTS).exists() || have == SIZE as u64);
        let asked = place.hub.transfers(WEIGHTS)[before..].first().and_then(|seen| seen.from).unwrap_or(0);
        assert_eq!(asked, have, "it goes on where the file ends");
        let partial = fs::read(partial(&place)).unwrap_or_default();
        assert!(random(SIZE, 2).starts_with(&partial), "what is kept is right");
    }
    place.hub.behave();
    let sent = place.hub.sent();
    let have = fs::metadata(partial(&place)).map_or(0, |metadata| metadata.len());
    place.pulls();
    assert!(place.hub.sent() - sent <= SIZE as u64 - have);
    n_kills
}

/// Waits until all but a chunk of what was sent is on disk: no more than that is lost to a kill.
fn wait_for(place: &Place, sent: u64) {
    let started = Instant::now();
    while fs::metadata(partial(place)).map_or(0, |metadata| metadata.len()) + CHUNK < sent {
        assert!(started.elapsed() < Duration::from_secs(20), "more than a chunk of {sent} bytes is not on disk");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn partial(place: &Place) -> std::path::PathBuf {
    place.repository().join("blobs").join(format!("{}.incomplete", crate::server::etag(WEIGHTS, &random(SIZE, 2))))
}
