//! ONNX Runtime behind the contract of `tandem-core`.
//!
//! How a graph runs, in the order of a load:
//!
//! - [`OnnxBackend`] lists devices and loads models. `source` chooses a graph, checks it and edits it before the engine sees it.
//! - `footprint` states how much memory a model takes.
//! - `engine` has the engine load it, on exactly one `device`; `placement` reads which node runs where.
//! - `operators` are Tandem's own kernels as operators of the engine, which replace its own just before it loads a graph.
//!   `threads` are those of their loops.
//! - `graph` reads from the graph's own declaration what each input and output is for; nothing is assumed.
//! - `encoder` runs one that encodes, `session` and `cache` one that generates: graphs with `GroupQueryAttention` append to one buffer in place, the others carry their
//!   presents over without a copy. `run` is the one call of the engine.
//! - `adapters` makes the factors of adapters inputs of a graph, which gets such inputs by an edit where it has none.
//! - `probe` shows values between the nodes, found by `value_names`.
//!
//! What comes before that: [`library`] finds ONNX Runtime and creates the environment of the process, [`setup`] obtains it,
//! [`device_check`] tries it; [`export`] builds graphs from checkpoints, and [`graph_cache`] keeps them for the next load.

mod adapters;
mod backend;
mod block_addresses;
mod cache;
mod device;
pub mod device_check;
mod encoder;
mod engine;
mod error;
pub mod export;
mod footprint;
mod graph;
pub mod graph_cache;
mod kv;
pub mod library;
mod loaded;
mod model;
mod operators;
mod origin;
mod placement;
mod probe;
mod run;
mod session;
pub mod setup;
mod source;
mod value_names;

pub use backend::OnnxBackend;
