//! The integration tests of the graph library, in one binary.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test is a panic")]

mod build;
mod build_encoder;
mod goldens;
