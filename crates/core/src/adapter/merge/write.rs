//! Writes a checkpoint with adapters merged into it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::super::write as whole;
use super::super::{ScaledAdapter, merge::Merged};
use crate::cancel::CancelToken;
use crate::checkpoint::{Checkpoint, RawTensor};
use crate::config::parse_object;
use crate::disk;
use crate::error::{Error, Result};
use crate::files::{MAX_JSON_BYTES, ModelFile, ModelFiles};
use crate::primitives::DType;
use crate::progress::{Progress, ProgressEvent};

/// The index of a checkpoint in several files.
const INDEX: &str = "model.safetensors.index.json";

/// What else a checkpoint may have that belongs to its model: forms of its tokenizer, and what its author asks of others.
const BESIDE: [&str; 12] = [
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "USE_POLICY.md",
];

/// How a merged checkpoint is written.
#[derive(Clone, Debug, Default)]
pub struct MergeOptions {
    /// The dtype of its weights: f32, f16 or bf16; `None` keeps that of each.
    pub dtype: Option<DType>,
    /// Who is told how far it is.
    pub progress: Progress,
    /// Ends it early, and leaves nothing behind.
    pub cancel: CancelToken,
}

/// Writes the checkpoint `base` with the sum of `adapters` merged into it to the directory `target`, which must not exist: weights in
/// files of the same names, and its other files as they are.
///
/// # Errors
/// Those of [`Checkpoint::open`] and [`Merged::new`]; [`Error::BadFile`] when it cannot be written, [`Error::BadField`] for a weight that
/// is beyond the range of the dtype, [`Error::Unsupported`] for a dtype that is none of those, [`Error::Cancelled`].
pub fn write_merged(base: &ModelFiles, adapters: &[ScaledAdapter], target: &Path, options: &MergeOptions) -> Result<()> {
    if let Some(dtype) = options.dtype
        && stored_as(dtype).is_none()
    {
        return Err(Error::Unsupported {
            what: format!("a merged checkpoint of {dtype}"),
            reason: "f32, f16 and bf16 are written".into(),
            hint: Some("export the merged checkpoint to a quantised one".into()),
        });
    }
    let checkpoint = Checkpoint::open(base)?;
    let merged = Merged::new(&checkpoint, adapters)?;
    let of_shard = |tensors: &[RawTensor<'_>]| tensors.iter().map(|tensor| size(tensor, options.dtype)).sum::<u64>();
    let total = checkpoint.shards().map(|(_, tensors)| of_shard(&tensors)).sum();
    disk::check(target, total, &disk::free, "free some, or write to another disk")?;
    whole::directory(target, |directory| {
        let mut writer = Writer { merged: &merged, options, origin: origin(adapters), done: 0, total };
        let mut weight_map = BTreeMap::new();
        for (file, (_, tensors)) in base.weights.iter().zip(checkpoint.shards()) {
            writer.shard(&directory.join(file.file_name()), &tensors)?;
            weight_map.extend(tensors.iter().map(|tensor| (tensor.name, file.file_name())));
            checkpoint.release();
        }
        if base.weights.len() > 1 {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            whole::json(&directory.join(INDEX), &index)?;
        }
        others(base, directory, options.dtype)
    })
}

/// Writes the weights.
struct Writer<'m> {
    merged: &'m Merged<'m>,
    options: &'m MergeOptions,
    /// Which adapters are in the weights.
    origin: String,
    done: u64,
    total: u64,
}

impl Writer<'_> {
    /// One file with `tensors`, by the format of safetensors: the length of a header, the header, the values.
    fn shard(&mut self, path: &Path, tensors: &[RawTensor<'_>]) -> Result<()> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": "pt", "merged_adapters": self.origin }));
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + size(tensor, self.options.dtype);
            let dtype = kept_or(tensor.dtype, self.options.dtype);
            header.insert(tensor.name.into(), json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end] }));
            offset = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        // An error of ours, which is not one of writing.
        let mut failed = None;
        let written = whole::stream(path, |file| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            for tensor in tensors {
                if let Err(error) = self.tensor(tensor, file) {
                    failed = Some(error);
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
            Ok(())
        });
        failed.map_or(written, Err)
    }

    fn tensor(&mut self, tensor: &RawTensor<'_>, file: &mut dyn Write) -> Result<()> {
        const PART: usize = 1 << 24;
        let cannot = |source| Error::bad_file(tensor.name, "cannot be written", source);
        let dtype = kept_or(tensor.dtype, self.options.dtype);
        if self.options.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if !self.merged.changes(tensor.name) && dtype == tensor.dtype {
            for part in tensor.bytes.chunks(PART) {
                file.write_all(part).map_err(cannot)?;
                self.advance(part.len())?;
            }
        } else {
            let merged = self.merged;
            merged.each_row(tensor.name, &mut |row| {
                let bytes = bytes(row, dtype).ok_or_else(|| {
                    Error::bad_field(tensor.name, "merged", format!("a value is beyond the range of {dtype:?}"))
                        .with_hint("write the checkpoint in bf16 or f32")
                })?;
                file.write_all(&bytes).map_err(cannot)?;
                self.advance(bytes.len())
            })?;
        }
        self.merged.checkpoint.release();
        Ok(())
    }

    fn advance(&mut self, n_bytes: usize) -> Result<()> {
        self.done += n_bytes as u64;
        self.options.progress.tell(&ProgressEvent::Merging { done: self.done, total: self.total });
        if self.options.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Copies what a checkpoint has beside its weights.
fn others(base: &ModelFiles, directory: &Path, dtype: Option<DType>) -> Result<()> {
    let copy = |file: &ModelFile, place: &str| {
        let (target, content) = (directory.join(place), file.map()?);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|error| whole::failed(parent, error))?;
        }
        whole::stream(&target, |to| to.write_all(&content))
    };
    match dtype.and_then(|dtype| Some((dtype, stored_as(dtype)?))) {
        None => copy(&base.config, "config.json")?,
        Some((dtype, _)) => whole::json(&directory.join("config.json"), &config_of(base, dtype)?)?,
    }
    let known = [&base.generation_config, &base.tokenizer, &base.tokenizer_config, &base.chat_template];
    for file in known.into_iter().flatten() {
        copy(file, file.file_name())?;
    }
    let embedding = base.embedding_places()?;
    for place in BESIDE.iter().copied().chain(embedding.iter().map(String::as_str)) {
        if let Some(file) = base.beside(place) {
            copy(&file, place)?;
        }
    }
    Ok(())
}

/// `config.json` with the dtype that the weights now have.
fn config_of(base: &ModelFiles, dtype: DType) -> Result<Value> {
    let mut config = parse_object(&base.config.name(), &base.config.read(MAX_JSON_BYTES)?)?;
    let name = match dtype {
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        _ => "float32",
    };
    // transformers 5 and 4 name it differently.
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), name.into());
    Ok(config.into())
}

/// Which adapters, how much of each, and the hashes of their weights.
fn origin(adapters: &[ScaledAdapter]) -> String {
    let one = |ScaledAdapter { adapter, scale }: &ScaledAdapter| {
        format!("{}={scale} sha256:{}", adapter.name(), adapter.origin().sha256.as_deref().unwrap_or("none"))
    };
    adapters.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The bytes that a tensor takes.
fn size(tensor: &RawTensor<'_>, dtype: Option<DType>) -> u64 {
    let width = |dtype: Dtype| if dtype == Dtype::F32 { 4 } else { 2 };
    match kept_or(tensor.dtype, dtype) {
        written if written == tensor.dtype => tensor.bytes.len() as u64,
        written => tensor.bytes.len() as u64 / width(tensor.dtype) * width(written),
    }
}

/// The dtype that a tensor of `own` is written in: floats in `dtype`, the others as they are.
fn kept_or(own: Dtype, dtype: Option<DType>) -> Dtype {
    match dtype.and_then(stored_as) {
        Some(dtype) if matches!(own, Dtype::F32 | Dtype::F16 | Dtype::BF16) => dtype,
        _ => own,
    }
}

fn stored_as(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::Bf16 => Some(Dtype::BF16),
        _ => None,
    }
}

/// The values of a row as they are stored; `None` where one is beyond the dtype's range.
fn bytes(row: &[f32], dtype: Dtype) -> Option<Vec<u8>> {
    let fits = |value: &f32| match dtype {
        Dtype::F16 => half::f16::from_f32(*value).is_finite() || !value.is_finite(),
        Dtype::BF16 => half::bf16::from_f32(*value).is_finite() || !value.is_finite(),
        _ => true,
    };
    if !row.iter().all(fits) {
        return None;
    }
    Some(match dtype {
        Dtype::F16 => row.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::BF16 => row.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => row.iter().flat_map(|value| value.to_le_bytes()).collect(),
    })
}
