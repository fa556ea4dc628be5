//! Runs another program to its end: with text for it to read, its output kept, its peak memory watched, ended when the user says so.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use tandem_core::{CancelToken, Error, Result};

/// How often it is looked at: rarely enough to cost it nothing.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long this process may take to hear of a Ctrl-C that has ended the other.
const HEARING: Duration = Duration::from_millis(100);

/// How much of what a program says before it fails is told to the user, in bytes.
const LAST_WORDS: usize = 600;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it wrote to its standard output.
    pub(crate) stdout: String,
    /// What it wrote to its standard error.
    pub(crate) stderr: String,
    /// The most physical memory that it held, in bytes, where the system tells.
    pub(crate) peak_rss_bytes: Option<u64>,
}

/// Runs `command`, which reads `input`; `name` is what it is called in messages.
///
/// # Errors
/// [`Error::Unsupported`] when it cannot be started, [`Error::Cancelled`].
pub(crate) fn run(mut command: Command, name: &str, input: &str, cancel: &CancelToken) -> Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Error::Unsupported {
        what: name.to_owned(),
        reason: format!("`{program}` cannot be run: {error}"),
        hint: Some("name an executable program".into()),
    })?;
    thread::scope(|scope| {
        let stdin = child.stdin.take();
        // A program that ends before it has read everything says itself why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stdout = scope.spawn(move || stdout.map(read).unwrap_or_default());
        let stderr = scope.spawn(move || stderr.map(read).unwrap_or_default());
        let (status, peak_rss_bytes) = wait(&mut child, name, cancel)?;
        let text = |reader: thread::ScopedJoinHandle<'_, String>| reader.join().unwrap_or_default();
        Ok(Finished { status, stdout: text(stdout), stderr: text(stderr), peak_rss_bytes })
    })
}

impl Finished {
    /// The end of what it said, for a message.
    pub(crate) fn last_words(&self) -> String {
        let text = self.stderr.trim();
        let mut from = text.len().saturating_sub(LAST_WORDS);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        let words = text[from..].lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ");
        if words.is_empty() { "no error was printed".into() } else { words }
    }
}

/// Until it ends, or the user ends it.
fn wait(child: &mut Child, name: &str, cancel: &CancelToken) -> Result<(ExitStatus, Option<u64>)> {
    let mut peak = None;
    loop {
        peak = peak.max(peak_of(child.id()));
        let lost = |error: std::io::Error| Error::bad_file(name, "cannot be waited for", error);
        if let Some(status) = child.try_wait().map_err(lost)? {
            // Ctrl-C on a terminal reaches it as well, and ends it before this process has heard of it.
            if !status.success() && !cancel.is_cancelled() {
                thread::sleep(HEARING);
            }
            let is_cancelled = cancel.is_cancelled() || was_interrupted(status);
            return if is_cancelled { Err(Error::Cancelled) } else { Ok((status, peak)) };
        }
        if cancel.is_cancelled() {
            // It may have ended by itself, since Ctrl-C reaches it as well.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Cancelled);
        }
        thread::sleep(PATIENCE);
    }
}

/// Whether Ctrl-C ended it.
#[cfg(unix)]
fn was_interrupted(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    // SIGINT of signal(7), the same on every system.
    status.signal() == Some(2)
}

#[cfg(not(unix))]
fn was_interrupted(_: ExitStatus) -> bool {
    false
}

fn read(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before a failure is what there is.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `VmHWM` of proc(5).
fn peak_of(process: u32) -> Option<u64> {
    crate::memory::peak_in(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn processes_return_output_and_status() {
        let finished = run(shell("cat; echo bad >&2; exit 3"), "peer", "text", &CancelToken::new()).unwrap();
        assert_eq!((finished.stdout.as_str(), finished.status.code(), finished.last_words().as_str()), ("text", Some(3), "bad"));
    }

    #[test]
    fn process_errors_name_a_missing_program() {
        let error = run(Command::new("./no-such-program"), "peer `x`", "", &CancelToken::new()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("peer `x`") && text.contains("no-such-program"), "{text}");
    }

    #[test]
    fn processes_ended_by_ctrl_c_count_as_cancelled() {
        use std::os::unix::process::ExitStatusExt;
        // Not by a signal that is sent: who runs the tests in the background has it ignored.
        assert!(was_interrupted(ExitStatus::from_raw(2)) && !was_interrupted(ExitStatus::from_raw(2 << 8)));
        let cancel = CancelToken::new();
        let later = cancel.clone();
        let heard = thread::spawn(move || {
            thread::sleep(HEARING / 4);
            later.cancel();
        });
        assert!(matches!(run(shell("exit 130"), "peer", "", &cancel), Err(Error::Cancelled)));
        heard.join().unwrap();
    }

    #[test]
    fn processes_end_when_cancelled() {
        let cancel = CancelToken::new();
        cancel.cancel();
        let started = std::time::Instant::now();
        assert!(matches!(run(shell("exec sleep 20"), "peer", "", &cancel), Err(Error::Cancelled)));
        assert!(started.elapsed().as_secs() < 10);
    }
}
