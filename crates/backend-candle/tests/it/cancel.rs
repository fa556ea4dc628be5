//! Cancelling a running forward pass: it stops between two layers, and the session stays usable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tandem_core::{CancelToken, Error, LoadOptions, LogitsRequest, SessionOptions, TokenId};

use crate::{golden, load};

#[test]
fn append_stops_when_cancelled_and_keeps_the_session() {
    let model = load(&golden("mistral"), &LoadOptions::default()).unwrap();
    let tokens: Vec<TokenId> = (0..200).map(|i| i * 31 % 340).collect();
    let whole = model.new_session(&SessionOptions::default()).unwrap().append(&tokens, LogitsRequest::Last(1)).unwrap();
    let cancel = CancelToken::new();
    let mut session = model.new_session(&SessionOptions::new().with_cancel(cancel.clone())).unwrap();
    session.append(&tokens[..50], LogitsRequest::None).unwrap();

    // A small model is faster than the wake-up of a thread: tokens are appended and rewound until the cancellation arrives.
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
    assert_eq!(session.n_tokens(), 50, "a cancelled call appends nothing");

    cancel.reset();
    let after = session.append(&tokens[50..], LogitsRequest::Last(1)).unwrap();
    let difference = after.values().iter().zip(whole.values()).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(difference < 1e-4, "the cache is unchanged: {difference}");
}
