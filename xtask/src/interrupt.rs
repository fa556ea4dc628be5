//! Ctrl-C while `tandem` measures. It reaches `tandem` as well, which ends its work, keeps what it measured and says so: the task outlives
//! it, so that the terminal is not given back before, and begins nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::SIGINT;

/// Whether the user has ended the work.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from here on.
    pub(crate) fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGINT, Arc::clone(&flag)).context("Ctrl-C cannot be listened to")?;
        Ok(Self(flag))
    }

    /// The user pressed Ctrl-C.
    pub(crate) fn was_pressed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_noted_and_do_not_end_the_task() {
        let interrupt = Interrupt::listen().unwrap();
        assert!(!interrupt.was_pressed());
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert!(interrupt.was_pressed());
    }
}
