//! Exports a checkpoint directory (`config.json` and one `model.safetensors`) to a directory with an ONNX graph:
//! `cargo run -p tandem-onnx-graph --example build -- CHECKPOINT DIRECTORY [NAME=VALUE]...`, with any of
//! `weights=f32|f16|int8|int4`, `head=` the same, `block=16|32|64|128`, `zero=middle|free`, `outputs=logits|hidden|both` and
//! `activations=int8|float`.
//!
//! It reads what the goldens need of a config; the backend reads every config, by way of `tandem-core`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;
use tandem_onnx_graph::{
    Activations, Blocks, BuildOptions, DecoderSpec, Graph, Outputs, RopeTable, SourceError, Weight, WeightFormat, WeightType,
    export,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, directory, rest @ ..] = arguments.as_slice() else { return Err("two paths are needed".into()) };
    let asked: HashMap<&str, &str> =
        rest.iter().map(|pair| pair.split_once('=').ok_or("NAME=VALUE")).collect::<Result<_, _>>()?;
    let config: Value = serde_json::from_slice(&std::fs::read(Path::new(checkpoint).join("config.json"))?)?;
    let mut stored = Stored::open(&Path::new(checkpoint).join("model.safetensors"))?;
    let spec = spec(checkpoint, &config, &stored.metadata);
    let path = export(&spec, &options(checkpoint, &asked)?, &mut |name| stored.read(name), Path::new(directory))?;
    if asked.get("activations") == Some(&"float") {
        let graph = Graph::open(&path)?;
        let mut edit = graph.edit();
        edit.set_activations(Activations::Float);
        let bytes = edit.to_bytes()?;
        drop(graph);
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

fn options(checkpoint: &str, asked: &HashMap<&str, &str>) -> Result<BuildOptions, Box<dyn Error>> {
    let weights = format(asked.get("weights").copied().unwrap_or("f32"))?;
    Ok(BuildOptions {
        outputs: match asked.get("outputs").copied().unwrap_or("logits") {
            "hidden" => Outputs::HiddenStates,
            "both" => Outputs::LogitsAndHiddenStates,
            _ => Outputs::Logits,
        },
        weights,
        head: asked.get("head").map_or(Ok(weights), |name| format(name))?,
        blocks: Blocks {
            size: asked.get("block").map_or(Ok(32), |size| size.parse())?,
            symmetric: asked.get("zero") != Some(&"free"),
        },
        metadata: vec![("source".to_owned(), checkpoint.to_owned())],
    })
}

fn format(name: &str) -> Result<WeightFormat, Box<dyn Error>> {
    match name {
        "f32" => Ok(WeightFormat::F32),
        "f16" => Ok(WeightFormat::F16),
        "int8" => Ok(WeightFormat::Int8),
        "int4" => Ok(WeightFormat::Int4),
        other => Err(format!("no format `{other}`").into()),
    }
}

/// A file of weights that are read one at a time, so that memory holds no more.
struct Stored {
    file: File,
    metadata: Metadata,
    /// Where the first weight begins.
    start: u64,
}

impl Stored {
    fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut header = vec![0; usize::try_from(u64::from_le_bytes(length))?];
        file.read_exact(&mut header)?;
        Ok(Self { metadata: serde_json::from_slice(&header)?, start: 8 + header.len() as u64, file })
    }

    fn read(&mut self, name: &str) -> Result<Weight<'static>, SourceError> {
        let info = self.metadata.info(name).ok_or("it is not there")?;
        let kind = match info.dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::F16 => WeightType::F16,
            Dtype::BF16 => WeightType::Bf16,
            other => return Err(format!("its type is {other:?}").into()),
        };
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.file.seek(SeekFrom::Start(self.start + from as u64))?;
        self.file.read_exact(&mut bytes)?;
        Ok(Weight { kind, shape: info.shape.clone(), bytes: Cow::Owned(bytes) })
    }
}

fn spec(name: &str, config: &Value, tensors: &Metadata) -> DecoderSpec {
    let size = |field: &str| config[field].as_u64().map(|value| value as usize);
    let has = |name: &str| tensors.info(name).is_some();
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
