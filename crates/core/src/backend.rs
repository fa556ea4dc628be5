//! What an engine must do: four traits, and the plain data that crosses them.
//!
//! Only token ids, host `f32` values and plain structs cross; padding and every engine type stay inside a backend. What needs no engine
//! (lengths, ids, capabilities, shapes of results) is checked once, by the layer that [`OpenedModel::load`] puts around a model: a
//! backend may rely on it. The conformance suite defines the behaviour.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use crate::adapter::ScaledAdapter;
use crate::cancel::CancelToken;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::{Listing, ModelFiles};
use crate::footprint::{EstimateFootprint, Footprint, ModelShape, Workload};

mod capabilities;
mod checked;
mod data;
mod kv;
mod logits;
mod options;
mod probe;

pub use capabilities::{Capabilities, Capability};
pub use checked::checked;
pub use data::{AppliedAdapter, HiddenStates, ModelInfo, Placement, PooledOutput, PooledRows, TokenBatch, WeightType};
pub use kv::{KvShape, KvState};
pub use logits::{Logits, LogitsRequest};
pub use options::{ComputeUnits, CoreMlFormat, CoreMlOptions, DeviceReport, LoadOptions, OnnxOptions, SessionOptions};
pub use probe::{Probe, ProbePoint, Prober, Stage};

pub use crate::files::WeightFile;
pub use crate::primitives::{BackendKind, DType, Device, Kernels, KvDType, Numerics, Purpose, TokenId};

/// One inference engine compiled into this build.
///
/// It states which files it needs and how much memory it takes; one that does not say so does not compile:
///
/// ```compile_fail,E0046
/// use tandem_core::backend::{Backend, BackendKind, DeviceReport, LoadOptions, OpenedModel};
/// use tandem_core::{Result, files::ModelFiles};
///
/// struct Third;
///
/// impl Backend for Third {
///     fn kind(&self) -> BackendKind {
///         BackendKind::Fake
///     }
///     fn devices(&self) -> Vec<DeviceReport> {
///         Vec::new()
///     }
///     fn open_unchecked(&self, _: &ModelFiles, _: &LoadOptions) -> Result<Box<dyn OpenedModel>> {
///         unimplemented!()
///     }
/// }
/// ```
pub trait Backend: Send + Sync {
    /// Which engine this is.
    fn kind(&self) -> BackendKind;

    /// The devices that this engine knows, each usable or with the reason why not.
    fn devices(&self) -> Vec<DeviceReport>;

    /// Which files of a repository this engine needs to run its model at `dtype`, the small ones first; `None` is the most precise
    /// dtype there is. The choice is the one that [`open`](Self::open) makes in a directory with all of them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the repository has nothing for this engine.
    fn select_files(&self, listing: &Listing<'_>, dtype: Option<DType>) -> Result<Vec<String>>;

    /// How much memory a checkpoint of `shape` takes on this engine, by its sizes alone; [`OpenedModel::footprint`] knows better.
    fn footprint(&self, shape: &ModelShape, dtype: DType, workload: &Workload) -> Footprint;

    /// In which dtypes this engine runs the model of `files` on a processor, the most exact first; empty where the files alone decide.
    fn dtypes(&self, files: &ModelFiles) -> Vec<DType>;

    /// Reads the headers of a model, each once: configuration, and graph or list of weights. No weight is read, and the values of
    /// `options` are valid.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn open_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn OpenedModel>>;

    /// Reads the headers of a model.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] name the file that is at fault, [`Error::Unsupported`] what this engine does not run.
    fn open(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn OpenedModel>> {
        options.validate()?;
        self.open_unchecked(files, options)
    }

    /// Opens a model and loads its weights.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`OpenedModel::load`].
    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
        self.open(files, options)?.load()
    }
}

/// A model whose headers were read.
pub trait OpenedModel: Send {
    /// What it was opened with.
    fn options(&self) -> &LoadOptions;

    /// Its configuration.
    fn config(&self) -> &ModelConfig;

    /// The dtype that its weights will have.
    fn dtype(&self) -> DType;

    /// The vector of each sequence that it gives in the place of hidden states, as far as its headers say.
    fn pooled_output(&self) -> Option<PooledOutput> {
        None
    }

    /// How much memory it takes.
    ///
    /// # Errors
    /// When the size of a file cannot be read.
    fn footprint(&self) -> Result<EstimateFootprint>;

    /// Loads its weights onto exactly the device of its options.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn load_unchecked(self: Box<Self>) -> Result<Arc<dyn Model>>;

    /// Loads its weights onto exactly the device of its options, behind the checks that need no engine.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] when that device cannot be used: nothing falls back. [`Error::BadFile`] and [`Error::BadField`] name
    /// the file that is at fault.
    fn load(self: Box<Self>) -> Result<Arc<dyn Model>> {
        let required = self.options().onnx.require_device;
        let model = self.load_unchecked()?;
        model.info().check_device_share(required)?;
        Ok(checked(model))
    }
}

/// Loaded weights. Immutable and shared: all that changes is in a [`Session`].
///
/// A model has at least one of [`Capability::Generation`], [`Capability::HiddenStates`] and [`Capability::PooledOutput`]; of the methods
/// with a default it implements those whose capability it declares.
pub trait Model: Send + Sync {
    /// What was loaded and where it runs, as resolved and not as requested.
    fn info(&self) -> &ModelInfo;

    /// An empty KV cache for one sequence.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`Capability::Generation`]; [`Error::InvalidOption`] when `options.context_length` exceeds
    /// [`ModelInfo::max_context`].
    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>>;

    /// Appends to several sessions of this model in one step, and returns a result for each: an error of one leaves the others as they
    /// are. Each session gets what it would get alone.
    fn append_batch(&self, appends: &mut [Append<'_>]) -> Vec<Result<()>> {
        appends.iter_mut().map(|row| row.session.append_into(row.tokens, row.request, row.logits)).collect()
    }

    /// The last hidden states of every sequence, without padding: `[sum(lengths), hidden_size]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`Capability::HiddenStates`], [`Error::Cancelled`] when `cancel` was set.
    fn encode(&self, _batch: &TokenBatch, _cancel: &CancelToken) -> Result<HiddenStates> {
        Err(self.info().without(Capability::HiddenStates))
    }

    /// The row that the model's own last layers compute for each sequence, as [`ModelInfo::pooled_output`] says: `[sequences, width]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`Capability::PooledOutput`], [`Error::Cancelled`] when `cancel` was set.
    fn encode_pooled(&self, _batch: &TokenBatch, _cancel: &CancelToken) -> Result<PooledRows> {
        Err(self.info().without(Capability::PooledOutput))
    }

    /// The loaded weights with the sum of `adapters` applied, in the place of those that `self` has: [`ModelInfo::adapters`] names them.
    /// `self` is unchanged and stays usable; the weights are shared. A backend is asked for this only where no adapter is applied yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`Capability::Adapters`], and for an adapter that replaces tensors; [`Error::BadField`] for a module that
    /// the model lacks and for factors whose shapes differ from the weight's; [`Error::InvalidOption`] for a scale that is not finite.
    fn with_adapters(&self, _adapters: &[ScaledAdapter]) -> Result<Arc<dyn Model>> {
        Err(self.info().without(Capability::Adapters))
    }

    /// Shows what lies between tokens and logits, where the engine can.
    fn prober(&self) -> Option<&dyn Prober> {
        None
    }
}

/// What [`Model::append_batch`] appends to one session: the arguments of [`Session::append_into`], and whether it is a part of a prompt.
pub struct Append<'a> {
    /// The session.
    pub session: &'a mut dyn Session,
    /// What is appended.
    pub tokens: &'a [TokenId],
    /// Which logits are returned.
    pub request: LogitsRequest,
    /// Where they are written.
    pub logits: &'a mut Logits,
    /// The tokens are a part of a prompt of at least [`LEAST_CHUNK`](crate::sequence::LEAST_CHUNK): they get the bits that they have in the whole
    /// prompt, though engines compute few tokens in another order. A part has more tokens than rows of logits. It needs
    /// [`Capability::PromptParts`].
    pub is_part: bool,
}

impl<'a> Append<'a> {
    /// All of what is appended, computed as [`Session::append_into`] does.
    pub fn new(session: &'a mut dyn Session, tokens: &'a [TokenId], request: LogitsRequest, logits: &'a mut Logits) -> Self {
        Self { session, tokens, request, logits, is_part: false }
    }

    /// Sets [`is_part`](Self::is_part).
    #[must_use]
    pub fn with_part(self, is_part: bool) -> Self {
        Self { is_part, ..self }
    }
}

/// The KV cache of one sequence.
pub trait Session: Any + Send {
    /// The number of tokens held.
    fn n_tokens(&self) -> usize;

    /// The most tokens that this session can hold.
    fn context_length(&self) -> usize;

    /// The number of tokens for which it has memory, of [`ModelInfo::kv_bytes_per_token`] each: those held, or more.
    fn reserved_tokens(&self) -> usize {
        self.n_tokens()
    }

    /// Appends `tokens`, one or many, and writes the requested logits to `logits`, whose memory is reused: `[n, vocab_size]`.
    ///
    /// # Errors
    /// [`Error::ContextFull`] when they do not fit, [`Error::Cancelled`] when the session's [`CancelToken`] was set,
    /// [`Error::InvalidToken`] for an id outside the vocabulary. After any error the session holds what it held before, and is usable.
    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()>;

    /// As [`append_into`](Self::append_into), with new memory for the logits.
    ///
    /// # Errors
    /// As [`append_into`](Self::append_into).
    fn append(&mut self, tokens: &[TokenId], request: LogitsRequest) -> Result<Logits> {
        let mut logits = Logits::default();
        self.append_into(tokens, request, &mut logits)?;
        Ok(logits)
    }

    /// Forgets everything after the first `n_tokens`. `rewind(0)` always works.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another length unless [`Capability::Rewind`]; [`Error::InvalidOption`] for a length that exceeds
    /// [`n_tokens`](Self::n_tokens).
    fn rewind(&mut self, n_tokens: usize) -> Result<()>;

    /// Another session that holds the first `n_tokens` of this one. Neither sees what is appended to the other.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`Capability::Fork`]; as [`rewind`](Self::rewind) and [`Model::new_session`].
    fn fork(&self, _n_tokens: usize, _options: &SessionOptions) -> Result<Box<dyn Session>> {
        Err(Error::missing_capability(Capability::Fork.description()))
    }

    /// The keys and values of the tokens at `positions`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`Capability::KvTransfer`]; [`Error::InvalidOption`] for positions that are not held.
    fn export_kv(&self, _positions: Range<usize>) -> Result<KvState> {
        Err(Error::missing_capability(Capability::KvTransfer.description()))
    }

    /// Appends the tokens whose keys and values `state` holds, which begin where this session ends.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless [`Capability::KvTransfer`]; [`Error::InvalidOption`] for another shape or first position,
    /// [`Error::ContextFull`]. After any error the session holds what it held before.
    fn import_kv(&mut self, _state: &KvState) -> Result<()> {
        Err(Error::missing_capability(Capability::KvTransfer.description()))
    }
}
