//! Exports a checkpoint directory (`config.json` and one `model.safetensors`) to a directory with an ONNX graph:
//! `cargo run -p tandem-onnx-graph --example build -- CHECKPOINT DIRECTORY [f32|f16|int8|int4] [logits|hidden|both] [HEAD FORMAT] [int8|float]`.
//!
//! It reads what the goldens need of a config; the backend reads every config, by way of `tandem-core`.

use std::borrow::Cow;
use std::error::Error;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tandem_onnx_graph::{
    Activations, BuildOptions, DecoderSpec, Graph, Outputs, RopeTable, SourceError, Weight, WeightFormat, WeightType, export,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, directory, rest @ ..] = arguments.as_slice() else { return Err("two paths are needed".into()) };
    let config: Value = serde_json::from_slice(&std::fs::read(Path::new(checkpoint).join("config.json"))?)?;
    let bytes = std::fs::read(Path::new(checkpoint).join("model.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let weights = format(rest.first())?;
    let outputs = match rest.get(1).map_or("logits", String::as_str) {
        "hidden" => Outputs::HiddenStates,
        "both" => Outputs::LogitsAndHiddenStates,
        _ => Outputs::Logits,
    };
    let head = rest.get(2).map_or(Ok(weights), |name| format(Some(name)))?;
    let metadata = vec![("source".to_owned(), checkpoint.clone())];
    let options = BuildOptions { outputs, weights, head, metadata };
    let spec = spec(checkpoint, &config, &tensors);
    let path = export(&spec, &options, &mut |name| read(&tensors, name), Path::new(directory))?;
    if rest.get(3).is_some_and(|name| name == "float") {
        let graph = Graph::open(&path)?;
        let mut edit = graph.edit();
        edit.set_activations(Activations::Float);
        let bytes = edit.to_bytes()?;
        drop(graph);
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

fn format(name: Option<&String>) -> Result<WeightFormat, Box<dyn Error>> {
    match name.map_or("f32", String::as_str) {
        "f32" => Ok(WeightFormat::F32),
        "f16" => Ok(WeightFormat::F16),
        "int8" => Ok(WeightFormat::Int8),
        "int4" => Ok(WeightFormat::Int4),
        other => Err(format!("no format `{other}`").into()),
    }
}

fn read<'t>(tensors: &SafeTensors<'t>, name: &str) -> Result<Weight<'t>, SourceError> {
    let tensor = tensors.tensor(name)?;
    let kind = match tensor.dtype() {
        Dtype::F32 => WeightType::F32,
        Dtype::F16 => WeightType::F16,
        Dtype::BF16 => WeightType::Bf16,
        other => return Err(format!("its type is {other:?}").into()),
    };
    Ok(Weight { kind, shape: tensor.shape().to_vec(), bytes: Cow::Borrowed(tensor.data()) })
}

fn spec(name: &str, config: &Value, tensors: &SafeTensors<'_>) -> DecoderSpec {
    let size = |field: &str| config[field].as_u64().map(|value| value as usize);
    let has = |name: &str| tensors.tensor(name).is_ok();
    let (n_heads, hidden_size) = (size("num_attention_heads").unwrap_or(1), size("hidden_size").unwrap_or(1));
    let head_dim = size("head_dim").unwrap_or(hidden_size / n_heads);
    let n_layers = size("num_hidden_layers").unwrap_or(0);
    let window = size("sliding_window").filter(|_| config["use_sliding_window"].as_bool().unwrap_or(true));
    DecoderSpec {
        name: name.to_owned(),
        prefix: "model.".into(),
        n_layers,
        vocab_size: size("vocab_size").unwrap_or(0),
        hidden_size,
        intermediate_size: size("intermediate_size").unwrap_or(0),
        n_heads,
        n_kv_heads: size("num_key_value_heads").unwrap_or(n_heads),
        head_dim,
        rms_norm_eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
        qkv_bias: has("model.layers.0.self_attn.q_proj.bias"),
        qk_norm: has("model.layers.0.self_attn.q_norm.weight"),
        attention_output_bias: has("model.layers.0.self_attn.o_proj.bias"),
        mlp_bias: has("model.layers.0.mlp.gate_proj.bias"),
        tie_word_embeddings: !has("lm_head.weight"),
        rope: RopeTable {
            inverse_frequencies: inverse_frequencies(config, head_dim),
            attention_scaling: 1.0,
            n_positions: size("max_position_embeddings").unwrap_or(2048),
        },
        layer_windows: vec![window; n_layers],
    }
}

/// The plain frequencies, and those of Llama 3, by `_compute_llama3_parameters` of transformers.
fn inverse_frequencies(config: &Value, head_dim: usize) -> Vec<f32> {
    let parameters = if config["rope_parameters"].is_null() { config } else { &config["rope_parameters"] };
    let scaling = if config["rope_scaling"].is_null() { parameters } else { &config["rope_scaling"] };
    let theta = parameters["rope_theta"].as_f64().unwrap_or(10_000.0) as f32;
    let number = |field: &str| scaling[field].as_f64().unwrap_or(1.0) as f32;
    let is_llama3 = scaling["rope_type"] == "llama3";
    let (factor, low, high, original) =
        (number("factor"), number("low_freq_factor"), number("high_freq_factor"), number("original_max_position_embeddings"));
    let plain = (0..head_dim / 2).map(|pair| theta.powf(2.0 * pair as f32 / head_dim as f32).recip());
    plain
        .map(|frequency| {
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            match is_llama3 {
                true if wavelength > original / low => frequency / factor,
                true if wavelength >= original / high => {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
                _ => frequency,
            }
        })
        .collect()
}
