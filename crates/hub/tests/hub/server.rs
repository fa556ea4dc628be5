//! A hub on the loopback: the API, the files in git, and a storage on another port to which large files are redirected. It can be
//! told to misbehave.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::{Digest, Sha1};
use sha2::Sha256;

pub(crate) const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// What goes wrong with the next answer that would have a file's content.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, with these headers and nothing else.
    Status(u16, Vec<(&'static str, String)>),
    /// All the headers, and the connection closed after so many bytes.
    Truncate(usize),
    /// All the headers, so many bytes, and silence.
    Stall(usize),
    /// All the headers, so many bytes, then a byte every 20 ms for three seconds, and then the rest.
    Trickle(usize),
    /// A `Content-Length` that is so many bytes too large.
    LongerBy(usize),
    /// Bytes beyond the content, without a `Content-Length`.
    TooMuch,
    /// A web page with status 200.
    WebPage,
    /// A web page with status 200 that calls itself something else, without a `Content-Length`.
    WebPageInDisguise,
    /// Status 200 with all of it, whatever was asked for.
    IgnoreRange,
    /// Status 206 with the range that begins so many bytes further on.
    ShiftRange(usize),
    /// Status 206 and no `Content-Range`.
    NoContentRange,
    /// One byte flipped.
    Corrupt,
    /// `Content-Encoding: gzip`.
    Compressed,
    /// To itself.
    RedirectLoop,
    /// To this address.
    RedirectTo(String),
    /// Another value of this header of the hub's own.
    Header(&'static str, String),
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) path: String,
    /// The first byte that was asked for.
    pub(crate) from: Option<u64>,
    pub(crate) authorization: Option<String>,
    pub(crate) is_storage: bool,
}

/// The server; it ends with the process.
pub(crate) struct FakeHub {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    storage: SocketAddr,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    listing: Mutex<Option<String>>,
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    always: Mutex<HashMap<String, Fault>>,
    seen: Mutex<Vec<Seen>>,
    sent: AtomicU64,
    /// Who is told when a stall begins, with its position in the file.
    stalls: Mutex<Option<Sender<u64>>>,
    /// How long a storage waits before each piece of 16 KiB.
    delay: Mutex<Duration>,
}

impl FakeHub {
    pub(crate) fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let (hub, storage) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = hub.local_addr().unwrap();
        let state = Arc::new(State {
            storage: storage.local_addr().unwrap(),
            files: Mutex::new(files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect()),
            listing: Mutex::default(),
            faults: Mutex::default(),
            always: Mutex::default(),
            seen: Mutex::default(),
            sent: AtomicU64::new(0),
            stalls: Mutex::default(),
            delay: Mutex::default(),
        });
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away does not fail the server.
                    std::thread::spawn(move || drop(state.serve(stream, is_storage)));
                }
            });
        }
        Self { address, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next answers with the content of `name`.
    pub(crate) fn next(&self, name: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.faults.lock().unwrap().entry(name.into()).or_default().extend(faults);
    }

    /// Every further answer with the content of `name`; `api` is the listing.
    pub(crate) fn always(&self, name: &str, fault: Fault) {
        self.state.always.lock().unwrap().insert(name.into(), fault);
    }

    pub(crate) fn behave(&self) {
        self.state.always.lock().unwrap().clear();
        self.state.faults.lock().unwrap().clear();
    }

    /// Answers the API with `text`.
    pub(crate) fn list(&self, text: String) {
        *self.state.listing.lock().unwrap() = Some(text);
    }

    pub(crate) fn set(&self, name: &str, bytes: Vec<u8>) {
        self.state.files.lock().unwrap().insert(name.into(), bytes);
    }

    pub(crate) fn slow_down(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    pub(crate) fn tell_stalls(&self, sender: Sender<u64>) {
        *self.state.stalls.lock().unwrap() = Some(sender);
    }

    /// The requests so far whose path ends with `end`.
    pub(crate) fn seen(&self, end: &str) -> Vec<Seen> {
        let seen = self.state.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.path.split('?').next().unwrap().ends_with(end)).cloned().collect()
    }

    /// The transfers of the file `name`: requests that a body was the answer to.
    pub(crate) fn transfers(&self, name: &str) -> Vec<Seen> {
        let mut seen = self.seen(name);
        seen.retain(|seen| seen.is_storage == is_large(name));
        seen
    }

    /// Bytes of contents that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

/// Whether a file lies in storage.
pub(crate) fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".onnx", "_data"].iter().any(|end| name.ends_with(end))
}

/// The `ETag` of a content, as the hub gives it.
pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) { format!("{:x}", Sha256::digest(bytes)) } else { git_sha1(bytes) }
}

fn git_sha1(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    format!("{:x}", hasher.finalize())
}

/// What the API says of `files`.
pub(crate) fn listing_of(files: &BTreeMap<String, Vec<u8>>) -> serde_json::Value {
    let siblings = files.iter().map(|(name, bytes)| {
        let lfs =
            is_large(name).then(|| serde_json::json!({"sha256": etag(name, bytes), "size": bytes.len(), "pointerSize": 134}));
        serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": git_sha1(bytes), "lfs": lfs})
    });
    serde_json::json!({"id": "owner/name", "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()})
}

impl State {
    fn serve(&self, stream: TcpStream, is_storage: bool) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let authorization = headers.get("authorization").cloned();
        self.seen.lock().unwrap().push(Seen { path: path.clone(), from: range, authorization, is_storage });
        let mut answer = Answer { stream, is_head: method == "HEAD" };
        let done = self.answer(&mut answer, &path, range, is_storage);
        let _ = answer.stream.shutdown(Shutdown::Both);
        done
    }

    fn answer(&self, to: &mut Answer, path: &str, from: Option<u64>, is_storage: bool) -> std::io::Result<()> {
        let path = path.split('?').next().unwrap_or_default();
        if path.starts_with("/api/") {
            return self.answer_api(to);
        }
        if path == "/" {
            return to.head(200, &[]);
        }
        let name = match path.split_once(&format!("/{COMMIT}/")) {
            Some((_, name)) => name.to_owned(),
            None => return to.head(404, &[("X-Error-Code", "EntryNotFound".into())]),
        };
        let Some(bytes) = self.files.lock().unwrap().get(&name).cloned() else { return to.head(404, &[]) };
        let tag = etag(&name, &bytes);
        let mut identity = vec![("X-Repo-Commit", COMMIT.to_owned()), ("ETag", format!("\"{tag}\""))];
        if is_large(&name) && !is_storage {
            if let Some(Fault::Header(header, value)) = self.fault(&name, |fault| matches!(fault, Fault::Header(..))) {
                identity.push((header, value));
            }
            identity.retain(|(header, _)| *header != "ETag");
            if !identity.iter().any(|(header, _)| *header == "X-Linked-Etag") {
                identity.push(("X-Linked-Etag", format!("\"{tag}\"")));
            }
            identity.push(("X-Linked-Size", bytes.len().to_string()));
            identity.push(("Location", format!("http://{}/storage/{COMMIT}/{name}?Signature=s3cr3t", self.storage)));
            return to.head(302, &identity);
        }
        if is_storage {
            identity = vec![("ETag", "\"5d41402abc4b2a76b9719d911017c592-7\"".into())];
        }
        let fault = self.fault(&name, |fault| !is_large(&name) || !matches!(fault, Fault::Header(..)));
        self.answer_content(to, &bytes, from, identity, fault)
    }

    fn answer_api(&self, to: &mut Answer) -> std::io::Result<()> {
        match self.fault("api", |_| true) {
            Some(Fault::Status(status, headers)) => return to.head(status, &headers),
            Some(Fault::WebPage) => return to.web_page(),
            Some(Fault::Truncate(n)) => {
                let text = listing_of(&self.files.lock().unwrap()).to_string();
                to.head(200, &[("Content-Length", text.len().to_string())])?;
                return to.stream.write_all(&text.as_bytes()[..n]);
            }
            other => assert!(other.is_none(), "{other:?} is none of the API's"),
        }
        let text = self.listing.lock().unwrap().clone();
        let text = text.unwrap_or_else(|| listing_of(&self.files.lock().unwrap()).to_string());
        to.head(200, &[("Content-Type", "application/json".into()), ("Content-Length", text.len().to_string())])?;
        to.stream.write_all(text.as_bytes())
    }

    /// The fault of the next answer about `name`, when it is one that `counts`.
    fn fault(&self, name: &str, counts: impl Fn(&Fault) -> bool) -> Option<Fault> {
        if let Some(fault) = self.always.lock().unwrap().get(name).filter(|fault| counts(fault)) {
            return Some(fault.clone());
        }
        let mut faults = self.faults.lock().unwrap();
        let next = faults.get_mut(name)?;
        counts(next.front()?).then(|| next.pop_front()).flatten()
    }

    fn answer_content(
        &self,
        to: &mut Answer,
        bytes: &[u8],
        from: Option<u64>,
        mut headers: Vec<(&'static str, String)>,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let mut start = from.map_or(0, |from| usize::try_from(from).unwrap());
        let mut status = if from.is_some() { 206 } else { 200 };
        let mut content = bytes.to_vec();
        let (mut longer, mut with_length, mut with_range, mut end, mut stalls) = (0, true, true, usize::MAX, false);
        let mut trickle = 0..0;
        match fault {
            None => {}
            Some(Fault::Status(status, headers)) => return to.head(status, &headers),
            Some(Fault::WebPage) => return to.web_page(),
            Some(Fault::WebPageInDisguise) => {
                to.head(200, &[("Content-Type", "application/octet-stream".into())])?;
                return to.stream.write_all(b"<html>please sign in</html>");
            }
            Some(Fault::RedirectLoop) => {
                let location = format!("http://{}/storage/{COMMIT}/model.safetensors", self.storage);
                return to.head(302, &[("Location", location)]);
            }
            Some(Fault::RedirectTo(location)) => return to.head(307, &[("Location", location)]),
            Some(Fault::IgnoreRange) => (start, status) = (0, 200),
            Some(Fault::ShiftRange(by)) => start += by,
            Some(Fault::NoContentRange) => with_range = false,
            Some(Fault::Corrupt) => content[bytes.len() / 2] ^= 1,
            Some(Fault::Compressed) => headers.push(("Content-Encoding", "gzip".into())),
            Some(Fault::LongerBy(by)) => longer = by,
            Some(Fault::TooMuch) => {
                content.extend_from_slice(b"more");
                with_length = false;
            }
            Some(Fault::Truncate(n)) => end = start + n,
            Some(Fault::Trickle(n)) => trickle = start + n..start + n + 150,
            Some(Fault::Stall(n)) => (end, stalls) = (start + n, true),
            Some(Fault::Header(header, value)) => {
                headers.retain(|(name, _)| !name.eq_ignore_ascii_case(header));
                headers.push((header, value));
            }
        }
        if start >= bytes.len() {
            return to.head(416, &[("Content-Range", format!("bytes */{}", bytes.len()))]);
        }
        if with_length {
            headers.push(("Content-Length", (bytes.len() - start + longer).to_string()));
        }
        if status == 206 && with_range {
            headers.push(("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())));
        }
        to.head(status, &headers)?;
        self.send(to, &content[start..trickle.start.max(start)])?;
        for i in trickle.clone() {
            std::thread::sleep(Duration::from_millis(20));
            self.send(to, &content[i..=i])?;
        }
        self.send(to, &content[trickle.end.max(start)..end.min(content.len())])?;
        if stalls {
            if let Some(sender) = &*self.stalls.lock().unwrap() {
                let _ = sender.send(end.min(content.len()) as u64);
            }
            // Until the client goes away.
            let _ = to.stream.read(&mut [0]);
        }
        Ok(())
    }

    fn send(&self, to: &mut Answer, content: &[u8]) -> std::io::Result<()> {
        if to.is_head {
            return Ok(());
        }
        let delay = *self.delay.lock().unwrap();
        for piece in content.chunks(16 << 10) {
            std::thread::sleep(delay);
            to.stream.write_all(piece)?;
            self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        Ok(())
    }
}

struct Answer {
    stream: TcpStream,
    is_head: bool,
}

impl Answer {
    fn head(&mut self, status: u16, headers: &[(&str, String)]) -> std::io::Result<()> {
        let mut text = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !matches!(status, 200 | 206) {
            text += "Content-Length: 0\r\n";
        }
        self.stream.write_all((text + "\r\n").as_bytes())
    }

    fn web_page(&mut self) -> std::io::Result<()> {
        let page = "<html>please sign in</html>";
        self.head(200, &[("Content-Type", "text/html; charset=utf-8".into()), ("Content-Length", page.len().to_string())])?;
        self.stream.write_all(page.as_bytes())
    }
}
