//! Two engines are held to the same answer on the demo model and on every golden checkpoint, and faults that are put in are found.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, a skipped one says so"
)]

mod agreement;
mod faults;
mod problems;
mod support;
