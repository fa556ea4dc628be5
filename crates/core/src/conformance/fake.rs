//! A backend without an engine: its logits are a hash of all tokens before, so that every mistake of position or history shows.

use std::sync::Arc;

use crate::backend::{
    Backend, BackendKind, Capabilities, DType, Device, DeviceReport, HiddenStates, LoadOptions, Logits, LogitsRequest,
    LoraAdapter, Model, ModelInfo, Probe, ProbePoint, Session, SessionOptions, Stage, TokenBatch, TokenId,
};
use crate::cancel::CancelToken;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::ModelFiles;

/// The reference implementation of the contract. It reads the configuration and no weights.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    /// What its models declare.
    pub capabilities: Capabilities,
}

struct FakeModel {
    info: ModelInfo,
}

struct FakeSession {
    info: ModelInfo,
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
            hint: unusable.map(|_| "use `--device cpu`".into()),
        };
        vec![report(Device::Cpu, None), report(Device::Cuda(0), Some("it is a fake"))]
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
        options.validate()?;
        let config = ModelConfig::from_file(&files.config)?;
        if options.device != Device::Cpu {
            return Err(Error::DeviceUnavailable {
                backend: BackendKind::Fake,
                device: options.device,
                reason: "it is a fake".into(),
                hint: "use `--device cpu`".into(),
            });
        }
        let info = ModelInfo {
            name: files.name.clone(),
            backend: BackendKind::Fake,
            engine_version: "1".into(),
            device: options.device,
            dtype: options.dtype.unwrap_or(DType::F32),
            memory_dtype: options.dtype.unwrap_or(DType::F32),
            architecture: config.architecture.to_string(),
            n_layers: config.n_layers,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            max_context: config.max_context,
            threads: 1,
            kv_bytes_per_token: size_of::<u64>(),
            capabilities: self.capabilities,
            weight_types: Vec::new(),
            weight_files: Vec::new(),
            placement: Vec::new(),
            device_share: 1.0,
        };
        info.check_device_share(options.require_device)?;
        Ok(Arc::new(FakeModel { info }))
    }
}

impl Model for FakeModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        let context_length = options.context_length(&self.info)?;
        Ok(Box::new(FakeSession { info: self.info.clone(), states: Vec::new(), context_length, cancel: options.cancel.clone() }))
    }

    fn encode(&self, batch: &TokenBatch) -> Result<HiddenStates> {
        if !self.info.capabilities.hidden_states {
            return Err(self.info.unsupported("encoding", "the fake was not told to"));
        }
        let mut values = Vec::new();
        for sequence in batch.sequences() {
            let mut state = 0;
            for &token in sequence {
                state = next(state, token);
                values.extend(floats(state, self.info.hidden_size));
            }
        }
        Ok(HiddenStates { values, hidden_size: self.info.hidden_size, lengths: batch.lengths().to_vec() })
    }

    fn with_adapter(&self, _: &LoraAdapter) -> Result<Arc<dyn Model>> {
        Err(self.info.unsupported("an adapter", "the fake has no weights"))
    }

    fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Result<Vec<Probe>> {
        if !self.info.capabilities.probe {
            return Err(self.info.unsupported("probing", "the fake was not told to"));
        }
        self.info.check_append(0, self.info.max_context, tokens, LogitsRequest::None)?;
        let widths = [(Stage::FinalNorm, self.info.hidden_size), (Stage::Logits, self.info.vocab_size)];
        let known = widths.into_iter().map(|(stage, width)| (ProbePoint { layer: None, stage }, width));
        let of = |(point, width): (ProbePoint, usize)| {
            let states = tokens.iter().scan(0, |state, &token| {
                *state = next(*state, token);
                Some(*state)
            });
            Probe::new(point, states.flat_map(|state| floats(state, width)).collect(), tokens)
        };
        Ok(known.filter(|(point, _)| points.contains(point)).map(of).collect())
    }
}

impl Session for FakeSession {
    fn n_tokens(&self) -> usize {
        self.states.len()
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn append(&mut self, tokens: &[TokenId], wanted: LogitsRequest) -> Result<Logits> {
        self.info.check_append(self.states.len(), self.context_length, tokens, wanted)?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut state = self.states.last().copied().unwrap_or(0);
        let before = self.states.len();
        for &token in tokens {
            state = next(state, token);
            self.states.push(state);
        }
        let first = match wanted {
            LogitsRequest::None => return Ok(Logits::none()),
            LogitsRequest::Last => self.states.len() - 1,
            LogitsRequest::All => before,
        };
        let vocab_size = self.info.vocab_size;
        Ok(Logits::new(self.states[first..].iter().flat_map(|&state| floats(state, vocab_size)).collect(), vocab_size))
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.info.check_rewind(self.states.len(), n_tokens)?;
        self.states.truncate(n_tokens);
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
