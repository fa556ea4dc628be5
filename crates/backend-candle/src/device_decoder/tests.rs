//! The conformance suite, and comparisons with our own decoder: with the same operations of candle on the processor as on a GPU, or on
//! the GPU that `TANDEM_TEST_DEVICE` names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_core::backend::{KvDType, LoadOptions, Numerics, TokenBatch};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::config::ModelConfig;
use tandem_core::conformance::{Fixture, Golden};
use tandem_core::files::{Listing, ModelFiles};
use tandem_core::footprint::{EstimateFootprint, Footprint, ModelShape, Workload};
use tandem_core::{
    Backend, BackendKind, CancelToken, DeviceReport, Error, LogitsRequest, Model, OpenedModel, Remedy, Result, SessionOptions,
    conformance,
};

use super::*;
use crate::CandleBackend;
use crate::loaded::Loaded;
use crate::model::CandleModel;
use crate::weights::CheckpointSource;

conformance!(qwen2_tied, || Ok(fixture("qwen2-tied")));
conformance!(qwen2_untied, || Ok(fixture("qwen2-untied")));
conformance!(qwen3, || Ok(fixture("qwen3")));
conformance!(llama3_rope, || Ok(fixture("llama3-rope")));
conformance!(llama_yarn, || Ok(fixture("llama-yarn")));
conformance!(mistral, || Ok(fixture("mistral")));
conformance!(gemma2, || Ok(fixture("gemma2")));
conformance!(gemma3, || Ok(fixture("gemma3")));
conformance!(phi3, || Ok(fixture("phi3")));
conformance!(gemma2_window, || Ok(fixture("gemma2-window")));

/// candle with the decoder for other devices than the processor, wherever it computes.
struct ForDevice(DType);

impl Backend for ForDevice {
    fn kind(&self) -> BackendKind {
        BackendKind::Candle
    }

    fn devices(&self) -> Vec<DeviceReport> {
        CandleBackend::new().devices()
    }

    fn select_files(&self, listing: &Listing<'_>, dtype: Option<tandem_core::DType>) -> Result<Vec<String>> {
        CandleBackend::new().select_files(listing, dtype)
    }

    fn dtypes(&self, files: &ModelFiles) -> Vec<tandem_core::DType> {
        CandleBackend::new().dtypes(files)
    }

    fn footprint(&self, shape: &ModelShape, dtype: tandem_core::DType, workload: &Workload) -> Footprint {
        CandleBackend::new().footprint(shape, dtype, workload)
    }

    fn open_unchecked(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn OpenedModel>> {
        // As on a device, keys and values have the dtype of the decoder.
        if self.0 == DType::F32 && options.kv_dtype == Some(KvDType::F16) {
            return Err(Error::Unsupported {
                what: "a KV cache of `f16`".into(),
                reason: "this decoder computes in `f32`".into(),
                hint: Some(Remedy::UseKvDType(KvDType::F32).into()),
            });
        }
        let opened = CandleBackend::new().open_unchecked(files, options)?;
        Ok(Box::new(OpenedForDevice { opened, files: files.clone(), options: options.clone(), dtype: self.0 }))
    }
}

struct OpenedForDevice {
    opened: Box<dyn OpenedModel>,
    files: ModelFiles,
    options: LoadOptions,
    dtype: DType,
}

impl OpenedModel for OpenedForDevice {
    fn config(&self) -> &ModelConfig {
        self.opened.config()
    }

    fn dtype(&self) -> tandem_core::DType {
        self.opened.dtype()
    }

    fn footprint(&self) -> Result<EstimateFootprint> {
        self.opened.footprint()
    }

    fn options(&self) -> &LoadOptions {
        &self.options
    }

    fn load_unchecked(self: Box<Self>) -> Result<Arc<dyn Model>> {
        let config = self.config().clone();
        let info = self.opened.load_unchecked()?.info().clone();
        let threads = crate::device::threads(self.options.threads)?;
        let decoder = Box::new(DeviceDecoder::new(in_f32(&self.files, &config)?, self.dtype, &device()).unwrap());
        Ok(Arc::new(CandleModel { loaded: Arc::new(Loaded::new(decoder, threads, info, true)) }))
    }
}

#[test]
fn hidden_states_match_our_decoder() {
    for name in ["qwen3", "llama3-rope"] {
        let fixture = fixture(name);
        let own = CandleBackend::new().load(&fixture.files, &fixture.options).unwrap();
        let cancel = CancelToken::new();
        let batch = TokenBatch::new(&[tokens(7), tokens(1), tokens(30)]).unwrap();
        let (theirs, ours) = (fixture.load().encode(&batch, &cancel).unwrap(), own.encode(&batch, &cancel).unwrap());
        assert_eq!(theirs.lengths, ours.lengths);
        close(&theirs.values, &ours.values, 2e-5, name);
    }
}

#[test]
fn sliding_window_matches_our_decoder() {
    let directory = tempfile::tempdir().unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("mistral").join("config.json")).unwrap()).unwrap();
    config["sliding_window"] = 7.into();
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(golden("mistral").join("model.safetensors"), directory.path().join("model.safetensors")).unwrap();
    let files = ModelFiles::discover(directory.path(), "window").unwrap();
    let rows = |backend: &dyn Backend| {
        let model = backend.load(&files, &LoadOptions::default()).unwrap();
        let mut session = model.new_session(&SessionOptions::default()).unwrap();
        let mut rows = session.append(&tokens(40), LogitsRequest::All).unwrap().values().to_vec();
        rows.extend(session.append(&tokens(12), LogitsRequest::All).unwrap().values());
        rows.extend(session.append(&tokens(1), LogitsRequest::All).unwrap().values());
        rows
    };
    close(&rows(&ForDevice(DType::F32)), &rows(&CandleBackend::new()), 2e-5, "window of 7");
}

#[test]
fn half_precision_is_close_to_f32() {
    for (dtype, allowed) in [(DType::F16, 0.02), (DType::BF16, 0.15)] {
        let fixture = fixture("qwen2-tied");
        let last = |model: Arc<dyn Model>| {
            let mut session = model.new_session(&SessionOptions::default()).unwrap();
            session.append(&tokens(30), LogitsRequest::None).unwrap();
            session.append(&tokens(2)[..1], LogitsRequest::Last(1)).unwrap().values().to_vec()
        };
        let half = last(ForDevice(dtype).load(&fixture.files, &fixture.options).unwrap());
        close(&half, &last(fixture.load()), allowed, &format!("{dtype:?}"));
    }
}

#[test]
fn rotary_table_is_computed_in_f32_for_every_dtype() {
    // bf16 cannot represent 8000, so an angle computed in it would be off by whole turns.
    let files = fixture("qwen2-tied").files;
    let config = files.model_config().unwrap();
    let cosines = |dtype| {
        let decoder = DeviceDecoder::new(in_f32(&files, &config).unwrap(), dtype, &device()).unwrap();
        let rotation =
            decoder.rotation(&decoder.rotary, &Span { rows: 0..3, first_position: 8000, n_outputs: 3, chosen_for: 3 }).unwrap();
        rotation.cosines.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    close(&cosines(DType::BF16), &cosines(DType::F32), 0.005, "cosines");
}

fn device() -> Device {
    crate::device::open(conformance::device_under_test()).unwrap()
}

fn in_f32(files: &ModelFiles, config: &ModelConfig) -> Result<Decoder> {
    let checkpoint = Checkpoint::open(files)?;
    let arena = tandem_core::arena::Arena::default();
    let reader =
        CheckpointSource { checkpoint: &checkpoint, file: &files.name, bits: None, numerics: Numerics::Exact, arena: &arena };
    crate::weights::decoder(&reader, config)
}

#[track_caller]
fn close(computed: &[f32], expected: &[f32], allowed: f32, what: &str) {
    assert_eq!(computed.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let difference = computed.iter().zip(expected).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(difference <= allowed * scale, "{what}: {}", difference / scale);
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| i * 37 % 280).collect()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

fn fixture(name: &str) -> Fixture {
    Fixture {
        backend: Box::new(ForDevice(DType::F32)),
        files: ModelFiles::discover(&golden(name), name).unwrap(),
        options: LoadOptions::default(),
        tolerance: 2e-5,
        golden: Some(Golden::read(&golden(name), Golden::MADE)),
    }
}
