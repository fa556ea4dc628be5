//! Ctrl-C: the first ends a generation, the second the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tandem::CancelToken;

/// What Ctrl-C does. Unless it was [armed](Self::arm), it ends the process as ever.
pub(crate) struct Interrupts {
    ends_process: Arc<AtomicBool>,
}

impl Interrupts {
    /// Has Ctrl-C set `token` from now on.
    ///
    /// The end of the process is decided within the signal's handler, so that it works whatever the threads are doing.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub(crate) fn install(token: CancelToken) -> io::Result<Self> {
        let ends_process = Arc::new(AtomicBool::new(true));
        // In this order: a second signal finds what the first one left.
        flag::register_conditional_default(SIGINT, Arc::clone(&ends_process))?;
        flag::register(SIGINT, Arc::clone(&ends_process))?;
        let mut signals = Signals::new([SIGINT])?;
        std::thread::spawn(move || signals.forever().for_each(|_| token.cancel()));
        Ok(Self { ends_process })
    }

    /// The next Ctrl-C ends the work and not the process.
    pub(crate) fn arm(&self) {
        self.ends_process.store(false, Ordering::SeqCst);
    }

    /// The next Ctrl-C ends the process again.
    pub(crate) fn disarm(&self) {
        self.ends_process.store(true, Ordering::SeqCst);
    }
}
