//! The contract between Tandem and its engines, and everything that needs no engine and no network.
//!
//! - [`backend`]: what an engine must do, four small traits.
//! - [`config`], [`files`]: what a published checkpoint says of itself and which files it has.
//! - [`footprint`]: how much memory a model takes, as its backend says. [`bandwidth`]: how fast memory is read.
//! - [`checkpoint`]: a checkpoint's weights by name. [`export`]: what a graph of one is to be. [`cache`]: what is kept of such work.
//!   [`progress`]: how far it is.
//! - [`gguf`]: files of llama.cpp, which hold all of that in one. [`huge_pages`]: weights where they are read
//!   fastest. [`kv_memory`]: keys and values there too. [`sparse_memory`]: those of sequences that share runs of another's kernels.
//! - [`tokenizer`], [`template`]: text to tokens and back, chat messages to a prompt.
//! - [`sequence`], [`sampler`], [`stop`], [`generate`], [`score`]: from logits to text. They exist once, so that engines differ in arithmetic only.
//! - [`saved`]: a sequence in a file. [`speculation`]: speculative decoding.
//! - [`adapter`]: low-rank adapters; [`training`]: how they are made.
//! - [`embedding`]: from hidden states to vectors, as sentence-transformers publishes it. [`rerank`]: to scores of pairs.
//! - `conformance` (feature): the cases that every backend passes, and the backend that shows they can be passed.

pub mod adapter;
pub mod allocator;
pub mod arena;
pub mod backend;
pub mod bandwidth;
pub mod cache;
pub mod cancel;
pub mod checkpoint;
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod disk;
pub mod divergence;
pub mod embedding;
pub mod error;
pub mod export;
pub mod file_bytes;
pub mod files;
pub mod footprint;
pub mod generate;
pub mod gguf;
pub mod huge_pages;
pub mod kv_memory;
pub mod lock;
pub mod named;
pub mod paths;
pub mod primitives;
pub mod progress;
pub mod remedy;
pub mod rerank;
pub mod sampler;
pub mod saved;
pub mod scheduler;
pub mod score;
pub mod sequence;
mod setters;
pub mod size;
pub mod sparse_memory;
pub mod speculation;
pub mod staging;
pub mod stop;
pub mod template;
pub mod tokenizer;
pub mod training;

pub use backend::{
    Backend, BackendKind, Capabilities, Capability, DType, Device, DeviceReport, LoadOptions, Logits, LogitsRequest, Model,
    ModelInfo, OnnxOptions, OpenedModel, Session, SessionOptions, TokenId,
};
pub use cancel::CancelToken;
pub use error::{Error, Result};
pub use export::{ExportOptions, Exported, GraphFormat, GraphOutputs};
pub use progress::{Progress, ProgressEvent};
pub use remedy::{Remedies, Remedy};
