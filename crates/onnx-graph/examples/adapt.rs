//! Adds a PEFT adapter to a graph: `cargo run -p tandem-onnx-graph --example adapt -- model.onnx ADAPTER adapted.onnx`, where
//! `ADAPTER` holds `adapter_config.json` and `adapter_model.safetensors` with 32-bit floats. The result goes beside the graph.

use std::error::Error;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use tandem_onnx_graph::{Graph, LowRank};

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [from, adapter, to] = paths.as_slice() else { return Err("three paths are needed".into()) };
    let config: Value = serde_json::from_slice(&std::fs::read(Path::new(adapter).join("adapter_config.json"))?)?;
    let bytes = std::fs::read(Path::new(adapter).join("adapter_model.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let floats = |name: &str| -> Result<Vec<f32>, Box<dyn Error>> {
        Ok(tensors.tensor(name)?.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    let mut factors = Vec::new();
    for name in tensors.names() {
        if let Some(module) = name.strip_suffix(".lora_A.weight") {
            let b = floats(&format!("{module}.lora_B.weight"))?;
            factors.push((module, tensors.tensor(name)?.shape()[0], floats(name)?, b));
        }
    }
    let alpha = config["lora_alpha"].as_f64().ok_or("no `lora_alpha`")? as f32;
    let updates: Vec<_> =
        factors.iter().map(|(module, rank, a, b)| LowRank { module, rank: *rank, a, b, scale: alpha / *rank as f32 }).collect();
    let graph = Graph::open(Path::new(from))?;
    let mut edit = graph.edit();
    edit.add_low_rank(&updates)?;
    std::fs::write(to, edit.to_bytes()?)?;
    Ok(())
}
