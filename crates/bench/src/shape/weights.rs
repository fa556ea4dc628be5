//! Random weights, written one block after the other as safetensors of bf16.
//!
//! The format: <https://huggingface.co/docs/safetensors/index>. Weights have the deviation that the published models begin with, norms
//! are one; names are those of transformers' Qwen2, Qwen3 and Llama.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use tandem_core::config::{ExpectedWeight, WeightRole};
use tandem_core::{CancelToken, Error, Result};

/// `initializer_range` of the published configurations.
const DEVIATION: f64 = 0.02;

/// Values of the normal distribution to draw from: bf16 tells no more apart.
const N_VALUES: usize = 1 << 12;

/// How many values are drawn between two looks at whether to go on.
const BLOCK: usize = 1 << 19;

/// Bytes of `weight` in the file.
pub(super) fn bytes(weight: &ExpectedWeight) -> u64 {
    2 * n_values(weight) as u64
}

fn n_values(weight: &ExpectedWeight) -> usize {
    weight.shape.iter().product()
}

/// Writes the weights of `tensors` to a new file at `path`.
///
/// # Errors
/// [`Error::BadFile`] when it cannot be written, [`Error::Cancelled`].
pub(super) fn write(tensors: &[ExpectedWeight], path: &Path, progress: &mut dyn FnMut(u64), cancel: &CancelToken) -> Result<()> {
    let failed = |error: std::io::Error| Error::bad_file(path.display().to_string(), "cannot be written", error);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    file.write_all(&header(tensors)).map_err(failed)?;
    let values = normal_values();
    let (mut block, mut written) = (Vec::with_capacity(2 * BLOCK), 0);
    for tensor in tensors {
        let mut random = Random::of(&tensor.name);
        let mut left = n_values(tensor);
        while left > 0 {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let n = left.min(BLOCK);
            block.clear();
            if tensor.role == WeightRole::Norm {
                block.extend(std::iter::repeat_n(bf16::ONE.to_le_bytes(), n).flatten());
            } else {
                random.fill(n, &values, &mut block);
            }
            file.write_all(&block).map_err(failed)?;
            left -= n;
            written += block.len() as u64;
            progress(written);
        }
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)
}

/// Its length, then a JSON object with dtype, shape and place of every weight, padded to whole words.
fn header(tensors: &[ExpectedWeight]) -> Vec<u8> {
    let mut from = 0;
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    for tensor in tensors {
        let to = from + bytes(tensor);
        entries
            .insert(tensor.name.clone(), serde_json::json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [from, to]}));
        from = to;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

/// [`N_VALUES`] values of the normal distribution, each as likely as the next: its quantiles, as the sum of 12 uniform numbers has them
/// to within what bf16 tells apart.
fn normal_values() -> Vec<[u8; 2]> {
    let mut random = Random(1);
    let mut uniform = || (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
    (0..N_VALUES).map(|_| bf16::from_f64(((0..12).map(|_| uniform()).sum::<f64>() - 6.0) * DEVIATION).to_le_bytes()).collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014), begun with a hash of a name: a weight does not depend on the others.
struct Random(u64);

impl Random {
    /// The hash is FNV-1a.
    fn of(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Appends `n` of `values`; a number is good for five of them.
    fn fill(&mut self, n: usize, values: &[[u8; 2]], block: &mut Vec<u8>) {
        let mut bits = 0;
        for i in 0..n {
            if i % 5 == 0 {
                bits = self.next();
            }
            block.extend(values[bits as usize % N_VALUES]);
            bits >>= N_VALUES.ilog2();
        }
    }
}

#[cfg(test)]
mod tests {
    use tandem_core::config::ModelConfig;

    use super::*;
    use tandem_core::DType;
    use tandem_core::checkpoint::Checkpoint;
    use tandem_core::files::ModelFiles;

    const CONFIG: &str = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": 300,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu"}"#;

    #[test]
    fn a_checkpoint_is_read_back_and_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let config = ModelConfig::from_json("config.json", CONFIG.as_bytes()).unwrap();
        let tensors: Vec<_> = config.expected_weights().collect();
        let path = dir.path().join("model.safetensors");
        write(&tensors, &path, &mut |_| {}, &CancelToken::new()).unwrap();
        let first = std::fs::read(&path).unwrap();
        let mut told = 0;
        write(&tensors, &path, &mut |bytes| told = bytes, &CancelToken::new()).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap());
        assert_eq!(told, 2 * config.n_parameters());

        std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
        let checkpoint = Checkpoint::open(&ModelFiles::discover(dir.path(), "x").unwrap()).unwrap();
        let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
        assert_eq!((embedding.dtype, embedding.shape), (DType::Bf16, [300, 64].as_slice()));
        let values: Vec<f64> =
            embedding.bytes.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f64()).collect();
        let deviation = (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt();
        assert!((deviation - DEVIATION).abs() < 0.002, "{deviation}");
        let norm = checkpoint.tensor("model.layers.1.input_layernorm.weight").unwrap();
        assert!(norm.bytes.as_chunks::<2>().0.iter().all(|&bytes| bf16::from_le_bytes(bytes) == bf16::ONE));
        assert!(checkpoint.contains("model.layers.0.self_attn.q_proj.bias") && checkpoint.contains("lm_head.weight"));
    }

    #[test]
    fn it_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let cancel = CancelToken::new();
        cancel.cancel();
        let config = ModelConfig::from_json("config.json", CONFIG.as_bytes()).unwrap();
        let tensors: Vec<_> = config.expected_weights().collect();
        let result = write(&tensors, &dir.path().join("w"), &mut |_| {}, &cancel);
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
