//! The tests of reports and parity, in one program.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, a skipped one says so"
)]

mod embedding;
mod page;
mod parity;
mod recorded;
mod report;
mod support;
