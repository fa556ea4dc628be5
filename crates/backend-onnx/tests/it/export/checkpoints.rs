//! Checkpoints for tests, made of the golden ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// The golden checkpoints that a graph can be made of.
pub(crate) const GOLDENS: [&str; 5] = ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "mistral"];

/// The directory of a golden checkpoint.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

/// A checkpoint in memory, to be changed and written.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub(crate) config: Value,
    pub(crate) weights: BTreeMap<String, Weight>,
}

#[derive(Clone)]
pub(crate) struct Weight {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Checkpoint {
    pub(crate) fn of_golden(name: &str) -> Self {
        let directory = golden(name);
        let config = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
        let bytes = fs::read(directory.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let weights = tensors.iter().map(|(name, view)| {
            (name.to_owned(), Weight { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() })
        });
        Self { config, weights: weights.collect() }
    }

    /// Every weight after `change`, which is given the values as floats.
    pub(crate) fn map(&self, change: impl Fn(&[f32]) -> (Dtype, Vec<u8>)) -> Self {
        let mut changed = self.clone();
        for weight in changed.weights.values_mut() {
            (weight.dtype, weight.bytes) = change(&weight.floats());
        }
        changed
    }

    /// Writes `config.json` and one `model.safetensors`.
    pub(crate) fn write(&self, directory: &Path) {
        self.write_config(directory);
        write_weights(&directory.join("model.safetensors"), self.weights.iter());
    }

    /// Writes `config.json`, an index, and shards to which the weights go in turn.
    pub(crate) fn write_sharded(&self, directory: &Path, n_shards: usize) {
        self.write_config(directory);
        let file = |shard: usize| format!("model-{:05}-of-{n_shards:05}.safetensors", shard + 1);
        let mut map = serde_json::Map::new();
        for shard in 0..n_shards {
            let part = || self.weights.iter().skip(shard).step_by(n_shards);
            write_weights(&directory.join(file(shard)), part());
            map.extend(part().map(|(name, _)| (name.clone(), json!(file(shard)))));
        }
        let index = json!({ "metadata": {}, "weight_map": map });
        fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    fn write_config(&self, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("config.json"), self.config.to_string()).unwrap();
    }
}

impl Weight {
    pub(crate) fn floats(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::BF16 => self.bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => panic!("goldens have no {other:?}"),
        }
    }
}

fn write_weights<'w>(path: &Path, weights: impl Iterator<Item = (&'w String, &'w Weight)>) {
    let views = weights.map(|(name, weight)| (name, TensorView::new(weight.dtype, weight.shape.clone(), &weight.bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
