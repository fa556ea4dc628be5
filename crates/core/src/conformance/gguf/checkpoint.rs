//! From a checkpoint to a GGUF file, in the manner of llama.cpp's `convert_hf_to_gguf.py`.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::GgufWriter;
use crate::gguf::{Gguf, TensorType};

/// Stores the values of a weight, `(name in the GGUF, shape with the rows first, values)`, in a type: its bytes.
pub type Store<'s> = &'s dyn Fn(&str, &[usize], &[f32]) -> (TensorType, Vec<u8>);

/// Keys of every architecture, and the fields they come from.
const NUMBERS: [(&str, &str); 6] = [
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("context_length", "max_position_embeddings"),
];

impl GgufWriter {
    /// The checkpoint in `directory` with the weights as `store` makes them. Vectors should stay F32, as llama.cpp's do.
    ///
    /// # Panics
    /// When the checkpoint is not as `training/goldens` writes them.
    pub fn of_checkpoint(directory: &Path, store: Store<'_>) -> Self {
        let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
        let json = |name: &str| -> Value { serde_json::from_slice(&read(name)).unwrap() };
        let config = json("config.json");
        let mut writer = Self::default();
        let architecture = writer.configuration(&config);
        if directory.join("tokenizer.json").is_file() {
            writer.tokenizer(&json("tokenizer.json"), &json("tokenizer_config.json"), &architecture);
        }
        let heads = |field: &str| config[field].as_u64().unwrap() as usize;
        let bytes = read("model.safetensors");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (published, view) in tensors.iter() {
            let mut values = floats(view.dtype(), view.data());
            // Embedding models lack the prefix.
            let name = Gguf::name_of(published).or_else(|| Gguf::name_of(&format!("model.{published}"))).unwrap();
            if architecture == "llama" && published.contains(".q_proj.") {
                values = interleaved(&values, view.shape(), heads("num_attention_heads"));
            } else if architecture == "llama" && published.contains(".k_proj.") {
                values = interleaved(&values, view.shape(), heads("num_key_value_heads"));
            }
            let (kind, bytes) = store(&name, view.shape(), &values);
            writer.tensor(&name, view.shape(), kind, bytes);
        }
        writer
    }

    fn configuration(&mut self, config: &Value) -> String {
        // Mistral's files call themselves so.
        let architecture = config["model_type"].as_str().unwrap().replace("mistral", "llama");
        self.string("general.architecture", &architecture);
        let key = |name: &str| format!("{architecture}.{name}");
        for (name, field) in NUMBERS {
            self.u32(&key(name), config[field].as_u64().unwrap() as u32);
        }
        let head_dim = config["head_dim"].as_u64().map(|head_dim| head_dim as u32);
        if let Some(head_dim) = head_dim {
            self.u32(&key("attention.key_length"), head_dim);
            self.u32(&key("attention.value_length"), head_dim);
        }
        self.f32(&key("attention.layer_norm_rms_epsilon"), config["rms_norm_eps"].as_f64().unwrap() as f32);
        let rope = ["rope_scaling", "rope_parameters"].into_iter().map(|field| &config[field]).find(|rope| rope.is_object());
        let theta = rope.and_then(|rope| rope["rope_theta"].as_f64()).or(config["rope_theta"].as_f64());
        self.f32(&key("rope.freq_base"), theta.unwrap_or(10_000.0) as f32);
        let Some(rope) = rope else { return architecture };
        let number = |field: &str| rope[field].as_f64().unwrap();
        match rope["rope_type"].as_str() {
            Some(kind @ ("linear" | "yarn")) => {
                self.string(&key("rope.scaling.type"), kind);
                self.f32(&key("rope.scaling.factor"), number("factor") as f32);
                if kind == "yarn" {
                    self.u32(&key("rope.scaling.original_context_length"), number("original_max_position_embeddings") as u32);
                }
            }
            Some("llama3") => {
                let n = head_dim.unwrap() as usize / 2;
                let factors: Vec<f32> = (0..n).map(|i| llama3_factor(rope, theta.unwrap(), i, n)).collect();
                self.tensor("rope_freqs.weight", &[n], TensorType::F32, factors.iter().flat_map(|f| f.to_le_bytes()).collect());
            }
            _ => {}
        }
        architecture
    }

    fn tokenizer(&mut self, file: &Value, config: &Value, architecture: &str) {
        self.string("tokenizer.ggml.model", "gpt2");
        self.string("tokenizer.ggml.pre", if architecture == "llama" { "llama-bpe" } else { "qwen2" });
        let mut tokens: Vec<(u64, String, i32)> = file["model"]["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(text, id)| (id.as_u64().unwrap(), text.clone(), 1))
            .collect();
        for added in file["added_tokens"].as_array().unwrap() {
            let (id, text) = (added["id"].as_u64().unwrap(), added["content"].as_str().unwrap());
            tokens.retain(|(other, _, _)| *other != id);
            tokens.push((id, text.to_owned(), if added["special"] == true { 3 } else { 4 }));
        }
        tokens.sort();
        let id_of = |field: &str| {
            tokens.iter().find(|(_, text, _)| Some(text.as_str()) == config[field].as_str()).map(|(id, _, _)| *id as u32)
        };
        let ids = [("bos", id_of("bos_token")), ("eos", id_of("eos_token")), ("padding", id_of("pad_token"))];
        let texts: Vec<&String> = tokens.iter().map(|(_, text, _)| text).collect();
        self.strings("tokenizer.ggml.tokens", &texts);
        self.i32s("tokenizer.ggml.token_type", &tokens.iter().map(|(_, _, kind)| *kind).collect::<Vec<_>>());
        let merge = |merge: &Value| match merge.as_array() {
            Some(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            None => merge.as_str().unwrap().to_owned(),
        };
        let merges: Vec<String> = file["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
        self.strings("tokenizer.ggml.merges", &merges);
        for (name, id) in ids {
            if let Some(id) = id {
                self.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
        if let Some(template) = config["chat_template"].as_str() {
            self.string("tokenizer.chat_template", template);
        }
    }
}

/// Rows as `LlamaModel.permute` puts them: the halves of each head in turn.
fn interleaved(values: &[f32], shape: &[usize], n_heads: usize) -> Vec<f32> {
    let columns = shape.get(1).copied().unwrap_or(1);
    let half = shape[0] / n_heads / 2;
    let row = |head: usize, part: usize, i: usize| &values[((head * 2 + part) * half + i) * columns..][..columns];
    let heads = (0..n_heads).flat_map(|head| (0..half).flat_map(move |i| [(head, 0, i), (head, 1, i)]));
    heads.flat_map(|(head, part, i)| row(head, part, i)).copied().collect()
}

/// What Llama 3 divides frequency `i` of `n` by: `LlamaModel.generate_extra_tensors`.
fn llama3_factor(rope: &Value, theta: f64, i: usize, n: usize) -> f32 {
    let number = |field: &str| rope[field].as_f64().unwrap();
    let wavelength = 2.0 * std::f64::consts::PI * theta.powf(i as f64 / n as f64);
    let (low, high, context) =
        (number("low_freq_factor"), number("high_freq_factor"), number("original_max_position_embeddings"));
    if wavelength < context / high {
        1.0
    } else if wavelength > context / low {
        number("factor") as f32
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        (1.0 / ((1.0 - smooth) / number("factor") + smooth)) as f32
    }
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect(),
        other => panic!("goldens have no weights of {other:?}"),
    }
}
