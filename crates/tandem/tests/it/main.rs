//! The library as an application uses it, on every engine of the build.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]

mod adapters;
mod admission;
mod chat;
mod chunks;
mod dtypes;
mod embeddings;
mod errors;
#[cfg(target_os = "linux")]
mod reads;
mod resolve;
mod saved;
mod support;
mod verify_index;
