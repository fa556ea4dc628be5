//! candle-transformers' own models of the families that we have written ourselves: what a user of candle would pick instead, to measure
//! against. f32 on the processor, the logits of the last token.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType as CandleType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2, qwen3};
use rayon::ThreadPool;
use serde_json::{Value, json};
use tandem_core::backend::{Capabilities, HiddenStates, LoadOptions, LoraAdapter, TokenBatch};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::{Architecture, ModelConfig};
use tandem_core::files::ModelFiles;
use tandem_core::{BackendKind, DType, Error, Logits, LogitsWanted, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

use crate::backend::{CANDLE_VERSION, weight_file};
use crate::device;
use crate::error::Doing;

const LOADING: &str = "to load candle-transformers' model";
const RUNNING: &str = "to run candle-transformers' model";

/// Loads the checkpoint of `files` into candle-transformers' model, in f32.
///
/// # Errors
/// [`Error::Unsupported`] for a family, device or dtype that this peer is not measured with, and as a checkpoint's.
pub fn load_transformers(files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
    let config = ModelConfig::from_file(&files.config)?;
    if options.device != tandem_core::Device::Cpu {
        return Err(refused("runs on the processor only"));
    }
    if options.dtype.is_some_and(|dtype| dtype != DType::F32) {
        return Err(refused("runs in f32 only"));
    }
    let threads = device::threads(&options.threads)?;
    let checkpoint = Checkpoint::open(files)?;
    let network = threads.install(|| Network::load(&checkpoint, &config))?;
    let info = ModelInfo {
        name: files.name.clone(),
        backend: BackendKind::Candle,
        engine_version: format!("candle-transformers {CANDLE_VERSION}"),
        device: options.device,
        dtype: DType::F32,
        architecture: config.architecture.to_string(),
        n_layers: config.n_layers,
        hidden_size: config.hidden_size,
        vocab_size: config.vocab_size,
        max_context: config.max_context,
        threads: threads.current_num_threads(),
        kv_bytes_per_token: config.kv_bytes_per_token(size_of::<f32>()),
        capabilities: Capabilities::default(),
        weight_types: Vec::new(),
        weight_files: files.weights.iter().map(weight_file).collect::<Result<_>>()?,
        placement: Vec::new(),
        device_share: 1.0,
    };
    Ok(Arc::new(PeerModel { network, threads, info }))
}

fn refused(reason: &str) -> Error {
    Error::Unsupported { what: "peer `candle-transformers`".into(), reason: reason.into(), hint: None }
}

/// One that has seen nothing; sessions are copies of it, which share its weights.
struct PeerModel {
    network: Network,
    threads: Arc<ThreadPool>,
    info: ModelInfo,
}

#[derive(Clone)]
enum Network {
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Llama { model: Box<llama::Llama>, config: Box<llama::Config>, cache: Box<llama::Cache> },
}

impl Network {
    fn load(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self> {
        let weights = VarBuilder::from_tensors(tensors(checkpoint)?, CandleType::F32, &Device::Cpu);
        let json = form(config);
        let wrong = |error: serde_json::Error| refused(&format!("does not read this configuration: {error}"));
        match config.architecture {
            Architecture::Qwen2 => {
                let config = serde_json::from_value(json).map_err(wrong)?;
                qwen2::ModelForCausalLM::new(&config, weights).map(Self::Qwen2).doing(LOADING).map_err(Error::from)
            }
            Architecture::Qwen3 => {
                let config = serde_json::from_value(json).map_err(wrong)?;
                qwen3::ModelForCausalLM::new(&config, weights).map(Self::Qwen3).doing(LOADING).map_err(Error::from)
            }
            Architecture::Llama => {
                let config = serde_json::from_value::<llama::LlamaConfig>(json).map_err(wrong)?.into_config(false);
                let model = llama::Llama::load(weights, &config).doing(LOADING)?;
                let cache = llama::Cache::new(true, CandleType::F32, &config, &Device::Cpu).doing(LOADING)?;
                Ok(Self::Llama { model: Box::new(model), config: Box::new(config), cache: Box::new(cache) })
            }
            other => Err(refused(&format!("is not measured with models of the family `{other}`"))),
        }
    }

    /// The logits of the last of `tokens` after `held` others: `[vocab_size]`.
    fn append(&mut self, tokens: &[TokenId], held: usize) -> CandleResult<Vec<f32>> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Qwen2(model) => model.forward(&tokens, held),
            Self::Qwen3(model) => model.forward(&tokens, held),
            Self::Llama { model, cache, .. } => model.forward(&tokens, held, cache),
        };
        logits?.flatten_all()?.to_vec1()
    }

    fn clear(&mut self) -> CandleResult<()> {
        match self {
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::Qwen3(model) => model.clear_kv_cache(),
            Self::Llama { config, cache, .. } => **cache = llama::Cache::new(true, CandleType::F32, config, &Device::Cpu)?,
        }
        Ok(())
    }
}

/// The configuration with the fields that candle-transformers requires and publishers leave out.
fn form(config: &ModelConfig) -> Value {
    let mut json = config.raw().clone();
    let defaults = json!({"max_window_layers": config.n_layers, "use_sliding_window": false, "attention_bias": config.qkv_bias});
    if let (Value::Object(fields), Value::Object(defaults)) = (&mut json, defaults) {
        for (name, value) in defaults {
            fields.entry(name).or_insert(value);
        }
        fields.insert("head_dim".into(), config.head_dim().into());
        fields.insert("rope_theta".into(), config.rope.theta.into());
        fields.insert("tie_word_embeddings".into(), config.tie_word_embeddings.into());
        // Without a window it is null, and Qwen2's must be a number.
        if fields.get("sliding_window").is_none_or(Value::is_null) {
            fields.insert("sliding_window".into(), config.max_context.into());
        }
    }
    json
}

/// Every weight as f32.
fn tensors(checkpoint: &Checkpoint) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for name in checkpoint.names() {
        let stored = checkpoint.tensor(name)?;
        let dtype = match stored.dtype {
            DType::F16 => CandleType::F16,
            DType::Bf16 => CandleType::BF16,
            _ => CandleType::F32,
        };
        let tensor = Tensor::from_raw_buffer(stored.bytes, dtype, stored.shape, &Device::Cpu);
        tensors.insert(name.to_owned(), tensor.and_then(|tensor| tensor.to_dtype(CandleType::F32)).doing(LOADING)?);
    }
    Ok(tensors)
}

impl Model for PeerModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        let max_tokens = options.max_tokens(&self.info)?;
        let session = PeerSession {
            network: self.network.clone(),
            threads: Arc::clone(&self.threads),
            info: self.info.clone(),
            n_tokens: 0,
            max_tokens,
        };
        Ok(Box::new(session))
    }

    fn encode(&self, _batch: &TokenBatch) -> Result<HiddenStates> {
        Err(self.info.unsupported("encoding", "candle-transformers keeps the hidden states to itself"))
    }

    fn with_adapter(&self, _adapter: &LoraAdapter) -> Result<Arc<dyn Model>> {
        Err(self.info.unsupported("an adapter", "candle-transformers applies none"))
    }
}

struct PeerSession {
    network: Network,
    threads: Arc<ThreadPool>,
    info: ModelInfo,
    n_tokens: usize,
    max_tokens: usize,
}

impl Session for PeerSession {
    fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn append(&mut self, tokens: &[TokenId], wanted: LogitsWanted) -> Result<Logits> {
        self.info.check_append(self.n_tokens, self.max_tokens, tokens, wanted)?;
        let (network, held) = (&mut self.network, self.n_tokens);
        let logits = self.threads.install(|| network.append(tokens, held)).doing(RUNNING)?;
        self.n_tokens += tokens.len();
        Ok(if wanted == LogitsWanted::None { Logits::none() } else { Logits::new(logits, self.info.vocab_size) })
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.info.check_rewind(self.n_tokens, n_tokens)?;
        if n_tokens == 0 {
            self.network.clear().doing(RUNNING)?;
        }
        self.n_tokens = n_tokens;
        Ok(())
    }
}
