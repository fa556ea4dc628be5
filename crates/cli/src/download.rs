//! Downloads: progress is shown, and Ctrl-C leaves what can be continued.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tandem::{CancelToken, Progress, ProgressEvent};

use crate::figures;
use crate::interrupt::Interrupts;
use crate::output::Output;

/// Does `work` with `what`, which may take long: shows how far it is, and has Ctrl-C end it.
pub(crate) fn with_progress<T>(
    what: &str,
    output: &Output,
    work: impl FnOnce(Progress, CancelToken) -> tandem::Result<T>,
) -> Result<T> {
    outlive_full_disks()?;
    let cancel = CancelToken::new();
    let interrupts = Interrupts::install(cancel.clone()).context("Ctrl-C cannot be listened to")?;
    let shown = output.progress(format!("looking for {what}"));
    let progress = Progress::new({
        let (listener, interrupts, output, what) = (shown.listener(), interrupts.clone(), *output, what.to_owned());
        let is_said = AtomicBool::new(false);
        move |event| {
            interrupts.arm();
            listener.tell(event);
            // Where nothing moves, one line says why it takes so long.
            if let ProgressEvent::Downloading { done, total, .. } = event
                && done < total
                && !is_said.swap(true, Ordering::Relaxed)
                && !output.stderr_is_terminal()
            {
                output.note(&format!("downloading {what}: {}", figures::bytes(total - done)));
            }
        }
    });
    let done = work(progress, cancel);
    interrupts.disarm();
    drop(shown);
    Ok(done?)
}

/// A write beyond `ulimit -f` ends the process by a signal, unless something handles it; then it is an error like a full disk.
#[cfg(unix)]
fn outlive_full_disks() -> Result<()> {
    use signal_hook::consts::signal::SIGXFSZ;
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGXFSZ, seen).map(drop).context("the signal of a full disk cannot be handled")
}

#[cfg(not(unix))]
fn outlive_full_disks() -> Result<()> {
    Ok(())
}
