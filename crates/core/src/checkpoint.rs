//! The weights of a checkpoint, by name: safetensors, one file or several, mapped and not copied.
//!
//! The format: <https://huggingface.co/docs/safetensors/index>. A header that lies about its file is an error before any weight is
//! read.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::files::{FileBytes, ModelFiles};
use crate::primitives::DType;

/// The weights of a model.
#[derive(Debug)]
pub struct Checkpoint {
    shards: Vec<Shard>,
    tensors: HashMap<String, Entry>,
}

/// One weight as it is stored: row-major, little-endian, without alignment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredTensor<'c> {
    /// `f32`, `f16` or `bf16`.
    pub dtype: DType,
    /// Its shape.
    pub shape: &'c [usize],
    /// Its bytes.
    pub bytes: &'c [u8],
}

/// A tensor of any type, as it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawTensor<'c> {
    pub(crate) name: &'c str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'c [usize],
    pub(crate) bytes: &'c [u8],
}

impl StoredTensor<'_> {
    /// Its values.
    pub fn to_f32(&self) -> Vec<f32> {
        let halves = || self.bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
        match self.dtype {
            DType::F16 => halves().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
            DType::Bf16 => halves().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
            _ => self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        }
    }
}

#[derive(Debug)]
struct Shard {
    name: String,
    content: FileBytes,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Checkpoint {
    /// Maps the weights of `files` and reads their headers.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a file that is missing, truncated or no safetensors, and for a name that stands in two of them;
    /// [`Error::Unsupported`] for a GGUF file.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        files.refuse_gguf()?;
        if files.weights.is_empty() {
            return Err(Error::BadFile {
                file: files.name.clone(),
                problem: "there are no weights among the model's files".into(),
                hint: Some("obtain `model.safetensors` from where the model was published".into()),
                source: None,
            });
        }
        let mut checkpoint = Self { shards: Vec::new(), tensors: HashMap::new() };
        for file in &files.weights {
            checkpoint.add(file.name().into_owned(), file.map()?)?;
        }
        Ok(checkpoint)
    }

    /// Reads the header of `content`, the whole file called `name`.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it is truncated or no safetensors.
    pub fn parse(content: FileBytes, name: &str) -> Result<Self> {
        let mut checkpoint = Self { shards: Vec::new(), tensors: HashMap::new() };
        checkpoint.add(name.to_owned(), content)?;
        Ok(checkpoint)
    }

    /// The weight called `name`.
    ///
    /// # Errors
    /// [`Error::BadField`] when there is none, or when it is of a type that no weight has.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>> {
        let entry = self.tensors.get(name).ok_or_else(|| Error::BadField {
            file: self.shards[0].name.clone(),
            field: name.into(),
            problem: "there is no such weight".into(),
            hint: Some("config.json and the weights do not belong together, or the download is incomplete".into()),
        })?;
        let shard = &self.shards[entry.shard];
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => {
                return Err(Error::bad_field(
                    &shard.name,
                    name,
                    format!("the weight is {other:?}; F32, F16 or BF16 is what it can be"),
                ));
            }
        };
        Ok(StoredTensor { dtype, shape: &entry.shape, bytes: &shard.content[entry.range.clone()] })
    }

    /// Whether there is a weight called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all weights, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all weights as they are stored.
    pub fn n_bytes(&self) -> u64 {
        self.tensors.values().map(|entry| entry.range.len() as u64).sum()
    }

    /// The file that the weight called `name` is in.
    pub fn file_of(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|entry| self.shards[entry.shard].name.as_str())
    }

    /// The names of the files, and the tensors of each in the order in which they lie there.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (&str, Vec<RawTensor<'_>>)> {
        self.shards.iter().enumerate().map(|(number, shard)| {
            let mut entries: Vec<_> = self.tensors.iter().filter(|(_, entry)| entry.shard == number).collect();
            entries.sort_by_key(|(name, entry)| (entry.range.start, *name));
            let raw = entries.into_iter().map(|(name, entry)| RawTensor {
                name,
                dtype: entry.dtype,
                shape: &entry.shape,
                bytes: &shard.content[entry.range.clone()],
            });
            (shard.name.as_str(), raw.collect())
        })
    }

    /// Gives back the memory in which weights were read, which keep their value and are read again when touched. Who goes through
    /// weights larger than memory, one after the other, calls it in between.
    pub fn release(&self) {
        self.shards.iter().for_each(|shard| shard.content.release());
    }

    fn add(&mut self, name: String, content: FileBytes) -> Result<()> {
        let shard = self.shards.len();
        let tensors = SafeTensors::deserialize(&content).map_err(|error| Error::BadFile {
            file: name.clone(),
            problem: "is not a complete safetensors file".into(),
            hint: Some("the download is incomplete: obtain the file again".into()),
            source: Some(error.into()),
        })?;
        let start = content.as_ptr() as usize;
        for (tensor, view) in tensors.iter() {
            let offset = view.data().as_ptr() as usize - start;
            let entry =
                Entry { shard, dtype: view.dtype(), shape: view.shape().to_vec(), range: offset..offset + view.data().len() };
            if self.tensors.insert(tensor.to_owned(), entry).is_some() {
                return Err(Error::bad_field(&name, tensor, "the weight stands in another file as well"));
            }
        }
        self.shards.push(Shard { name, content });
        Ok(())
    }
}
