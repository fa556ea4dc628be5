//! A backend without an engine: its logits are a hash of all tokens before, so that every mistake of position or history shows.

use std::num::Saturating;
use std::ops::Range;
use std::sync::Arc;

use crate::adapter::{AdapterSum, ScaledAdapter};
use crate::backend::{
    Backend, BackendKind, Capabilities, Capability, DType, Device, DeviceReport, HiddenStates, KvDType, KvShape, KvState,
    LoadOptions, Logits, LogitsRequest, Model, ModelInfo, OpenedModel, PooledOutput, PooledRows, Probe, ProbePoint, Prober,
    Session, SessionOptions, Stage, TokenBatch, TokenId,
};
use crate::cancel::CancelToken;
use crate::config::{ExpectedWeight, ModelConfig, WeightRole};
use crate::error::{Error, Result};
use crate::files::{Listing, ModelFiles};
use crate::footprint::{Decoding, EstimateFootprint, Footprint, ModelShape, Part, Workload, weight_bytes};
use crate::remedy::Remedy;

/// The reference implementation of the contract. It reads the configuration and no weights.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    /// What its models declare.
    pub capabilities: Capabilities,
    /// Whether its models show what lies between tokens and logits.
    pub shows_stages: bool,
}

struct FakeOpened {
    backend: FakeBackend,
    files: ModelFiles,
    config: ModelConfig,
    options: LoadOptions,
}

/// The sizes of the fake's cache, which holds one state a token: in three pieces, each of which a float represents exactly.
const KV_SHAPE: KvShape = KvShape { n_layers: 2, kv_heads: 1, head_dim: 1 };
const PIECE_BITS: usize = 22;

/// The width of the row that it gives for a sequence.
const POOLED_WIDTH: usize = 3;

#[derive(Clone)]
struct FakeModel {
    info: ModelInfo,
    shows_stages: bool,
    /// What every sequence begins with: 0, and another number with adapters that change something.
    seed: u64,
    /// The modules that adapters can change, with their outputs and inputs.
    modules: Arc<[(String, [usize; 2])]>,
}

struct FakeSession {
    model: FakeModel,
    /// The state after each token held; the last is that of the whole sequence.
    states: Vec<u64>,
    context_length: usize,
    cancel: CancelToken,
}

impl Backend for FakeBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Fake
    }

    fn devices(&self) -> Vec<DeviceReport> {
        let report = |device, unusable: Option<&str>| DeviceReport {
            device,
            description: "no device at all".into(),
            unusable: unusable.map(Into::into),
            hint: unusable.map(|_| Remedy::UseDevice(Device::Cpu).into()),
        };
        vec![report(Device::Cpu, None), report(Device::Cuda(0), Some("it is a fake"))]
    }

    fn select_files(&self, listing: &Listing<'_>, _dtype: Option<DType>) -> Result<Vec<String>> {
        listing.small()
    }

    fn footprint(&self, shape: &ModelShape, dtype: DType, workload: &Workload) -> Footprint {
        let decoding = Decoding { bytes_per_token: weight_bytes(dtype, shape.read_per_token()).0, efficiency: 1.0 };
        Footprint { decoding, ..footprint(shape, workload) }
    }

    fn dtypes(&self, _files: &ModelFiles) -> Vec<DType> {
        vec![DType::F32, DType::Int8, DType::Int4]
    }

    fn open_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn OpenedModel>> {
        let config = files.model_config()?;
        if options.kv_dtype == Some(KvDType::F16) {
            return Err(Error::Unsupported {
                what: "a KV cache of `f16`".into(),
                reason: "its states are whole in `f32` only".into(),
                hint: Some(Remedy::UseKvDType(KvDType::F32).into()),
            });
        }
        let (files, options) = (files.clone(), options.clone());
        Ok(Box::new(FakeOpened { backend: self.clone(), files, config, options }))
    }
}

/// It has a tokenizer and sequences, and no weights.
fn footprint(shape: &ModelShape, workload: &Workload) -> Footprint {
    let states = Saturating(workload.n_tokens as u64) * Saturating(size_of::<u64>() as u64);
    Footprint {
        kept: vec![shape.tokenizer()],
        running: vec![Part::own("states", states), shape.logits()],
        ..Footprint::default()
    }
}

impl OpenedModel for FakeOpened {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn dtype(&self) -> DType {
        self.options.dtype.unwrap_or(DType::F32)
    }

    fn footprint(&self) -> Result<EstimateFootprint> {
        let shape = ModelShape::of(&self.files, &self.config, 0)?;
        Ok(Arc::new(move |workload| footprint(&shape, workload)))
    }

    fn options(&self) -> &LoadOptions {
        &self.options
    }

    fn load_unchecked(self: Box<Self>) -> Result<Arc<dyn Model>> {
        let Self { backend, files, config, options } = *self;
        if options.device != Device::Cpu {
            return Err(Error::DeviceUnavailable {
                backend: BackendKind::Fake,
                device: options.device,
                reason: "it is a fake".into(),
                hint: Remedy::UseDevice(Device::Cpu).into(),
            });
        }
        let mut info = ModelInfo::new(&files.name, BackendKind::Fake, "1");
        info.dtype = options.dtype.unwrap_or(DType::F32);
        info.memory_dtype = info.dtype;
        info.architecture = config.architecture.to_string();
        info.n_layers = config.n_layers;
        info.hidden_size = config.hidden_size;
        info.vocab_size = config.vocab_size;
        info.max_context = config.max_context;
        info.capabilities = backend.capabilities;
        if info.capabilities.has(Capability::Generation) {
            (info.kv_dtype, info.kv_bytes_per_token) = (Some(DType::F32), size_of::<u64>());
        }
        let pools = info.capabilities.has(Capability::PooledOutput);
        info.pooled_output = pools.then(|| PooledOutput { name: "states".into(), width: POOLED_WIDTH });
        let is_adapted = |weight: &ExpectedWeight| matches!(weight.role, WeightRole::Projection | WeightRole::Head);
        let module = |weight: ExpectedWeight| {
            let name = weight.name.strip_suffix(".weight")?.to_owned();
            Some((name, weight.shape.try_into().ok()?))
        };
        let modules = config.expected_weights().filter(is_adapted).filter_map(module).collect();
        Ok(Arc::new(FakeModel { info, shows_stages: backend.shows_stages, seed: 0, modules }))
    }
}

impl Model for FakeModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.session(Vec::new(), options)))
    }

    fn encode(&self, batch: &TokenBatch, _cancel: &CancelToken) -> Result<HiddenStates> {
        let width = self.info.hidden_size;
        let values = batch.sequences().flat_map(|tokens| self.states(0, tokens)).flat_map(|state| floats(state, width)).collect();
        Ok(HiddenStates { values, hidden_size: width, lengths: batch.lengths().to_vec() })
    }

    fn encode_pooled(&self, batch: &TokenBatch, _cancel: &CancelToken) -> Result<PooledRows> {
        let last = batch.sequences().filter_map(|tokens| self.states(0, tokens).last());
        Ok(PooledRows { values: last.flat_map(|state| floats(state, POOLED_WIDTH)).collect(), width: POOLED_WIDTH })
    }

    fn with_adapters(&self, adapters: &[ScaledAdapter]) -> Result<Arc<dyn Model>> {
        let mut sum = AdapterSum::new(adapters)?;
        let mut seed = self.seed;
        for (module, shape) in &*self.modules {
            // Its weights are ones.
            let ones = vec![1.0; shape[1]];
            let rows = &mut |each: &mut dyn FnMut(&[f32])| {
                (0..shape[0]).for_each(|_| each(&ones));
                Ok(())
            };
            if let Some(update) = sum.take(module, *shape, rows)? {
                let values = update.a.iter().chain(&update.b).chain(update.gain.iter().flatten());
                seed = values.fold(seed, |seed, value| mix(seed ^ u64::from(value.to_bits())));
            }
        }
        sum.finish()?;
        Ok(Arc::new(Self { seed, ..self.clone() }))
    }

    fn prober(&self) -> Option<&dyn Prober> {
        self.shows_stages.then_some(self)
    }
}

impl Prober for FakeModel {
    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        let widths = [(Stage::FinalNorm, self.info.hidden_size), (Stage::Logits, self.info.vocab_size)];
        let known = widths.into_iter().map(|(stage, width)| (ProbePoint { layer: None, stage }, width));
        let of = |(point, width): (ProbePoint, usize)| {
            Probe::new(point, self.states(0, tokens).flat_map(|state| floats(state, width)).collect(), tokens)
        };
        Ok(known.filter(|(point, _)| points.contains(point)).map(of).collect())
    }
}

impl FakeModel {
    fn session(&self, states: Vec<u64>, options: &SessionOptions) -> FakeSession {
        let context_length = options.context_length.unwrap_or(self.info.max_context);
        FakeSession { model: self.clone(), states, context_length, cancel: options.cancel.clone() }
    }

    /// The state after each of `tokens`, which follow `state`; 0 is that of an empty sequence.
    fn states(&self, state: u64, tokens: &[TokenId]) -> impl Iterator<Item = u64> {
        let first = if state == 0 { self.seed } else { state };
        tokens.iter().scan(first, |state, &token| {
            *state = next(*state, token);
            Some(*state)
        })
    }
}

impl Session for FakeSession {
    fn n_tokens(&self) -> usize {
        self.states.len()
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.states.extend(self.model.states(self.states.last().copied().unwrap_or(0), tokens));
        let (n_rows, vocab_size) = (request.n_rows(tokens.len()), self.model.info.vocab_size);
        let rows = logits.resize(n_rows, vocab_size).chunks_exact_mut(vocab_size);
        for (row, &state) in rows.zip(&self.states[self.states.len() - n_rows..]) {
            row.iter_mut().zip(floats(state, vocab_size)).for_each(|(logit, value)| *logit = value);
        }
        Ok(())
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.states.truncate(n_tokens);
        Ok(())
    }

    fn fork(&self, n_tokens: usize, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.model.session(self.states[..n_tokens].to_vec(), options)))
    }

    fn export_kv(&self, positions: Range<usize>) -> Result<KvState> {
        let piece = |state: &u64, i: usize| (state >> (i * PIECE_BITS) & ((1 << PIECE_BITS) - 1)) as f32;
        let states = &self.states[positions.clone()];
        let data = (0..4).flat_map(|i| states.iter().map(move |state| if i == 3 { 0.0 } else { piece(state, i) })).collect();
        Ok(KvState::new(KV_SHAPE, positions.start, positions.len(), DType::F32, data))
    }

    fn import_kv(&mut self, state: &KvState) -> Result<()> {
        state.require_shape(KV_SHAPE)?;
        let piece = |token: usize, i: usize| (state.data[i * state.n_tokens + token] as u64) << (i * PIECE_BITS);
        self.states.extend((0..state.n_tokens).map(|token| piece(token, 0) | piece(token, 1) | piece(token, 2)));
        Ok(())
    }
}

fn next(state: u64, token: TokenId) -> u64 {
    mix(state ^ mix(u64::from(token) + 1))
}

/// `n` values between -4 and 4.
fn floats(state: u64, n: usize) -> impl Iterator<Item = f32> {
    (0..n as u64).map(move |i| (mix(state ^ mix(i)) >> 40) as f32 / (1_u64 << 24) as f32 * 8.0 - 4.0)
}

/// SplitMix64's finaliser. Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
