//! Adapters of ONNX Runtime: one flatbuffer, `.onnx_adapter`.
//!
//! Parameters are inputs of a graph by name, as Olive and our own graphs name them: `MODULE.lora_A.weight [inputs, rank]` and
//! `MODULE.lora_B.weight [rank, outputs]`, which has the scale within it.

mod tables;
mod write;

use self::tables::{BFLOAT16, FLOAT, FLOAT16, Parameter, Parameters};
pub use self::write::write_onnx_adapter;
use super::LowRankFactors;
use super::found::{Found, Matrix, Role};
use super::read::Content;
use crate::checkpoint::StoredTensor;
use crate::config::{Architecture, ModelConfig};
use crate::error::{Error, Result};
use crate::primitives::DType;

/// Projections that a graph may have as one product, and the modules of a checkpoint that they consist of.
const PACKED: [(&str, &[&str]); 2] = [("qkv_proj", &["q_proj", "k_proj", "v_proj"]), ("gate_up_proj", &["gate_proj", "up_proj"])];

/// Reads the adapter in `content`, the file `file`.
pub(super) fn read(content: &[u8], file: &str, base: Option<&ModelConfig>) -> Result<Content> {
    let mut found = Found::new(file);
    for parameter in Parameters::parse(content, file)? {
        let name = parameter.name;
        let factor = [(".lora_A.weight", Role::A), (".lora_B.weight", Role::B)];
        let factor = factor.into_iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, role)));
        let Some((module, role)) = factor else {
            found.add_unknown(name);
            continue;
        };
        found.add(&module_of(module), role, name, matrix(&parameter, file)?.transposed())?;
    }
    let factors = found.finish(|_, _| Ok(1.0))?;
    let factors = match base {
        Some(base) if base.architecture != Architecture::Phi3 => unpacked(factors, base, file)?,
        _ => factors,
    };
    Ok(Content { factors, ..Content::default() })
}

/// The module of a checkpoint that a graph calls `name`: onnxruntime-genai's graphs have `attn` for `self_attn`.
fn module_of(name: &str) -> String {
    let (before, rest) = name.split_at(name.find("layers.").unwrap_or(name.len()));
    let mut parts: Vec<&str> = rest.split('.').collect();
    if let [_, _, block, _] = &mut parts[..]
        && *block == "attn"
    {
        *block = "self_attn";
    }
    format!("{before}{}", parts.join("."))
}

/// The values of a parameter, as they are stored.
fn matrix(parameter: &Parameter<'_>, file: &str) -> Result<Matrix> {
    let Parameter { name, dims, data_type, bytes } = parameter;
    let bad = |problem: String| Error::bad_field(file, *name, problem);
    let (dtype, width) = match *data_type {
        FLOAT => (DType::F32, 4),
        FLOAT16 => (DType::F16, 2),
        BFLOAT16 => (DType::Bf16, 2),
        other => {
            return Err(bad(format!("is of ONNX's type {other}; FLOAT (1), FLOAT16 (10) or BFLOAT16 (16) is what it can be")));
        }
    };
    let shape = dims.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<Vec<usize>>>();
    let shape = shape.ok_or_else(|| bad(format!("is of shape {dims:?}")))?;
    let expected = shape.iter().try_fold(width, |bytes: usize, size| bytes.checked_mul(*size));
    if expected != Some(bytes.len()) {
        return Err(bad(format!("is of shape {shape:?}, and has {} bytes", bytes.len())));
    }
    Matrix::read(file, name, &StoredTensor { dtype, shape: &shape, bytes })
}

/// Packed projections as those of the checkpoint: the same `A`, and rows of `B`.
fn unpacked(factors: Vec<LowRankFactors>, base: &ModelConfig, file: &str) -> Result<Vec<LowRankFactors>> {
    let (queries, keys) = (base.n_heads * base.head_dim(), base.n_kv_heads * base.head_dim());
    let mut all = Vec::with_capacity(factors.len());
    for factors in factors {
        let packed = PACKED.iter().find_map(|(name, parts)| Some((factors.module.strip_suffix(name)?.to_owned(), *parts)));
        let Some((before, parts)) = packed else {
            all.push(factors);
            continue;
        };
        let widths: &[usize] = if parts.len() == 3 { &[queries, keys, keys] } else { &[base.intermediate_size; 2] };
        let expected: usize = widths.iter().sum();
        if factors.outputs() != expected {
            let problem = format!("packs {} outputs, and the base has {expected} there", factors.outputs());
            return Err(Error::bad_field(file, &factors.module, problem));
        }
        let mut first = 0;
        for (part, width) in parts.iter().zip(widths) {
            let rows = factors.b[first * factors.rank..(first + width) * factors.rank].to_vec();
            all.push(LowRankFactors { module: format!("{before}{part}"), b: rows, ..factors.clone() });
            first += width;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_graphs() {
        let check = |name: &str, expected: &str| assert_eq!(module_of(name), expected);
        check("model.layers.0.attn.q_proj", "model.layers.0.self_attn.q_proj");
        check("model.layers.12.self_attn.q_proj", "model.layers.12.self_attn.q_proj");
        check("model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj");
        check("lm_head", "lm_head");
    }

    #[test]
    fn packed_projections_become_those_of_the_checkpoint() {
        let json = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 3, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 8}"#;
        let base = ModelConfig::from_json("config.json", json.as_bytes()).unwrap();
        let packed = |module: &str, outputs: usize| LowRankFactors {
            module: module.into(),
            a: vec![1.0; 4],
            b: (0..outputs).map(|row| row as f32).collect(),
            rank: 1,
            scale: 1.0,
            magnitude: None,
        };
        let all = unpacked(vec![packed("layers.0.self_attn.qkv_proj", 8), packed("layers.0.mlp.gate_up_proj", 6)], &base, "file")
            .unwrap();
        let found: Vec<(&str, &[f32])> = all.iter().map(|factors| (factors.module.as_str(), &factors.b[..])).collect();
        let expected: [(&str, &[f32]); 5] = [
            ("layers.0.self_attn.q_proj", &[0.0, 1.0, 2.0, 3.0]),
            ("layers.0.self_attn.k_proj", &[4.0, 5.0]),
            ("layers.0.self_attn.v_proj", &[6.0, 7.0]),
            ("layers.0.mlp.gate_proj", &[0.0, 1.0, 2.0]),
            ("layers.0.mlp.up_proj", &[3.0, 4.0, 5.0]),
        ];
        assert_eq!(found, expected);
        let error = unpacked(vec![packed("layers.0.self_attn.qkv_proj", 7)], &base, "file").unwrap_err().to_string();
        assert!(error.contains("packs 7 outputs, and the base has 8"), "{error}");
    }
}
