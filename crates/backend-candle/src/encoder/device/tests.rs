//! The goldens, and comparisons with our own encoder: with the same operations of candle on the processor as on a GPU, or on the GPU that
//! `TANDEM_TEST_DEVICE` names.

use std::path::Path;

use serde_json::Value;
use tandem_core::arena::Arena;
use tandem_core::backend::{LoadOptions, Numerics};
use tandem_core::checkpoint::Checkpoint;
use tandem_core::conformance::device_under_test;
use tandem_core::embedding::{EmbedOptions, Embedder, EmbeddingConfig};
use tandem_core::files::ModelFiles;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{Backend, Capabilities};

use super::*;
use crate::CandleBackend;

/// Every family that has an encoder of its own.
const FAMILIES: [&str; 7] = ["bert-mean", "bert-cls", "roberta", "xlm-roberta", "mpnet", "distilbert", "modernbert"];

fn files(name: &str) -> ModelFiles {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/embedders").join(name);
    ModelFiles::discover(&directory, name).unwrap()
}

fn model(name: &str, dtype: DType) -> Arc<dyn Model> {
    let (files, arena) = (files(name), Arena::default());
    let config = files.model_config().unwrap();
    let checkpoint = Checkpoint::open(&files).unwrap();
    let source =
        CheckpointSource { checkpoint: &checkpoint, file: &files.name, bits: None, numerics: Numerics::Fast, arena: &arena };
    let device = crate::device::open(device_under_test()).unwrap();
    let encoder = DeviceEncoder::load(&source, &config, dtype, &device).unwrap();
    let threads = crate::device::threads(None).unwrap();
    let mut info = crate::backend::info(&files, &config, &LoadOptions::new(), tandem_core::DType::F32, 1).unwrap();
    info.capabilities = Capabilities::of(&[Capability::HiddenStates]);
    Arc::new(DeviceEncoderModel { encoder, threads, info })
}

/// The largest difference, of the largest value.
fn furthest(values: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(values.len(), expected.len());
    let largest = expected.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
    values.iter().zip(expected).fold(0_f32, |furthest, (a, b)| furthest.max((a - b).abs())) / largest
}

#[test]
fn device_encoder_embeds_as_sentence_transformers() {
    for name in FAMILIES {
        let files = files(name);
        let tokenizer = files.tokenizer.as_ref().unwrap().read(1 << 26).unwrap();
        let tokenizer = Tokenizer::from_json(&tokenizer, "tokenizer.json").unwrap();
        let config = EmbeddingConfig::read(&files, &files.model_config().unwrap(), None).unwrap();
        let embedder = Embedder::new(model(name, DType::F32), tokenizer, &files, config).unwrap();
        let expected: Value = serde_json::from_slice(&files.beside("expected.json").unwrap().read(1 << 26).unwrap()).unwrap();
        let case = &expected["cases"][0];
        let texts: Vec<String> = serde_json::from_value(case["texts"].clone()).unwrap();
        let vectors: Vec<Vec<f32>> = serde_json::from_value(case["embeddings"].clone()).unwrap();
        let embeddings = embedder.embed(&texts, &EmbedOptions::default()).unwrap();
        for (own, expected) in embeddings.vectors().zip(&vectors) {
            assert!(furthest(own, expected) < 1e-4, "{name}: {}", furthest(own, expected));
        }
    }
}

#[test]
fn device_encoder_matches_our_encoder() {
    for name in FAMILIES {
        let own = CandleBackend::new().load(&files(name), &LoadOptions::new()).unwrap();
        let most = own.info().max_context as u32;
        let ids = |n: u32| (0..n.min(most)).map(|i| (i * 37 + 11) % own.info().vocab_size as u32).collect::<Vec<_>>();
        let batch = TokenBatch::new(&[ids(7), ids(1), ids(100)]).unwrap();
        let states = |model: &dyn Model| model.encode(&batch, &CancelToken::new()).unwrap();
        let expected = states(&*own);
        for (dtype, allowed) in [(DType::F32, 2e-5), (DType::F16, 0.02), (DType::BF16, 0.15)] {
            let found = states(&*model(name, dtype));
            assert_eq!(found.lengths, expected.lengths);
            let furthest = furthest(&found.values, &expected.values);
            assert!(furthest < allowed && (dtype == DType::F32 || furthest > 0.0), "{name} {dtype:?}: {furthest}");
        }
    }
}

#[test]
fn token_types_and_cancelling_reach_the_device_encoder() {
    let (own, found) =
        (CandleBackend::new().load(&files("bert-mean"), &LoadOptions::new()).unwrap(), model("bert-mean", DType::F32));
    let batch = TokenBatch::new(&[[5, 6, 7, 8]]).unwrap().with_types(vec![0, 0, 1, 1]);
    let states = |model: &dyn Model| model.encode(&batch, &CancelToken::new()).unwrap().values;
    assert!(furthest(&states(&*found), &states(&*own)) < 2e-5);
    let cancel = CancelToken::new();
    cancel.cancel();
    assert!(matches!(found.encode(&batch, &cancel), Err(Error::Cancelled)));
}
