//! Several processes that want the same, and disks that are full.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tandem_core::{Progress, ProgressEvent};
use tandem_hub::{Hub, PullOptions};

use crate::kill::{CHILD, spawn};
use crate::place::{Place, WEIGHTS, reference, wanted};
use crate::server::Fault;

#[test]
fn eight_processes_make_one_transfer() {
    let place = Place::new();
    place.hub.slow_down(Duration::from_millis(20));
    let children: Vec<_> = (0..8).map(|_| spawn(&place)).collect();
    let mut received = 0;
    for mut child in children {
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success(), "{text}");
        received += text.trim().rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    }
    for file in [WEIGHTS, "config.json", "tokenizer.json"] {
        assert_eq!(place.hub.transfers(file).len(), 1, "{file}");
    }
    assert_eq!((received, place.hub.sent()), (320_023, 320_023));
    place.pulls();
}

#[test]
fn whoever_waits_sees_how_far_the_other_one_is_and_takes_over_when_it_is_killed() {
    let place = Place::new();
    place.hub.next(WEIGHTS, [Fault::Stall(120_000)]);
    let mut child = spawn(&place);
    let started = std::time::Instant::now();
    while fs::metadata(place.partial()).map_or(0, |metadata| metadata.len()) < 120_000 {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(2));
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let options = PullOptions {
        progress: Progress::new({
            let (seen, id) = (Arc::clone(&seen), child.id().to_string());
            move |event| {
                if let ProgressEvent::DownloadingElsewhere { file, done, .. } = event {
                    seen.lock().unwrap().push(((*file).to_owned(), *done));
                    let killed = Command::new("kill").args(["-KILL", &id]).status().unwrap();
                    assert!(killed.success());
                }
            }
        }),
        ..PullOptions::new(wanted())
    };
    let pulled = Hub::new(place.settings()).pull(&reference(), &options).unwrap();
    child.wait().unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|(file, done)| file == WEIGHTS && *done >= 120_000), "{seen:?}");
    assert_eq!(pulled.received, 180_000);
    place.check_cache();
}

/// `ulimit -f` stands for a full disk: a write beyond it fails where the disk's end would be.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_is_said_with_path_and_bytes() {
    let place = Place::new();
    // 200 blocks of 512 bytes in a POSIX shell, of 1024 in bash: less than the weights either way.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" kill::child --exact --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, format!("{} {}", place.hub.endpoint(), place.cache().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = String::from_utf8(child.stderr).unwrap();
    assert!(!child.status.success());
    let have = fs::metadata(place.partial()).unwrap().len();
    assert!((30_000..=204_800).contains(&have), "{have}");
    let partial = place.partial().display().to_string();
    for part in [&partial, &format!("cannot be written beyond {have} bytes; {} more are needed", 300_000 - have)] {
        assert!(text.contains(part.as_str()), "`{part}` is not in: {text}");
    }
    place.check_cache();
    assert!(!place.snapshot().join(WEIGHTS).exists());
    // What came before is kept; the small files may have been among it.
    let received = place.pulls().received;
    assert!((300_000 - have..=320_023 - have).contains(&received), "{received}");
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named_and_one_that_is_whole_serves() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    fs::create_dir(place.cache()).unwrap();
    let set = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(&place.cache(), 0o555);
    if fs::write(place.cache().join("probe"), "").is_ok() {
        fs::remove_file(place.cache().join("probe")).unwrap();
        eprintln!("skipped: this user may write anywhere");
        return;
    }
    place.fails(&["cannot be made", "make the cache writable"]);
    set(&place.cache(), 0o755);
    place.pulls();
    for directory in ["", "models--owner--name", "models--owner--name/blobs", "models--owner--name/refs"] {
        set(&place.cache().join(directory), 0o555);
    }
    assert!(Hub::new(place.settings()).cached(&reference(), &wanted()).unwrap().is_some());
    place.pulls();
    for directory in ["", "models--owner--name", "models--owner--name/blobs", "models--owner--name/refs"] {
        set(&place.cache().join(directory), 0o755);
    }
}
