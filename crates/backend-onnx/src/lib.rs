//! ONNX Runtime behind the contract of `tandem-core`.
//!
//! - [`OnnxBackend`] finds the library, lists devices and loads graphs; [`setup`] obtains the library.
//! - [`export`] makes graphs of checkpoints: a directory that stands on its own, or an entry of the cache.
//! - `source` reads, checks and changes a graph file before the engine sees it, or has one made of a `checkpoint`.
//! - `graph` reads from a graph's own declaration what each input and output is for; nothing is assumed.
//! - `session` and `cache` run it: graphs with `GroupQueryAttention` append to one buffer in place, the others carry their
//!   presents over without a copy.

mod backend;
mod cache;
mod checkpoint;
mod device;
mod error;
pub mod export;
mod graph;
mod inner;
pub mod library;
mod model;
mod placement;
pub mod probe;
mod run;
mod session;
pub mod setup;
mod source;
pub mod weigh;

pub use backend::OnnxBackend;
