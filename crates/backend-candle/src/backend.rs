//! The engine: lists devices, loads checkpoints.

use std::path::Path;
use std::sync::Arc;

use tandem_core::arena::Arena;
use tandem_core::backend::{Capabilities, Capability, LoadOptions, WeightFile};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::huge_pages::MappingSnapshot;
use tandem_core::{Backend, BackendKind, DType, Device, DeviceReport, Error, Model, ModelInfo, Remedies, Remedy, Result};

use crate::decoder::Decode;
use crate::device;
use crate::device_decoder::DeviceDecoder;
use crate::error::Doing;
use crate::foreign::{self, ForeignModel};
use crate::gguf::{self, FromGguf};
use crate::model::{CandleModel, Loaded};
use crate::quantize::Bits;
use crate::weights::{self, Reader};

/// The release of candle that this crate is built with; candle does not say it of itself.
pub(crate) const CANDLE_VERSION: &str = "0.11.1";

/// candle.
#[derive(Clone, Copy, Debug, Default)]
pub struct CandleBackend;

impl CandleBackend {
    /// Nothing is started before it is needed.
    pub fn new() -> Self {
        Self
    }
}

impl Backend for CandleBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Candle
    }

    fn devices(&self) -> Vec<DeviceReport> {
        device::reports()
    }

    fn load_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Model>> {
        let config = ModelConfig::from_file(&files.config)?;
        let device = device::open(options.device)?;
        let (wanted, bits) = dtype(options)?;
        refuse_what_is_no_checkpoint(files, &config, options)?;
        refuse_quantised_file(files, options.device)?;
        let threads = device::threads(options.threads)?;
        let before = (options.huge_pages && device.is_cpu()).then(MappingSnapshot::now);
        let mut info = info(files, &config, options, wanted, threads.current_num_threads())?;
        if !config.architecture.has_llama_form() {
            let checkpoint = Checkpoint::open(files)?;
            return Ok(Arc::new(ForeignModel::load(&checkpoint, &config, &device, threads, info)?));
        }
        let FromGguf { decoder, dtype, weight_types } = threads.install(|| match files.gguf() {
            Some(path) => gguf::load(path, &config, options),
            None => {
                let checkpoint = Checkpoint::open(files)?;
                let arena = Arena::default();
                let reader =
                    Reader { checkpoint: &checkpoint, file: &files.name, bits, numerics: options.numerics, arena: &arena };
                Ok(FromGguf { decoder: weights::decoder(&reader, &config)?, dtype: wanted, weight_types: Vec::new() })
            }
        })?;
        (info.dtype, info.weight_types) = (dtype, weight_types);
        info.memory_dtype = if dtype == DType::F32 && device.is_cpu() { decoder.memory_dtype() } else { dtype };
        if let Some(before) = before {
            before.collapse();
        }
        let decoder: Box<dyn Decode> = match &device {
            candle_core::Device::Cpu => Box::new(decoder),
            other => {
                Box::new(DeviceDecoder::new(decoder, candle_dtype(dtype), other).doing("to move the weights to the device")?)
            }
        };
        Ok(Arc::new(CandleModel { loaded: Arc::new(Loaded { decoder, threads, info }) }))
    }
}

/// What our own decoders can do.
const CAPABILITIES: Capabilities =
    Capabilities::of(&[Capability::Generation, Capability::AllLogits, Capability::Rewind, Capability::HiddenStates]);

pub(crate) fn info(
    files: &ModelFiles,
    config: &ModelConfig,
    options: &LoadOptions,
    dtype: DType,
    threads: usize,
) -> Result<ModelInfo> {
    let mut info = ModelInfo::new(&files.name, BackendKind::Candle, CANDLE_VERSION);
    info.device = options.device;
    info.dtype = dtype;
    info.memory_dtype = dtype;
    info.architecture = config.architecture.to_string();
    info.n_layers = config.n_layers;
    info.hidden_size = config.hidden_size;
    info.vocab_size = config.vocab_size;
    info.max_context = config.max_context;
    info.threads = threads;
    info.kv_bytes_per_token = config.kv_bytes_per_token(candle_dtype(dtype).size_in_bytes());
    info.capabilities = if config.architecture.has_llama_form() { CAPABILITIES } else { foreign::CAPABILITIES };
    info.weight_files = files.weights.iter().map(weight_file).collect::<Result<_>>()?;
    Ok(info)
}

/// The dtype that the weights are to have in memory, and how they become so.
fn dtype(options: &LoadOptions) -> Result<(DType, Option<Bits>)> {
    let on_processor = options.device == Device::Cpu;
    let (reason, hint) = match options.dtype.unwrap_or(DType::F32) {
        DType::F32 => return Ok((DType::F32, None)),
        DType::Int8 if on_processor => return Ok((DType::Int8, Some(Bits::Eight))),
        DType::Int4 if on_processor => return Ok((DType::Int4, Some(Bits::Four))),
        half @ (DType::F16 | DType::Bf16) if !on_processor => return Ok((half, None)),
        DType::F16 | DType::Bf16 => (
            "a processor computes with it more slowly than with f32, and less precisely",
            Remedies::from(Remedy::UseDType(vec![DType::F32, DType::Int8, DType::Int4])),
        ),
        DType::Int8 | DType::Int4 => (
            "candle's kernels for quantised weights round activations, and were not held to any other engine",
            [
                Remedy::UseDType(vec![DType::Bf16, DType::F16]),
                Remedy::UseDevice(Device::Cpu),
                Remedy::UseBackend(BackendKind::Onnx),
            ]
            .into(),
        ),
    };
    let dtype = options.dtype.unwrap_or(DType::F32);
    Err(Error::Unsupported {
        what: format!("dtype `{dtype}` on device `{}`", options.device),
        reason: reason.into(),
        hint: Some(hint),
    })
}

/// In what activations and caches are kept.
fn candle_dtype(dtype: DType) -> candle_core::DType {
    match dtype {
        DType::F16 => candle_core::DType::F16,
        DType::Bf16 => candle_core::DType::BF16,
        _ => candle_core::DType::F32,
    }
}

/// The blocks of a GGUF file are for the loops of the processor.
fn refuse_quantised_file(files: &ModelFiles, device: Device) -> Result<()> {
    if device == Device::Cpu || files.gguf().is_none() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("the GGUF file `{}` on device `{device}`", files.name),
        reason: "its weights are computed with as they are stored, which is done on the processor alone".into(),
        hint: Some(["use the checkpoint (safetensors) that it was made from".into(), Remedy::UseDevice(Device::Cpu)].into()),
    })
}

/// Graphs are for the other engine, and weights that others have quantised are not understood.
fn refuse_what_is_no_checkpoint(files: &ModelFiles, config: &ModelConfig, options: &LoadOptions) -> Result<()> {
    let graph = match &options.onnx.graph {
        Some(path) => Some(path.display().to_string()),
        None => files.graphs.first().filter(|_| files.weights.is_empty()).map(|graph| graph.file.name().into_owned()),
    };
    if let Some(graph) = graph {
        return Err(Error::Unsupported {
            what: format!("the graph `{graph}`"),
            reason: "candle reads checkpoints (safetensors), not graphs".into(),
            hint: Some([Remedy::UseBackend(BackendKind::Onnx), "use a directory with `model.safetensors`".into()].into()),
        });
    }
    match config.quantization_method() {
        Some(method) => Err(Error::Unsupported {
            what: format!("the checkpoint `{}` with weights quantised by `{method}`", files.name),
            reason: "weights are read as f32, f16 or bf16".into(),
            hint: Some("use the checkpoint that it was made from".into()),
        }),
        None => Ok(()),
    }
}

pub(crate) fn weight_file(file: &ModelFile) -> Result<WeightFile> {
    Ok(WeightFile { name: file.name().into_owned(), path: file.path().map(Path::to_owned), bytes: file.len()? })
}
