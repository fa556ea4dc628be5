//! Local text generation on two engines that are held to the same answer.
//!
//! ```no_run
//! use std::io::Write;
//! use tandem::{Event, Settings};
//!
//! fn main() -> tandem::Result<()> {
//!     let model = tandem::load("demo", &Settings::default())?;
//!     let mut chat = model.chat()?;
//!     for event in chat.say("Tell me a story about a fox who finds a lantern.")? {
//!         if let Event::Token { text, .. } | Event::Finished { text, .. } = event? {
//!             print!("{text}");
//!             std::io::stdout().flush().ok();
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! - [`find`] and [`hub`] bring models of the Hugging Face hub here, verified, and find them in the cache.
//! - [`load`] finds a model by reference and loads it onto exactly the backend, device and dtype that [`Settings`] name.
//! - [`TextModel`] turns text and messages into tokens, and tokens into [`Generation`]s.
//! - [`Chat`] keeps a conversation and its KV cache.
//! - [`export()`] makes a directory with a graph of a checkpoint.
//! - [`memory_plan`] says how much memory a model will take, before it is loaded.
//! - [`score()`] gives the log-probability of every token of a text.

mod backends;
mod chat;
mod demo;
mod memory;
mod model;
mod numerics;
mod reference;

pub use backends::{
    CachedGraphs, KNOWN_BACKENDS, SetupOptions, SetupReport, backend, cache_dir, cached_graphs, compiled, export, ort_library,
    ort_version, peer, prepare_process, prove, remove_cached_graphs, setup,
};
pub use chat::{Chat, Reply};
pub use memory::{MemoryPlan, memory_plan};
pub use model::{Settings, TextModel, load};
pub use numerics::{NumericsCost, numerics_cost};
pub use reference::{find, find_for, hub_reference, hub_reference_for, is_local, unknown, wanted};

pub use tandem_core::{named, remedy};
pub use tandem_hub::{catalog, machine, plan};

pub use tandem_core::backend::{
    ComputeUnits, CoreMlFormat, CoreMlOptions, Numerics, OnnxOptions, Placement, WeightFile, WeightType,
};
pub use tandem_core::config::{GenerationConfig, ModelConfig};
pub use tandem_core::export::{CachedGraphInfo, RemovedGraphs};
pub use tandem_core::files::{GraphFile, ModelFile, ModelFiles};
pub use tandem_core::generate::{Event, FinishReason, GenerateOptions, Generation, Timings};
pub use tandem_core::sampler::SamplingOptions;
pub use tandem_core::score::{TokenScore, perplexity, score};
pub use tandem_core::sequence::Sequence;
pub use tandem_core::stop::StopOptions;
pub use tandem_core::template::{ChatMessage, ChatTemplate, RenderOptions};
pub use tandem_core::tokenizer::{SpecialTokens, Tokenizer};
pub use tandem_core::{
    Backend, BackendKind, CancelToken, Capabilities, DType, Device, DeviceReport, Error, ExportOptions, Exported, GraphFormat,
    GraphOutputs, LoadOptions, Model, ModelInfo, Progress, ProgressEvent, Result, SessionOptions, TokenId,
};
pub use tandem_hub as hub;
