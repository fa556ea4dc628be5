//! BERT against candle-transformers' on the same weights.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tandem_core::backend::TokenBatch;
use tandem_core::{CancelToken, LoadOptions};

#[test]
fn bert_matches_candle_transformers() {
    let directory = crate::golden("embedders/bert-mean");
    let config: Config = serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
    let weights: HashMap<String, Tensor> =
        candle_core::safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap();
    let oracle = BertModel::load(VarBuilder::from_tensors(weights, candle_core::DType::F32, &Device::Cpu), &config).unwrap();
    let model = crate::load(&directory, &LoadOptions::new()).unwrap();
    let info = model.info();
    for n in [1, 16, 17, 33, 64] {
        let ids: Vec<u32> = (0..n).map(|i| (i * 37 + 11) % info.vocab_size as u32).collect();
        let types: Vec<u32> = (0..n).map(|i| u32::from(i > n / 2)).collect();
        let batch = TokenBatch::new(&[&ids]).unwrap().with_types(types.clone());
        let own = model.encode(&batch, &CancelToken::new()).unwrap();
        let row = |values: &[u32]| Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let expected = oracle.forward(&row(&ids), &row(&types), None).unwrap();
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
        for (own, expected) in own.values.iter().zip(&expected) {
            assert!((own - expected).abs() < 1e-4, "{n}: {own} {expected}");
        }
    }
}
