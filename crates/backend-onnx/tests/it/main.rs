//! The integration tests of the ONNX Runtime backend, in one binary.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a failed test is a panic, a skipped one says so"
)]

mod adapters;
mod appends;
mod batch;
mod cancel;
mod conformance;
mod directories;
mod embedders;
mod encoders;
mod export;
mod goldens;
#[cfg(unix)]
mod library;
mod shapes;
mod tiny_graph;
mod wire;
