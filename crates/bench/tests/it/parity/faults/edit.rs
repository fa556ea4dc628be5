//! A copy of a golden checkpoint in which something is changed.

use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::golden;

pub(super) struct Copy {
    directory: TempDir,
    config: Value,
    /// Name, type, shape and values.
    weights: Vec<(String, Dtype, Vec<usize>, Vec<f32>)>,
}

impl Copy {
    pub(super) fn new(name: &str) -> Self {
        let (from, directory) = (golden(name), tempfile::tempdir().unwrap());
        copy_files(&from, directory.path());
        let config = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
        let bytes = fs::read(from.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let weights = tensors
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.dtype(), tensor.shape().to_vec(), values(&tensor)))
            .collect();
        Self { directory, config, weights }
    }

    pub(super) fn config(&mut self, key: &str, value: impl Into<Value>) {
        self.config[key] = value.into();
    }

    pub(super) fn config_within(&mut self, outer: &str, key: &str, value: impl Into<Value>) {
        assert!(self.config[outer].is_object());
        self.config[outer][key] = value.into();
    }

    pub(super) fn weight(&mut self, name: &str, change: impl Fn(&mut [f32])) {
        let weight = self.weights.iter_mut().find(|weight| weight.0 == name).unwrap();
        let before = weight.3.clone();
        change(&mut weight.3);
        assert_ne!(weight.3, before, "`{name}` is changed");
    }

    pub(super) fn transpose(&mut self, name: &str) {
        let shape = self.weights.iter().find(|weight| weight.0 == name).unwrap().2.clone();
        assert_eq!(shape[0], shape[1], "only of a square one the shape stays the same");
        self.weight(name, |values| {
            let before = values.to_vec();
            (0..values.len()).for_each(|i| values[i] = before[i % shape[0] * shape[0] + i / shape[0]]);
        });
    }

    pub(super) fn swap(&mut self, left: &str, right: &str) {
        let place = |name: &str| self.weights.iter().position(|weight| weight.0 == name).unwrap();
        let (left, right) = (place(left), place(right));
        assert_eq!(self.weights[left].2, self.weights[right].2);
        let values = std::mem::take(&mut self.weights[left].3);
        self.weights[left].3 = std::mem::replace(&mut self.weights[right].3, values);
    }

    /// Writes the files and gives the directory, which lives as long as the copy.
    pub(super) fn write(&self) -> &str {
        let directory = self.directory.path();
        fs::write(directory.join("config.json"), serde_json::to_vec_pretty(&self.config).unwrap()).unwrap();
        // Stored as f32: a change need not lie on the grid of what it was stored in.
        let bytes: Vec<Vec<u8>> =
            self.weights.iter().map(|weight| weight.3.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
        let views = self
            .weights
            .iter()
            .zip(&bytes)
            .map(|(weight, bytes)| (weight.0.as_str(), TensorView::new(Dtype::F32, weight.2.clone(), bytes).unwrap()));
        fs::write(directory.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        directory.to_str().unwrap()
    }
}

/// Copies all but graphs.
fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let (name, to) = (entry.file_name(), to.join(entry.file_name()));
        if !entry.file_type().unwrap().is_dir() {
            fs::copy(entry.path(), &to).unwrap();
        } else if name != "onnx" {
            fs::create_dir(&to).unwrap();
            copy_files(&entry.path(), &to);
        }
    }
}

fn values(tensor: &TensorView<'_>) -> Vec<f32> {
    match tensor.dtype() {
        Dtype::F32 => tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::BF16 => {
            let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            tensor.data().as_chunks().0.iter().map(wide).collect()
        }
        other => panic!("{other:?} among the goldens"),
    }
}
