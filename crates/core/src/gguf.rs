//! GGUF, the files of llama.cpp: one file with configuration, tokenizer and weights.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3. The whole header is checked before
//! anything is taken from it: a file that lies about its counts, lengths, types, shapes or offsets is an error that names the file and
//! the key or tensor. Memory grows with what the file really holds, never with what it says it holds.

mod adapter;
mod blocks;
mod chat;
mod config;
mod header;
mod metadata;
mod names;
mod part;
mod reader;
mod tensor;
mod tokenizer;
mod types;

use std::path::Path;

pub use self::blocks::Group;
use self::header::Header;
pub use self::part::GgufPart;
use self::tensor::Entry;
pub use self::types::TensorType;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;

/// A GGUF file whose header was checked. Two are equal when they were opened by the same name.
#[derive(Debug)]
pub struct Gguf {
    file: String,
    content: FileBytes,
    header: Header,
}

impl PartialEq for Gguf {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file
    }
}

impl Eq for Gguf {}

/// One weight as it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GgufTensor<'g> {
    /// How its values are stored.
    pub kind: TensorType,
    /// Its shape, the rows first: GGUF's order turned around.
    pub shape: &'g [usize],
    /// Its bytes: whole blocks of `kind`, row after row.
    pub bytes: &'g [u8],
}

impl Gguf {
    /// Maps the file at `path` and checks its header.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`Error::BadFile`] for a file that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(FileBytes::map(path)?, &path.to_string_lossy())
    }

    /// Checks the header of `content`; `file` is its name in messages.
    ///
    /// # Errors
    /// [`Error::BadFile`] for what is not a GGUF file or ends too early, [`Error::BadField`] with the key or tensor that cannot be, and
    /// [`Error::Unsupported`] for a version, byte order or part of a file that is not read.
    pub fn parse(content: FileBytes, file: &str) -> Result<Self> {
        let header = Header::read(&content, file, "model")?;
        Ok(Self { file: file.into(), content, header })
    }

    /// The file's name in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether there is a weight that GGUF calls `name`, such as `blk.0.attn_q.weight`.
    pub fn contains(&self, name: &str) -> bool {
        self.header.tensors.contains_key(name)
    }

    /// The names and storage types of all weights, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorType)> {
        self.header.tensors.iter().map(|(name, entry)| (name.as_str(), entry.kind))
    }

    /// The weight that GGUF calls `name`.
    ///
    /// # Errors
    /// [`Error::BadField`] when there is none.
    pub fn tensor(&self, name: &str) -> Result<GgufTensor<'_>> {
        let entry = self.header.tensors.get(name).ok_or_else(|| Error::BadField {
            file: self.file.clone(),
            field: name.into(),
            problem: "there is no such tensor".into(),
            hint: Some("the file is not a complete model of the architecture that it names: obtain it again".into()),
        })?;
        let Entry { kind, shape, range } = entry;
        Ok(GgufTensor { kind: *kind, shape, bytes: &self.content[range.clone()] })
    }

    /// Gives back the memory in which weights were read; see [`FileBytes::release`].
    pub fn release(&self) {
        self.content.release();
    }
}
