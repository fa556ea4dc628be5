//! The entry point: lists devices and loads models.

use std::sync::Arc;

use tandem_core::arena::Arena;
use tandem_core::backend::{Capabilities, Capability, Kernels, KvDType, LoadOptions, Numerics};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::files::{Listing, ModelFile, ModelFiles};
use tandem_core::footprint::{EstimateFootprint, Footprint, ModelShape, Workload};
use tandem_core::gguf::Gguf;
use tandem_core::huge_pages::MappingSnapshot;
use tandem_core::{
    Backend, BackendKind, DType, Device, DeviceReport, Error, Model, ModelInfo, OpenedModel, Remedies, Remedy, Result,
};
use tandem_kernels::instruction_set;
use tandem_kernels::quantize::Bits;

use crate::decoder::Decode;
use crate::device;
use crate::device_decoder::DeviceDecoder;
use crate::encoder::{DeviceEncoder, DeviceEncoderModel, EncoderModel, encoder};
use crate::error::Doing;
use crate::footprint::{WeightBytes, encoders, footprint};
use crate::gguf;
use crate::loaded::Loaded;
use crate::model::CandleModel;
use crate::packed;
use crate::weights::{self, CheckpointSource, LoadedDecoder};

/// The release of candle that this crate is built with, which candle itself does not expose.
pub(crate) const CANDLE_VERSION: &str = "0.11.1";

/// candle.
#[derive(Clone, Copy, Debug, Default)]
pub struct CandleBackend;

impl CandleBackend {
    /// A backend; nothing is started until a model is loaded.
    pub fn new() -> Self {
        Self
    }
}

const CAPABILITIES: Capabilities = Capabilities::of(&[
    Capability::Generation,
    Capability::AllLogits,
    Capability::Rewind,
    Capability::Fork,
    Capability::HiddenStates,
    Capability::Adapters,
    Capability::KvTransfer,
]);

/// Of encoders, and of decoders that see both ways or have no head, which take adapters.
const ENCODES: Capabilities = Capabilities::of(&[Capability::HiddenStates]);

impl Backend for CandleBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Candle
    }

    fn devices(&self) -> Vec<DeviceReport> {
        device::reports()
    }

    fn select_files(&self, listing: &Listing<'_>, dtype: Option<DType>) -> Result<Vec<String>> {
        listing.weights(dtype)
    }

    fn footprint(&self, shape: &ModelShape, dtype: DType, workload: &Workload) -> Footprint {
        if !shape.generates {
            return encoders::footprint(shape, dtype, device::n_threads(None), workload);
        }
        let kv_dtype = KvDType::by_default(dtype, Numerics::default()).dtype();
        footprint(shape, WeightBytes::of_checkpoint(shape, dtype), kv_dtype, workload)
    }

    fn dtypes(&self, files: &ModelFiles) -> Vec<DType> {
        // The blocks of a GGUF file are in the dtype that somebody chose.
        let is_checkpoint = files.gguf().is_none() && !files.weights.is_empty();
        let is_encoder = || files.model_config().is_ok_and(|config| config.encoder.is_some());
        match is_checkpoint {
            true if is_encoder() => vec![DType::F32, DType::Bf16, DType::Int8],
            true => vec![DType::F32, DType::Int8, DType::Int4],
            false => Vec::new(),
        }
    }

    fn open_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn OpenedModel>> {
        refuse_other_kernels(options)?;
        let config = files.model_config()?;
        let device = device::open(options.device)?;
        let (mut dtype, bits) = match config.encoder {
            Some(_) if files.gguf().is_none() && options.device == Device::Cpu => encoder_dtype(files, options)?,
            _ => dtype(options)?,
        };
        refuse_unreadable(files, &config, options)?;
        refuse_quantised_file(files, options.device)?;
        let stored = match files.gguf() {
            Some(gguf) => {
                dtype = options.dtype.map_or_else(|| gguf::stored_dtype(gguf), Ok)?;
                StoredWeights::Gguf(Arc::clone(gguf))
            }
            None => StoredWeights::Checkpoint(Checkpoint::open(files)?),
        };
        let generates = match &stored {
            StoredWeights::Gguf(_) => true,
            StoredWeights::Checkpoint(checkpoint) => weights::generates(&config, |name| checkpoint.contains(name)),
        };
        let kv_dtype = if generates { kv_dtype(options, dtype)? } else { DType::F32 };
        Ok(Box::new(CandleOpened {
            files: files.clone(),
            options: options.clone(),
            config,
            device,
            dtype,
            kv_dtype,
            bits,
            stored,
        }))
    }
}

/// Refuses the kernels of ONNX Runtime, which this engine does not have.
///
/// # Errors
/// [`Error::InvalidOption`].
fn refuse_other_kernels(options: &LoadOptions) -> Result<()> {
    if options.onnx.kernels != Some(Kernels::Runtime) {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: "kernels".into(),
        value: Kernels::Runtime.to_string(),
        problem: "means the kernels of ONNX Runtime, which the backend `candle` does not have".into(),
        hint: Some(["leave it out".into(), Remedy::UseBackend(BackendKind::Onnx)].into()),
    })
}

/// A checkpoint or a GGUF file whose headers were read.
struct CandleOpened {
    files: ModelFiles,
    options: LoadOptions,
    config: ModelConfig,
    device: candle_core::Device,
    dtype: DType,
    /// In what keys and values are held.
    kv_dtype: DType,
    bits: Option<Bits>,
    stored: StoredWeights,
}

/// Weights as published, mapped.
enum StoredWeights {
    Checkpoint(Checkpoint),
    Gguf(Arc<Gguf>),
}

impl OpenedModel for CandleOpened {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn footprint(&self) -> Result<EstimateFootprint> {
        let n_bytes = match &self.stored {
            StoredWeights::Checkpoint(checkpoint) => checkpoint.n_bytes(),
            StoredWeights::Gguf(_) => self.files.config.len()?,
        };
        let shape = ModelShape::of(&self.files, &self.config, n_bytes)?;
        if self.config.encoder.is_some() {
            let (dtype, threads) = (in_memory(self.dtype, &self.options), device::n_threads(self.options.threads));
            return Ok(Arc::new(move |workload| encoders::footprint(&shape, dtype, threads, workload)));
        }
        let weights = match &self.stored {
            StoredWeights::Checkpoint(_) => WeightBytes::of_checkpoint(&shape, self.dtype),
            StoredWeights::Gguf(gguf) => WeightBytes::of_gguf(gguf, &shape, self.options.dtype),
        };
        let kv_dtype = self.kv_dtype;
        Ok(Arc::new(move |workload| footprint(&shape, weights, kv_dtype, workload)))
    }

    fn options(&self) -> &LoadOptions {
        &self.options
    }

    fn load_unchecked(self: Box<Self>) -> Result<Arc<dyn Model>> {
        let Self { files, options, config, device, dtype, kv_dtype, bits, stored } = *self;
        let threads = device::threads(options.threads)?;
        let before = (options.huge_pages && device.is_cpu()).then(MappingSnapshot::now);
        let mut info = info(&files, &config, &options, dtype, threads.n())?;
        let value_bytes = if kv_dtype == DType::F32 { 4 } else { 2 };
        (info.kv_dtype, info.kv_bytes_per_token) = (Some(kv_dtype), config.kv_bytes_per_token(value_bytes));
        if let StoredWeights::Checkpoint(checkpoint) = &stored
            && !weights::generates(&config, |name| checkpoint.contains(name))
        {
            info.capabilities = ENCODES.with_if(config.encoder.is_none(), Capability::Adapters);
            (info.kv_dtype, info.kv_bytes_per_token) = (None, 0);
        }
        if let (Some(_), StoredWeights::Checkpoint(checkpoint)) = (&config.encoder, &stored) {
            let arena = Arena::default();
            let reader = CheckpointSource { checkpoint, file: &files.name, bits, numerics: options.numerics, arena: &arena };
            if !device.is_cpu() {
                let encoder = DeviceEncoder::load(&reader, &config, candle_dtype(dtype), &device)?;
                return Ok(Arc::new(DeviceEncoderModel { encoder, threads, info }));
            }
            let encoder = threads.install(|| encoder(&reader, &config, dtype))?;
            info.memory_dtype = in_memory(dtype, &options);
            if let Some(before) = before {
                before.collapse();
            }
            return Ok(Arc::new(EncoderModel::new(encoder, threads, info)));
        }
        let LoadedDecoder { mut decoder, dtype, weight_types } = threads.install(|| match &stored {
            StoredWeights::Gguf(gguf) => gguf::load(gguf, &config, &options),
            StoredWeights::Checkpoint(checkpoint) => {
                let arena = Arena::default();
                let reader = CheckpointSource { checkpoint, file: &files.name, bits, numerics: options.numerics, arena: &arena };
                let decoder = packed::decoder(&reader, &files, &config, &options)?;
                Ok(LoadedDecoder { decoder, dtype, weight_types: Vec::new() })
            }
        })?;
        (info.dtype, info.weight_types) = (dtype, weight_types);
        info.memory_dtype = if dtype == DType::F32 && device.is_cpu() { decoder.memory_dtype() } else { dtype };
        if info.kv_dtype == Some(DType::F16) {
            decoder.kv_dtype = KvDType::F16;
        }
        if let Some(before) = before {
            before.collapse();
        }
        let decoder: Box<dyn Decode> = match &device {
            candle_core::Device::Cpu => Box::new(decoder),
            other => {
                Box::new(DeviceDecoder::new(decoder, candle_dtype(dtype), other).doing("to move the weights to the device")?)
            }
        };
        Ok(Arc::new(CandleModel { loaded: Arc::new(Loaded::new(decoder, threads, info, config.is_causal)) }))
    }
}

/// What a model of `config` reports before its weights are read.
pub(crate) fn info(
    files: &ModelFiles,
    config: &ModelConfig,
    options: &LoadOptions,
    dtype: DType,
    threads: usize,
) -> Result<ModelInfo> {
    let mut info = ModelInfo::new(&files.name, BackendKind::Candle, CANDLE_VERSION);
    if options.device == Device::Cpu {
        info.engine_version = format!("{CANDLE_VERSION} ({})", instruction_set());
    }
    info.device = options.device;
    info.dtype = dtype;
    info.memory_dtype = dtype;
    info.architecture = config.architecture.to_string();
    info.n_layers = config.n_layers;
    info.hidden_size = config.hidden_size;
    info.vocab_size = config.vocab_size;
    info.max_context = config.max_context;
    info.threads = threads;
    info.n_token_types = config.encoder.as_ref().map_or(0, |encoder| encoder.n_token_types);
    info.capabilities = CAPABILITIES.with_if(options.device == Device::Cpu, Capability::PromptParts);
    info.weight_files = files.weights.iter().map(ModelFile::weight_file).collect::<Result<_>>()?;
    Ok(info)
}

/// The requested dtype of the weights, and the bits to which they are quantised.
fn dtype(options: &LoadOptions) -> Result<(DType, Option<Bits>)> {
    let on_processor = options.device == Device::Cpu;
    let (reason, hint) = match options.dtype.unwrap_or(DType::F32) {
        DType::F32 => return Ok((DType::F32, None)),
        DType::Int8 if on_processor => return Ok((DType::Int8, Some(Bits::Eight))),
        DType::Int4 if on_processor => return Ok((DType::Int4, Some(Bits::Four))),
        half @ (DType::F16 | DType::Bf16) if !on_processor => return Ok((half, None)),
        DType::F16 | DType::Bf16 => (
            "a processor computes with it more slowly and less precisely than with f32",
            Remedies::from(Remedy::UseDType(vec![DType::F32, DType::Int8, DType::Int4])),
        ),
        DType::Int8 | DType::Int4 => (
            "candle's CUDA kernels for quantised weights also quantise activations, and have not been verified against another engine",
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

/// In what keys and values of a model in `dtype` are held.
fn kv_dtype(options: &LoadOptions, dtype: DType) -> Result<DType> {
    let own = match (options.device, dtype) {
        (Device::Cpu, _) => KvDType::by_default(dtype, options.numerics).dtype(),
        (_, half @ (DType::F16 | DType::Bf16)) => half,
        _ => DType::F32,
    };
    match options.kv_dtype.map(KvDType::dtype) {
        None => Ok(own),
        Some(dtype) if dtype == own || options.device == Device::Cpu => Ok(dtype),
        Some(dtype) => Err(Error::Unsupported {
            what: format!("a KV cache of `{dtype}` beside weights in `{own}` on device `{}`", options.device),
            reason: "candle's attention there takes keys and values in the dtype of the weights".into(),
            hint: Some([Remedy::UseDType(vec![dtype]), Remedy::UseDevice(Device::Cpu)].into()),
        }),
    }
}

/// The dtype of activations on a device, and of the KV cache there.
fn candle_dtype(dtype: DType) -> candle_core::DType {
    match dtype {
        DType::F16 => candle_core::DType::F16,
        DType::Bf16 => candle_core::DType::BF16,
        _ => candle_core::DType::F32,
    }
}

/// The blocks of a GGUF file need the kernels of the processor.
fn refuse_quantised_file(files: &ModelFiles, device: Device) -> Result<()> {
    if device == Device::Cpu || files.gguf().is_none() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("the GGUF file `{}` on device `{device}`", files.name),
        reason: "the kernels for the block formats of GGUF run on the processor only".into(),
        hint: Some(["use the checkpoint (safetensors) that it was converted from".into(), Remedy::UseDevice(Device::Cpu)].into()),
    })
}

/// What the matrices of an encoder in `dtype` lie in: quantised ones are widened where their inputs are to stay floats.
fn in_memory(dtype: DType, options: &LoadOptions) -> DType {
    if options.numerics == Numerics::Exact && dtype == DType::Int8 { DType::F32 } else { dtype }
}

/// As [`dtype`], for encoders on the processor.
fn encoder_dtype(files: &ModelFiles, options: &LoadOptions) -> Result<(DType, Option<Bits>)> {
    let (dtype, reason) = match options.dtype.unwrap_or(DType::F32) {
        dtype @ (DType::F32 | DType::Bf16) => return Ok((dtype, None)),
        DType::Int8 => return Ok((DType::Int8, Some(Bits::Eight))),
        DType::Int4 => {
            (DType::Int4, "4 bits change the vectors of models of that size: their cosine to those of f32 is 0.87 to 0.96")
        }
        DType::F16 => (DType::F16, "processors have no products of f16 that are faster than those of f32"),
    };
    Err(Error::Unsupported {
        what: format!("dtype `{dtype}` for the encoder `{}`", files.name),
        reason: reason.into(),
        hint: Some(Remedy::UseDType(vec![DType::F32, DType::Bf16, DType::Int8]).into()),
    })
}

/// Refuses graphs, which are for the other engine, and checkpoints that were quantised by other tools.
fn refuse_unreadable(files: &ModelFiles, config: &ModelConfig, options: &LoadOptions) -> Result<()> {
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
            reason: "only weights in f32, f16 and bf16 can be read".into(),
            hint: Some("use the checkpoint that it was quantised from".into()),
        }),
        None => Ok(()),
    }
}
