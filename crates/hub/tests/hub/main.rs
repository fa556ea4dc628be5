//! Downloads from a hub that behaves, and from one that does not: a server on the loopback plays both.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, a skipped one says so"
)]

mod bundle;
mod faults;
mod kill;
mod layout;
mod locked;
mod names;
mod offline;
mod place;
mod processes;
mod resume;
mod server;
mod verify;
