//! The `tandem` binary as its users meet it: exit code, standard output, standard error.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, a skipped one says so"
)]

mod adapter;
mod bad_input;
mod bench;
mod bench_embed;
mod chat;
mod config;
mod doctor;
mod dtypes;
mod embed;
mod embed_chunks;
#[cfg(feature = "parquet")]
mod embed_parquet;
mod export;
mod gguf;
mod help;
mod interrupt;
mod loopback;
mod memory;
mod models;
mod parity;
mod privacy;
mod references;
mod repair;
mod reports;
mod run;
mod run_many;
#[path = "../../../hub/tests/hub/server.rs"]
#[allow(dead_code, reason = "the tests of the hub need more of it")]
mod server;
mod speculation;
mod support;
#[cfg(unix)]
mod terminal;
