//! candle behind the contract of `tandem-core`.
//!
//! - [`CandleBackend`] lists devices and loads models: Qwen2, Qwen3, Llama and Mistral from safetensors or GGUF, Gemma 2, Gemma 3 and Phi-3
//!   from safetensors.
//! - `weights` builds a decoder from a checkpoint, `gguf` from a GGUF file.
//! - `decoder` is the forward pass, on candle's tensors. Its parts are `linear` and `operations`, which are the kernels of `tandem-kernels` on
//!   tensors; `values` is the way from one to the other.
//! - `encoder` is the forward pass of BERT and its descendants, in a layout of its own.
//! - `session` and `cache` hold the KV cache of a sequence, `loaded` what sessions share, `model` the model behind the contract, and `probe` records activations.
//! - `footprint` states how much memory a model takes.
//! - `device_decoder` is the decoder in candle's own operations, for CUDA.
//! - `train` computes gradients of low-rank factors.
//! - `transformers` runs models of candle-transformers, for benchmarks.

mod backend;
mod cache;
mod decoder;
mod device;
mod device_decoder;
mod encoder;
mod error;
mod footprint;
mod gguf;
mod kv_layout;
mod linear;
mod loaded;
mod model;
mod operations;
mod packed;
mod probe;
mod session;
mod train;
mod transformers;
mod values;
mod weights;

pub use backend::CandleBackend;
pub use train::trainable;
pub use transformers::load_transformers;
