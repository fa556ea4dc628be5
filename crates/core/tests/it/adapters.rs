//! Adapters: those of `goldens/adapters`, in every form and back, and damaged ones.

mod bad;
mod forms;
mod merge;
mod written;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tandem_core::adapter::{Adapter, AdapterFiles, LowRankFactors};
use tandem_core::config::ModelConfig;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens")
}

/// An adapter of `goldens/adapters` and what PEFT says of it.
struct Golden {
    directory: PathBuf,
    base: PathBuf,
    record: Value,
}

impl Golden {
    fn all() -> Vec<Self> {
        let mut all: Vec<_> = std::fs::read_dir(goldens().join("adapters")).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        assert!(all.len() > 10, "goldens are missing");
        all.into_iter().map(Self::at).collect()
    }

    fn named(name: &str) -> Self {
        Self::at(goldens().join("adapters").join(name))
    }

    fn at(directory: PathBuf) -> Self {
        let record: Value = serde_json::from_slice(&std::fs::read(directory.join("golden.json")).unwrap()).unwrap();
        Self { base: goldens().join(record["base"].as_str().unwrap()), record, directory }
    }

    fn name(&self) -> &str {
        self.directory.file_name().unwrap().to_str().unwrap()
    }

    fn config(&self) -> ModelConfig {
        ModelConfig::from_json("config.json", &std::fs::read(self.base.join("config.json")).unwrap()).unwrap()
    }

    /// As PEFT saved it.
    fn adapter(&self) -> Arc<Adapter> {
        Arc::new(read(&self.directory, None))
    }

    /// In another form, if it has that: `mlx`, `onnx`, `gguf`.
    fn form(&self, form: &str) -> Option<Adapter> {
        let directory = self.directory.join(form);
        directory.is_dir().then(|| read(&directory, Some(&self.config())))
    }
}

fn read(path: &Path, base: Option<&ModelConfig>) -> Adapter {
    AdapterFiles::discover(path, "mine").unwrap().read(base).unwrap()
}

/// `scale * B A`, `[outputs, inputs]`.
fn product(factors: &LowRankFactors) -> Vec<f32> {
    let (inputs, outputs) = (factors.inputs(), factors.outputs());
    let cell = |row: usize, column: usize| {
        let terms =
            (0..factors.rank).map(|r| f64::from(factors.b[row * factors.rank + r]) * f64::from(factors.a[r * inputs + column]));
        (f64::from(factors.scale) * terms.sum::<f64>()) as f32
    };
    (0..outputs * inputs).map(|i| cell(i / inputs, i % inputs)).collect()
}

/// The largest difference over the largest expected value.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let furthest = got.iter().zip(expected).fold(0.0_f32, |furthest, (a, b)| furthest.max((a - b).abs()));
    furthest / largest
}
