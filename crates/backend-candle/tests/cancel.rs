//! A pass that is under way ends when it is cancelled, between two layers, and the session goes on from where it was.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tandem_backend_candle::CandleBackend;
use tandem_core::files::ModelFiles;
use tandem_core::{Backend, CancelToken, Error, LoadOptions, LogitsRequest, SessionOptions, TokenId};

#[test]
fn a_running_append_ends_when_it_is_cancelled() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/mistral");
    let files = ModelFiles::discover(&directory, "mistral").unwrap();
    let model = CandleBackend::new().load(&files, &LoadOptions::default()).unwrap();
    let tokens: Vec<TokenId> = (0..200).map(|i| i * 31 % 340).collect();
    let whole = model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::Last(1)).unwrap();
    let cancel = CancelToken::new();
    let mut session = model.new_session(&SessionOptions::new().with_cancel(cancel.clone())).unwrap();
    session.append(&tokens[..50], LogitsRequest::None).unwrap();

    // A small model is done sooner than a thread wakes: the rest is appended and taken back until a cancel comes.
    let running = Arc::new(AtomicBool::new(false));
    let canceller = std::thread::spawn({
        let (cancel, running) = (cancel.clone(), Arc::clone(&running));
        move || {
            while !running.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancel.cancel();
        }
    });
    let error = loop {
        match session.append(&tokens[50..], LogitsRequest::Last(1)) {
            Ok(_) => session.rewind(50).unwrap(),
            Err(error) => break error,
        }
        running.store(true, Ordering::SeqCst);
    };
    canceller.join().unwrap();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(session.n_tokens(), 50, "nothing is held of the call");

    cancel.reset();
    let after = session.append(&tokens[50..], LogitsRequest::Last(1)).unwrap();
    let difference = after.values().iter().zip(whole.values()).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(difference < 1e-4, "the cache is what it was: {difference}");
}
