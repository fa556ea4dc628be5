//! The `tandem` binary as its users meet it: exit code, standard output, standard error.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, a skipped one says so"
)]

mod bad_input;
mod bench;
mod chat;
mod config;
mod doctor;
mod export;
mod help;
mod interrupt;
mod memory;
mod reports;
mod run;
mod support;
