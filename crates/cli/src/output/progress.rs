//! A spinner on standard error for work that takes long enough to be noticed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tandem::ProgressEvent;

/// What is done sooner is not announced.
const DELAY: Duration = Duration::from_millis(500);

/// Of work whose end is known.
const MEASURED: &str = "{spinner} {msg} [{wide_bar}] {decimal_bytes} of {decimal_total_bytes} ({elapsed})";

/// Of a download, whose speed is that of the network. What comes first is cut when the terminal is narrow.
const DOWNLOAD: &str =
    "{spinner} {wide_msg} [{bar:12}] {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";

const FRAME: Duration = Duration::from_millis(100);

/// Work that goes on; dropped, it is done and leaves no trace on the terminal.
pub(crate) struct Progress {
    shown: Option<Shown>,
}

struct Shown {
    bar: ProgressBar,
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub(super) fn start(message: String, is_wanted: bool) -> Self {
        Self { shown: is_wanted.then(|| Shown::start(message)) }
    }

    /// What shows the library's own work here.
    pub(crate) fn listener(&self) -> tandem::Progress {
        let Some(shown) = &self.shown else { return tandem::Progress::default() };
        let bar = shown.bar.clone();
        let downloads = AtomicBool::new(false);
        tandem::Progress::new(move |event| {
            let is_download = matches!(event, ProgressEvent::Downloading { .. } | ProgressEvent::DownloadingElsewhere { .. });
            let template = if is_download { DOWNLOAD } else { MEASURED };
            if let (Some((done, total)), Ok(style)) = (event.bytes(), ProgressStyle::with_template(template)) {
                bar.set_style(style);
                bar.set_length(total);
                bar.set_position(done);
                if is_download && !downloads.swap(true, Ordering::Relaxed) {
                    // What an earlier download left did not come just now.
                    bar.reset_eta();
                }
            }
            bar.set_message(event.to_string());
        })
    }

    /// Says how far it is.
    pub(crate) fn say(&self, message: impl Into<String>) {
        if let Some(shown) = &self.shown {
            shown.bar.set_message(message.into());
        }
    }
}

impl Shown {
    fn start(message: String) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(message);
        let (done, is_done) = mpsc::channel::<()>();
        let drawn = bar.clone();
        let thread = std::thread::spawn(move || {
            if is_done.recv_timeout(DELAY) == Err(RecvTimeoutError::Timeout) {
                drawn.set_draw_target(ProgressDrawTarget::stderr());
                drawn.enable_steady_tick(FRAME);
                // The sender is dropped when the work is done.
                let _ = is_done.recv();
            }
            drawn.finish_and_clear();
        });
        Self { bar, done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
