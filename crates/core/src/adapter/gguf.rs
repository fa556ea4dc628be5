//! Adapters of llama.cpp: one GGUF file, as its `convert_lora_to_gguf.py` writes it.
//!
//! Factors are `NAME.lora_a [rank, inputs]` and `NAME.lora_b [outputs, rank]`, by the names that GGUF has for weights; the scale is
//! `adapter.lora.alpha / rank` (`llama_adapter_lora_weight::get_scale` in `src/llama-adapter.h`). For the architecture `llama` the
//! converter reorders the rows of queries and keys, which only the shape of the base's heads undoes.

use super::found::{Found, Matrix, Role, finite};
use super::read::Content;
use crate::checkpoint::StoredTensor;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;
use crate::gguf::{Gguf, GgufTensor, TensorType};

/// Architectures whose projections have the names that are known here, and whose rows are as published but for `llama`'s.
const ARCHITECTURES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3"];

/// The types that the converter writes. Of `q8_0` it leaves factors as F16 whose rows are not whole blocks, so most of `lora_b`.
const TYPES: [TensorType; 4] = [TensorType::F32, TensorType::F16, TensorType::Bf16, TensorType::Q8_0];

/// Reads the adapter in `content`, the file `file`.
pub(super) fn read(content: FileBytes, file: &str, base: Option<&ModelConfig>) -> Result<Content> {
    let gguf = Gguf::parse_adapter(content, file)?;
    let architecture = gguf.architecture()?;
    if !ARCHITECTURES.contains(&architecture) {
        let shown: String = architecture.chars().take(60).collect();
        return Err(Error::Unsupported {
            what: format!("the architecture `{shown}` of the GGUF adapter `{file}`"),
            reason: format!("adapters of {} are read from GGUF", ARCHITECTURES.map(|known| format!("`{known}`")).join(", ")),
            hint: Some("use the adapter that the file was made from, in the form of PEFT".into()),
        });
    }
    let (alpha, interleaved) = (gguf.lora_alpha()?, gguf.has_interleaved_heads()?);
    let mut names: Vec<(&str, TensorType)> = gguf.tensors().collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    let mut found = Found::new(file);
    for (name, kind) in names {
        let factor = match name.rsplit_once('.') {
            Some((weight, "lora_a")) => Some((weight, Role::A)),
            Some((weight, "lora_b")) => Some((weight, Role::B)),
            _ => None,
        };
        let published = factor.and_then(|(weight, role)| Some((Gguf::published_name(weight)?, role)));
        let module = published.as_ref().and_then(|(weight, role)| Some((weight.strip_suffix(".weight")?, *role)));
        let Some((module, role)) = module.filter(|(module, _)| !module.ends_with("norm") && !module.ends_with("embed_tokens"))
        else {
            found.add_unknown(name);
            continue;
        };
        if !TYPES.contains(&kind) {
            return Err(Error::Unsupported {
                what: format!("the type {kind} of `{name}` in `{file}`"),
                reason: format!("factors of {} are read", TYPES.map(|known| known.to_string()).join(", ")),
                hint: Some("convert the adapter again, to f32".into()),
            });
        }
        let mut matrix = matrix(file, name, &gguf.tensor(name)?)?;
        if interleaved && role == Role::B && (module.ends_with("q_proj") || module.ends_with("k_proj")) {
            matrix = in_published_order(matrix, file, name, base)?;
        }
        found.add(module, role, name, matrix)?;
    }
    let factors = found.finish(|_, rank| Ok(if alpha == 0.0 { 1.0 } else { alpha / rank as f64 }))?;
    Ok(Content { factors, ..Content::default() })
}

/// The factor in `tensor`, called `name` in `file`.
fn matrix(file: &str, name: &str, tensor: &GgufTensor<'_>) -> Result<Matrix> {
    let GgufTensor { kind, shape, bytes } = *tensor;
    if kind != TensorType::Q8_0 {
        return Matrix::read(file, name, &StoredTensor { dtype: kind.dtype(), shape, bytes });
    }
    Matrix::of(file, name, shape, || {
        let mut values = Vec::with_capacity(bytes.len() / kind.block_bytes() * kind.block_values());
        kind.each_group(bytes, &mut |group| values.extend(group.values()));
        finite(file, name, values)
    })
}

/// Rows in the order of the checkpoint: there the two halves of a head follow each other, and in the file they alternate.
fn in_published_order(matrix: Matrix, file: &str, name: &str, base: Option<&ModelConfig>) -> Result<Matrix> {
    let Some(base) = base else {
        return Err(Error::Unsupported {
            what: format!("the GGUF adapter `{file}` without its base"),
            reason: "its rows of queries and keys are in llama.cpp's order, and the file does not say how wide a head is".into(),
            hint: Some("name the model that it is for, or use the adapter in the form of PEFT".into()),
        });
    };
    let head_dim = base.head_dim();
    let Matrix { rows, columns, values } = matrix;
    if !rows.is_multiple_of(head_dim) || !head_dim.is_multiple_of(2) {
        let problem = format!("has {rows} rows, and the base has heads of {head_dim}: the adapter is for another model");
        return Err(Error::bad_field(file, name, problem));
    }
    let half = head_dim / 2;
    let row_of = |row: usize| {
        let (head, within) = (row / head_dim, row % head_dim);
        head * head_dim + 2 * (within % half) + within / half
    };
    let ordered = (0..rows).flat_map(|row| &values[row_of(row) * columns..][..columns]).copied().collect();
    Ok(Matrix { rows, columns, values: ordered })
}
