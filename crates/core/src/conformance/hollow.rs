//! Checkpoints of any size that take no disk space: their weights are zeros in a sparse file.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::ModelConfig;

/// Writes a `config.json` with `config` and a `model.safetensors` of zeros in bf16 for it into `directory`.
pub fn write_hollow_checkpoint(directory: &Path, config: &Value) {
    let config = config.to_string();
    fs::write(directory.join("config.json"), &config).unwrap();
    let (mut end, mut header) = (0, Map::new());
    for weight in ModelConfig::from_json("config.json", config.as_bytes()).unwrap().expected_weights() {
        let start = end;
        end += 2 * weight.shape.iter().product::<usize>();
        header.insert(weight.name, json!({ "dtype": "BF16", "shape": weight.shape, "data_offsets": [start, end] }));
    }
    let header = Value::from(header).to_string();
    let mut file = File::create(directory.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}
