//! What an engine must do: three traits, and the plain data that crosses them.
//!
//! Only token ids, host `f32` values and plain structs cross; padding, its side and every engine type stay inside a backend.
//! Validation that needs no engine is done above. The conformance suite defines the behaviour.

use std::sync::Arc;

use crate::error::Result;
use crate::files::ModelFiles;

mod check;
mod data;
mod options;
mod probe;

pub use data::{
    Capabilities, HiddenStates, Logits, LogitsRequest, LoraAdapter, ModelInfo, Placement, TokenBatch, WeightFile, WeightType,
};
pub use options::{
    BackendKind, ComputeUnits, CoreMlOptions, DType, Device, DeviceReport, LoadOptions, Numerics, SessionOptions, ThreadOptions,
};
pub use probe::{Probe, ProbePoint, Stage};

/// The id of a token in a model's vocabulary.
pub type TokenId = u32;

/// One inference engine compiled into this build.
pub trait Backend: Send + Sync {
    /// Which engine this is.
    fn kind(&self) -> BackendKind;

    /// The devices that this engine knows, each usable or with the reason why not.
    fn devices(&self) -> Vec<DeviceReport>;

    /// Loads weights onto exactly `options.device`.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) when that device cannot be used: nothing falls back.
    /// [`Error::BadFile`](crate::Error::BadFile) and [`Error::BadField`](crate::Error::BadField) name the file that is at fault.
    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>>;
}

/// Loaded weights. Immutable and shared: all that changes is in a [`Session`].
pub trait Model: Send + Sync {
    /// What was loaded and where it runs, as resolved and not as asked for.
    fn info(&self) -> &ModelInfo;

    /// An empty KV cache for one sequence.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) when `options.context_length` exceeds [`ModelInfo::max_context`].
    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>>;

    /// The last hidden states of every sequence, without padding: `[sum(lengths), hidden_size]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) unless [`Capabilities::hidden_states`].
    fn encode(&self, batch: &TokenBatch) -> Result<HiddenStates>;

    /// The same model with `adapter` applied. `self` is unchanged and stays usable.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) unless [`Capabilities::adapters`].
    fn with_adapter(&self, adapter: &LoraAdapter) -> Result<Arc<dyn Model>>;

    /// What one pass over `tokens` computes at those of `points` that this model shows, in the order of computation.
    ///
    /// It is for finding where two engines part, not for speed.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) unless [`Capabilities::probe`], and those of [`Session::append`].
    fn probe(&self, _tokens: &[TokenId], _points: &[ProbePoint]) -> Result<Vec<Probe>> {
        Err(self.info().unsupported("a look at inner values", "this model shows none"))
    }
}

/// The KV cache of one sequence.
pub trait Session: Send {
    /// The number of tokens held.
    fn n_tokens(&self) -> usize;

    /// The most tokens that this session can hold.
    fn context_length(&self) -> usize;

    /// Appends `tokens`, one or many, and returns the logits that are wanted: `[n, vocab_size]`.
    ///
    /// # Errors
    /// [`Error::ContextFull`](crate::Error::ContextFull) when they do not fit, [`Error::Cancelled`](crate::Error::Cancelled) when the
    /// session's [`CancelToken`](crate::CancelToken) was set, [`Error::InvalidToken`](crate::Error::InvalidToken) for an id outside the
    /// vocabulary. After any error the session holds what it held before, and is usable.
    fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits>;

    /// Forgets everything after the first `n_tokens`. `rewind(0)` always works.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for another length unless [`Capabilities::rewind`];
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for a length that exceeds [`n_tokens`](Self::n_tokens).
    fn rewind(&mut self, n_tokens: usize) -> Result<()>;
}
