//! ONNX Runtime behind the contract of `tandem-core`.
//!
//! - [`OnnxBackend`] finds the library, lists devices and loads graphs.
//! - `graph` reads from a graph's own declaration what each input and output is for; nothing is assumed.
//! - `session` and `cache` run it: graphs with `GroupQueryAttention` append to one buffer in place, the others carry their
//!   presents over without a copy.

mod backend;
mod cache;
mod device;
mod error;
mod graph;
pub mod library;
pub mod setup;
mod model;
mod placement;
mod run;
mod session;
mod source;

pub use backend::OnnxBackend;
