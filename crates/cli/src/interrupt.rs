//! Ctrl-C: the first ends a generation, the second the process.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGINT;
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tandem::CancelToken;

/// The process's one handler, once it is installed: the work that goes on, and whether Ctrl-C ends the process.
static INSTALLED: Mutex<Option<Installed>> = Mutex::new(None);

struct Installed {
    token: Arc<Mutex<CancelToken>>,
    ends_process: Arc<AtomicBool>,
}

/// What Ctrl-C does. Unless it was [armed](Self::arm), it ends the process as ever.
#[derive(Clone)]
pub(crate) struct Interrupts {
    ends_process: Arc<AtomicBool>,
}

impl Interrupts {
    /// Has Ctrl-C set `token` from now on, in the place of the one before.
    ///
    /// The end of the process is decided within the signal's handler, so that it works whatever the threads are doing.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub(crate) fn install(token: CancelToken) -> io::Result<Self> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Installed { token: current, ends_process }) = &*installed {
            ends_process.store(true, Ordering::SeqCst);
            *current.lock().unwrap_or_else(PoisonError::into_inner) = token;
            return Ok(Self { ends_process: Arc::clone(ends_process) });
        }
        let ends_process = Arc::new(AtomicBool::new(true));
        // In this order: a second signal finds what the first one left.
        flag::register_conditional_default(SIGINT, Arc::clone(&ends_process))?;
        flag::register(SIGINT, Arc::clone(&ends_process))?;
        let mut signals = Signals::new([SIGINT])?;
        let token = Arc::new(Mutex::new(token));
        let current = Arc::clone(&token);
        let cancel = move |_| current.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        std::thread::spawn(move || signals.forever().for_each(cancel));
        *installed = Some(Installed { token, ends_process: Arc::clone(&ends_process) });
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
