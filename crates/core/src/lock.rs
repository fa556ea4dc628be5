//! Waiting for a lock on a file that another process holds; the system gives it back when that process ends, however it ends.

use std::fs::TryLockError;
use std::io;
use std::thread;
use std::time::Duration;

use crate::cancel::CancelToken;
use crate::error::{Error, Result};

/// How often a process looks whether the other one is done.
const PATIENCE: Duration = Duration::from_millis(100);

/// Tries `attempt` until it succeeds; `waiting` is called before each further one. False where the file system knows no locks, as some
/// network ones.
///
/// # Errors
/// [`Error::Cancelled`], and what `failed` makes of any other failure.
pub fn wait(
    attempt: impl Fn() -> Result<(), TryLockError>,
    cancel: &CancelToken,
    waiting: &mut dyn FnMut(),
    failed: impl FnOnce(io::Error) -> Error,
) -> Result<bool> {
    loop {
        match attempt() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) if is_unsupported(&error) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        waiting();
        thread::sleep(PATIENCE);
    }
}

/// Whether the file system knows no locks: NFS without its lock service, for one, answers `ENOLCK`.
fn is_unsupported(error: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    if error.raw_os_error() == Some(libc::ENOLCK) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn check(outcome: fn(usize) -> Result<(), TryLockError>, cancelled: bool) -> (Result<bool>, usize) {
        let (attempts, mut waits, cancel) = (Cell::new(0), 0, CancelToken::new());
        if cancelled {
            cancel.cancel();
        }
        let attempt = || {
            attempts.set(attempts.get() + 1);
            outcome(attempts.get())
        };
        (wait(attempt, &cancel, &mut || waits += 1, |error| Error::bad_file("x", "cannot be locked", error)), waits)
    }

    #[test]
    fn a_held_lock_is_waited_for() {
        let (held, waits) = check(|n| if n < 3 { Err(TryLockError::WouldBlock) } else { Ok(()) }, false);
        assert_eq!((held.unwrap(), waits), (true, 2));
    }

    #[test]
    fn a_wait_can_be_cancelled() {
        assert!(matches!(check(|_| Err(TryLockError::WouldBlock), true), (Err(Error::Cancelled), 0)));
    }

    #[test]
    fn file_systems_without_locks_are_told_from_failures() {
        let unsupported = |_| Err(TryLockError::Error(io::ErrorKind::Unsupported.into()));
        assert!(!check(unsupported, false).0.unwrap());
        #[cfg(target_os = "linux")]
        for errno in [libc::ENOLCK, libc::EOPNOTSUPP, libc::ENOSYS] {
            let attempt = TryLockError::Error(io::Error::from_raw_os_error(errno));
            let attempt = std::cell::Cell::new(Some(attempt));
            let locked = wait(
                || Err(attempt.take().unwrap()),
                &CancelToken::new(),
                &mut || (),
                |error| Error::bad_file("x", "cannot be locked", error),
            );
            assert!(!locked.unwrap(), "{errno}");
        }
        let (failed, _) = check(|_| Err(TryLockError::Error(io::ErrorKind::PermissionDenied.into())), false);
        assert!(failed.unwrap_err().to_string().contains("cannot be locked"));
    }
}
