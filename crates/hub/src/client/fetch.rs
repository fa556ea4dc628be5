//! A request on a thread of its own: whoever waits for it can be cancelled, and the next bytes come while the last are hashed.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use tandem_core::CancelToken;

use super::{Answer, Client, Request};
use crate::failure::Failure;
use crate::settings::HubSettings;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// How many pieces may wait to be written: one mebibyte.
const WAITING: usize = 16;

/// How often a waiting caller looks whether it was cancelled.
const PATIENCE: Duration = Duration::from_millis(50);

/// A request on its way. Dropped, its thread ends with the next piece, or when the server was silent for too long.
pub(crate) struct Fetch {
    pieces: Receiver<Result<Piece, Failure>>,
}

/// What comes of it.
pub(crate) enum Piece {
    /// First.
    Answer(Box<Answer>),
    /// Then the body.
    Bytes(Vec<u8>),
}

impl Fetch {
    pub(crate) fn start(client: &Arc<Client>, request: Request) -> Self {
        let (sender, pieces) = mpsc::sync_channel(WAITING);
        let client = Arc::clone(client);
        thread::spawn(move || {
            if let Err(failure) = run(&client, &request, &sender) {
                // Nobody listens when the work was cancelled.
                let _ = sender.send(Err(failure));
            }
        });
        Self { pieces }
    }

    /// The next piece; `None` at the end of the body.
    pub(crate) fn next(&self, cancel: &CancelToken) -> Result<Option<Piece>, Failure> {
        loop {
            if cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            match self.pieces.recv_timeout(PATIENCE) {
                Ok(piece) => return piece.map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The answer, which comes first.
    pub(crate) fn answer(&self, cancel: &CancelToken) -> Result<Answer, Failure> {
        match self.next(cancel)? {
            Some(Piece::Answer(answer)) => Ok(*answer),
            _ => Err(Failure::passing("the connection ended before the answer")),
        }
    }

    /// The whole body, when it has no more than `limit` bytes.
    pub(crate) fn body(&self, limit: usize, cancel: &CancelToken) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = self.next(cancel)? {
            if let Piece::Bytes(bytes) = piece {
                body.extend(bytes);
            }
            if body.len() > limit {
                return Err(Failure::lasting(format!("the answer has more than {limit} bytes"), "check `HF_ENDPOINT`"));
            }
        }
        Ok(body)
    }
}

fn run(client: &Client, request: &Request, sender: &SyncSender<Result<Piece, Failure>>) -> Result<(), Failure> {
    let (answer, mut body) = client.send(request)?;
    let server = request.address.host().to_owned();
    if sender.send(Ok(Piece::Answer(Box::new(answer)))).is_err() || request.head {
        return Ok(());
    }
    let mut piece = vec![0; PIECE];
    let mut throughput = Throughput::new(&client.settings);
    loop {
        let started = Instant::now();
        match body.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                throughput.check(n as u64, started.elapsed(), &server)?;
                if sender.send(Ok(Piece::Bytes(piece[..n].to_vec()))).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken_off(client, &server, error)),
        }
    }
}

/// How much came in the present window of time. Only the time spent waiting for the server counts.
struct Throughput<'s> {
    settings: &'s HubSettings,
    bytes: u64,
    waited: Duration,
}

impl<'s> Throughput<'s> {
    fn new(settings: &'s HubSettings) -> Self {
        Self { settings, bytes: 0, waited: Duration::ZERO }
    }

    /// Adds `bytes` that came after a wait of `waited`; fails when a window ends with too few.
    fn check(&mut self, bytes: u64, waited: Duration, server: &str) -> Result<(), Failure> {
        (self.bytes, self.waited) = (self.bytes.saturating_add(bytes), self.waited + waited);
        if self.waited < self.settings.throughput_window {
            return Ok(());
        }
        let seconds = self.waited.as_secs_f64();
        if (self.bytes as f64) < self.settings.min_bytes_per_second as f64 * seconds {
            return Err(Failure::passing(format!("`{server}` sent {} bytes in the last {seconds:.1} s", self.bytes)));
        }
        *self = Self::new(self.settings);
        Ok(())
    }
}

fn broken_off(client: &Client, server: &str, error: io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    let problem = match inner {
        Some(ureq::Error::Timeout(_)) => format!("`{server}` was silent for {} s", client.settings.silence.as_secs_f32()),
        _ => format!("the connection to `{server}` broke off"),
    };
    Failure::Passing { problem, wait: None, source: Some(error.into()) }
}
