//! The library as an application uses it, on every engine of the build.

mod admission;
mod chat;
mod errors;
#[cfg(target_os = "linux")]
mod reads;
mod resolve;
mod support;
