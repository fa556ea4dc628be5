//! candle behind the contract of `tandem-core`.
//!
//! - [`CandleBackend`] lists devices and loads checkpoints: Qwen2, Qwen3, Llama and Mistral from safetensors or GGUF.
//! - `weights` reads a checkpoint into a `decoder`: projections that take the same input are one matrix.
//! - `gguf` reads the weights of a GGUF file as they are stored.
//! - `quantize` makes small integers of weights when they are loaded, for the dtypes int8 and int4.
//! - `decoder` is the arithmetic of a pass over tokens, on candle's tensors; `linear`, `product`, `rotary`, `attention` and `elementwise`
//!   are its parts, and `kernel` has the loops that candle runs on one thread or not at all.
//! - `device_decoder` is the same arithmetic in candle's own operations, for CUDA.
//! - `probe` shows what lies between the steps of a pass.
//! - `foreign` runs what candle-transformers has and we have not: Gemma 2, Gemma 3 and Phi-3, with fewer abilities.
//! - `session` and `cache` hold what a sequence has seen: keys and values are written in place, and a rewind is a number.

mod attention;
mod backend;
mod cache;
mod decoder;
mod device;
mod device_decoder;
mod elementwise;
mod error;
mod float;
mod foreign;
mod gguf;
mod kernel;
mod linear;
#[doc(hidden)]
pub mod measured;
mod model;
mod peer;
mod probe;
mod product;
mod quantize;
mod rotary;
mod rounded;
mod session;
mod values;
mod weights;

pub use backend::CandleBackend;
pub use peer::load_transformers;
