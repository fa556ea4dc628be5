//! A server that misbehaves: what passes is asked for again, what lasts is said, and no wrong byte is ever visible.

use std::time::{Duration, Instant};

use crate::place::{Place, SECRET, WEIGHTS};
use crate::server::{COMMIT, Fault};

fn status(status: u16) -> Fault {
    Fault::Status(status, Vec::new())
}

/// After `faults` with the weights a pull succeeds.
#[track_caller]
fn recovers(faults: Vec<Fault>) -> Place {
    let place = Place::new();
    place.hub.next(WEIGHTS, faults);
    place.pulls();
    place
}

/// With `fault` at each request for the weights a pull fails; when the server behaves again, the next one succeeds.
#[track_caller]
fn fails(fault: Fault, parts: &[&str]) {
    let place = Place::new();
    place.hub.always(WEIGHTS, fault);
    place.fails(parts);
    assert!(!place.snapshot().join(WEIGHTS).exists());
    place.hub.behave();
    place.pulls();
}

#[test]
fn a_server_that_behaves_is_asked_once() {
    let place = Place::new();
    let pulled = place.pulls();
    assert_eq!((place.hub.transfers(WEIGHTS).len(), place.hub.transfers("config.json").len()), (1, 1));
    assert_eq!((place.hub.seen("README.md").len(), place.hub.seen("pytorch_model.bin").len()), (0, 0));
    assert_eq!(pulled.received, place.hub.sent());
    assert_eq!(place.pulls().received, 0);
    assert_eq!(place.hub.transfers(WEIGHTS).len(), 1);
}

#[test]
fn a_body_that_breaks_off_is_continued() {
    let place = recovers(vec![Fault::Truncate(100_000), Fault::Truncate(1), Fault::Truncate(150_000)]);
    let from: Vec<_> = place.hub.transfers(WEIGHTS).iter().map(|seen| seen.from).collect();
    assert_eq!(from, [None, Some(100_000), Some(100_001), Some(250_001)]);
    assert_eq!(place.hub.sent() - place.hub.transfers("config.json").len() as u64 * 23 - 20_000, 300_000);
}

#[test]
fn a_body_that_always_breaks_off_is_given_up_and_kept() {
    let place = Place::new();
    place.hub.next(WEIGHTS, [Fault::Truncate(100_000)]);
    place.hub.next(WEIGHTS, vec![Fault::Truncate(0); 20]);
    place.fails(&["downloading `model.safetensors` from `owner/name` failed", "4 times in a row", "what was downloaded is kept"]);
    assert_eq!(std::fs::read(place.partial()).unwrap(), place.weights()[..100_000]);
    place.hub.behave();
    assert_eq!(place.pulls().received, 200_000);
}

#[test]
fn a_server_that_is_silent_is_asked_again() {
    let started = Instant::now();
    let place = recovers(vec![Fault::Stall(50_000), Fault::Stall(0)]);
    assert!(started.elapsed() > Duration::from_millis(1300) && started.elapsed() < Duration::from_secs(20));
    let from: Vec<_> = place.hub.transfers(WEIGHTS).iter().map(|seen| seen.from).collect();
    assert_eq!(from, [None, Some(50_000), Some(50_000)]);
}

#[test]
fn a_server_that_stays_silent_is_named() {
    fails(Fault::Stall(10), &["`127.0.0.1` was silent for 0.7 s, 4 times in a row"]);
}

#[test]
fn a_failure_of_the_server_passes() {
    recovers(vec![status(500), status(503), status(502)]);
    fails(status(500), &["has a failure of its own (status 500), 4 times in a row"]);
}

#[test]
fn a_server_that_asks_for_a_wait_is_given_it() {
    let wait = |text: &str| Fault::Status(429, vec![("Retry-After", text.to_owned())]);
    let started = Instant::now();
    recovers(vec![wait("1")]);
    assert!(started.elapsed() >= Duration::from_secs(1));
    let soon = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3));
    let started = Instant::now();
    recovers(vec![wait(&soon)]);
    assert!(started.elapsed() >= Duration::from_secs(1));
    fails(wait("3600"), &["asked too often (status 429), and wants to be left alone for 3600 s"]);
}

#[test]
fn refusals_are_not_repeated_and_say_what_to_do() {
    for (fault, parts) in [
        (status(401), ["the token is not accepted", "HF_TOKEN"]),
        (status(403), ["access is refused (status 403)", "owner/name"]),
        (status(404), ["there is no such thing (status 404)", "owner/name"]),
        (Fault::Status(403, vec![("X-Error-Code", "GatedRepo".into())]), ["is gated", "accept its conditions"]),
        (status(418), ["status 418", "HF_ENDPOINT"]),
    ] {
        let place = Place::new();
        place.hub.always(WEIGHTS, fault);
        place.fails(&parts);
        assert_eq!(place.hub.transfers(WEIGHTS).len(), 1);
    }
}

#[test]
fn a_repository_that_is_not_there_is_missed() {
    for (code, part) in [("RepoNotFound", "the token is not accepted"), ("RevisionNotFound", "no such revision")] {
        let place = Place::new();
        let status = if code == "RepoNotFound" { 401 } else { 404 };
        place.hub.always("api", Fault::Status(status, vec![("X-Error-Code", code.into())]));
        place.fails(&["no model `owner/name`: the hub says", part]);
    }
    let place = Place::new();
    place.hub.always("api", Fault::Status(401, vec![("X-Error-Code", "RepoNotFound".into())]));
    let hub = tandem_hub::Hub::new(tandem_hub::HubSettings { token: None, ..place.settings() });
    let error = hub.pull(&crate::place::reference(), &tandem_hub::PullOptions::new(crate::place::wanted())).unwrap_err();
    assert!(error.to_string().contains("there is no such repository, or it needs a token"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("HF_TOKEN"));
}

#[test]
fn a_listing_that_fails_is_asked_for_again() {
    let place = Place::new();
    place.hub.next("api", [status(500), Fault::Truncate(40), status(429)]);
    place.pulls();
    let place = Place::new();
    place.hub.always("api", Fault::WebPage);
    place.fails(&["a web page came in the place of the file", "sign in"]);
    assert!(!place.repository().exists());
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let place = recovers(vec![Fault::Truncate(100_000), Fault::IgnoreRange]);
    assert_eq!(place.hub.transfers(WEIGHTS)[1].from, Some(100_000));
}

#[test]
fn a_range_that_was_not_asked_for_is_not_taken() {
    for fault in [Fault::ShiftRange(1000), Fault::NoContentRange] {
        let place = recovers(vec![Fault::Truncate(100_000), fault]);
        let from: Vec<_> = place.hub.transfers(WEIGHTS).iter().map(|seen| seen.from).collect();
        assert_eq!(from, [None, Some(100_000), None]);
    }
}

#[test]
fn a_length_that_is_another_is_refused_before_a_byte_is_written() {
    fails(Fault::LongerBy(7), &["the server sends 300007 bytes", "in the place of 300000"]);
    fails(Fault::TooMuch, &["more came than the 300000 bytes"]);
    let place = Place::new();
    place.hub.always(WEIGHTS, Fault::LongerBy(7));
    place.fails(&[]);
    assert_eq!(std::fs::metadata(place.partial()).unwrap().len(), 0);
}

#[test]
fn a_web_page_is_no_file() {
    fails(Fault::WebPage, &["a web page came in the place of the file", "sign in"]);
    let place = Place::new();
    place.hub.always("config.json", Fault::WebPage);
    place.fails(&["`config.json`", "a web page came"]);
    // One that breaks off is continued, found wrong, and asked for anew.
    let place = recovers(vec![Fault::WebPageInDisguise]);
    assert_eq!(place.hub.transfers(WEIGHTS).last().unwrap().from, None);
}

#[test]
fn a_wrong_content_is_asked_for_once_more_and_then_refused() {
    let place = recovers(vec![Fault::Corrupt]);
    assert_eq!(place.hub.transfers(WEIGHTS).len(), 2);
    fails(Fault::Corrupt, &["all 300000 bytes came twice, and their hash is not `"]);
    let place = Place::new();
    place.hub.always("config.json", Fault::Corrupt);
    place.fails(&["`config.json`", "came twice"]);
}

#[test]
fn what_comes_compressed_is_refused() {
    fails(Fault::Compressed, &["came compressed, which was not asked for"]);
}

#[test]
fn a_redirect_to_another_host_gets_no_token() {
    let place = Place::new();
    place.pulls();
    let seen = place.hub.seen(WEIGHTS);
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].is_storage, seen[0].authorization.clone()), (false, Some(format!("Bearer {SECRET}"))));
    assert_eq!((seen[1].is_storage, seen[1].authorization.clone()), (true, None));
}

#[test]
fn a_redirect_within_the_hub_keeps_the_token_and_is_followed() {
    let place = Place::new();
    place.hub.next("config.json", [Fault::RedirectTo(format!("/moved/name/resolve/{COMMIT}/config.json"))]);
    place.pulls();
    let seen = place.hub.seen("config.json");
    assert_eq!(seen.iter().filter(|seen| seen.authorization.is_some()).count(), 2);
    assert!(seen[1].path.starts_with("/moved/"));
}

#[test]
fn redirects_that_lead_nowhere_end() {
    fails(Fault::RedirectLoop, &["redirects more than 10 times"]);
    fails(Fault::RedirectTo("file:///etc/passwd".into()), &["redirects to no address"]);
    let place = Place::new();
    place.hub.always(WEIGHTS, Fault::RedirectLoop);
    place.fails(&[]);
    assert!(place.hub.transfers(WEIGHTS).len() <= 11);
}

#[test]
fn a_content_that_changes_in_the_middle_is_not_mixed() {
    let place = Place::new();
    let other = crate::server::etag(WEIGHTS, b"another content");
    place.hub.next(WEIGHTS, [Fault::Truncate(100_000)]);
    place.hub.next("config.json", []);
    // The redirect of the second request names another content.
    let changes = Fault::Header("X-Linked-Etag", format!("\"{other}\""));
    place.hub.next(WEIGHTS, [changes]);
    place.fails(&["its hash is `", "and was another before", "ask again"]);
    assert_eq!(std::fs::read(place.partial()).unwrap(), place.weights()[..100_000]);
    place.hub.behave();
    assert_eq!(place.pulls().received, 200_000);

    let place = Place::new();
    place.hub.always("config.json", Fault::Header("X-Repo-Commit", "f".repeat(40)));
    place.fails(&["its commit is `fff", "and was another before"]);
}

#[test]
fn a_new_commit_takes_over_what_is_the_same() {
    let place = Place::new();
    place.pulls();
    place.hub.set("config.json", br#"{"model_type": "qwen3"}"#.to_vec());
    let sent = place.hub.sent();
    place.pull().unwrap();
    assert_eq!(place.hub.sent() - sent, 23);
}

#[test]
fn nothing_at_the_address_is_said() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let settings = tandem_hub::HubSettings { endpoint: format!("http://{closed}"), ..place.settings() };
    let options = tandem_hub::PullOptions::new(crate::place::wanted());
    let error = tandem_hub::Hub::new(settings).pull(&crate::place::reference(), &options).unwrap_err();
    assert!(error.to_string().contains("the connection to `127.0.0.1` failed, 4 times in a row"), "{error}");
}

/// Whatever is wrong with the address, its password is in no message.
#[test]
fn passwords_in_the_address_are_not_shown() {
    let place = Place::new();
    let working = place.hub.endpoint().replace("http://", "http://me:s3cr3t@");
    let missing = Fault::Status(404, vec![("X-Error-Code", "RepoNotFound".into())]);
    place.hub.always("api", missing);
    let closed = "http://me:s3cr3t@127.0.0.1:1".to_owned();
    for endpoint in
        [working, closed, "http://me:s3cr3t@".into(), "gopher://me:s3cr3t@hub".into(), "http://me:s3/s3cr3t@hub.invalid".into()]
    {
        let hub = tandem_hub::Hub::new(tandem_hub::HubSettings { endpoint, attempts: 1, ..place.settings() });
        let error = hub.pull(&crate::place::reference(), &tandem_hub::PullOptions::new(crate::place::wanted())).unwrap_err();
        let sources = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let mut text: String = sources.map(|error| format!("{error} {error:?} ")).collect();
        text += &format!("{} {hub:?}", error.hint().unwrap_or_default());
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}

/// A byte now and then is silence as well.
#[test]
fn a_server_that_trickles_is_asked_again() {
    let place = Place::new();
    place.hub.next(WEIGHTS, [Fault::Trickle(50_000)]);
    let settings = tandem_hub::HubSettings {
        throughput_window: Duration::from_millis(500),
        min_bytes_per_second: 10_000,
        ..place.settings()
    };
    let options = tandem_hub::PullOptions::new(crate::place::wanted());
    tandem_hub::Hub::new(settings.clone()).pull(&crate::place::reference(), &options).unwrap();
    let transfers = place.hub.transfers(WEIGHTS);
    assert!(transfers.len() == 2 && transfers[1].from > Some(50_000), "{transfers:?}");
    place.pulls();

    let place = Place::new();
    place.hub.always(WEIGHTS, Fault::Trickle(10));
    let settings = tandem_hub::HubSettings { endpoint: place.hub.endpoint(), cache: place.cache(), ..settings };
    let error = tandem_hub::Hub::new(settings).pull(&crate::place::reference(), &options).unwrap_err();
    assert!(error.to_string().contains("in the last 0.5 s, 4 times in a row"), "{error}");
}

#[test]
fn a_pull_can_be_cancelled_while_the_server_is_silent() {
    let place = Place::new();
    place.hub.always(WEIGHTS, Fault::Stall(70_000));
    let settings = tandem_hub::HubSettings { silence: Duration::from_secs(600), ..place.settings() };
    let options = tandem_hub::PullOptions::new(crate::place::wanted());
    let cancel = options.cancel.clone();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400));
        cancel.cancel();
        Instant::now()
    });
    let error = tandem_hub::Hub::new(settings).pull(&crate::place::reference(), &options).unwrap_err();
    let took = canceller.join().unwrap().elapsed();
    assert!(matches!(error, tandem_core::Error::Cancelled), "{error}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(std::fs::read(place.partial()).unwrap(), place.weights()[..70_000]);
    place.hub.behave();
    assert_eq!(place.pulls().received, 230_000);
}

/// What names other files is small. One that is not is neither downloaded nor read.
#[test]
fn a_file_that_names_others_is_read_within_a_bound() {
    let big = vec![b' '; (16 << 20) + 1];
    let place = Place::with(&[("config.json", b"{}".to_vec()), ("index.json", big.clone())]);
    let options = tandem_hub::PullOptions::new(tandem_hub::FileSelector::new(|listing| {
        (listing.read)("index.json")?;
        Ok(vec!["config.json".into()])
    }));
    let hub = tandem_hub::Hub::new(place.settings());
    let error = hub.pull(&crate::place::reference(), &options).unwrap_err();
    assert!(error.to_string().contains("`owner/name`: field `index.json`: has 16777217 bytes"), "{error}");
    assert_eq!(place.hub.transfers("index.json").len(), 0);

    place.hub.set("index.json", b"{}".to_vec());
    hub.pull(&crate::place::reference(), &options).unwrap();
    let cached = || hub.cached(&crate::place::reference(), &options.select).unwrap();
    assert!(cached().is_some());
    std::fs::remove_file(place.snapshot().join("index.json")).unwrap();
    std::fs::write(place.snapshot().join("index.json"), big).unwrap();
    assert!(cached().is_none());
}

#[test]
fn progress_is_told_up_to_the_end() {
    let place = Place::with(&crate::place::checkpoint(300_000));
    place.hub.next(WEIGHTS, [Fault::Truncate(100_000)]);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let options = tandem_hub::PullOptions {
        progress: tandem_core::Progress::new({
            let seen = std::sync::Arc::clone(&seen);
            move |event| seen.lock().unwrap().extend(event.bytes())
        }),
        ..tandem_hub::PullOptions::new(crate::place::wanted())
    };
    tandem_hub::Hub::new(place.settings()).pull(&crate::place::reference(), &options).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|(_, total)| *total == 320_023), "{seen:?}");
    assert_eq!(seen.iter().map(|(done, _)| *done).max(), Some(320_023));
}
