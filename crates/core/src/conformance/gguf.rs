//! Writes GGUF files, good ones and bad ones, for tests.

mod checkpoint;

pub use self::checkpoint::Store;
use crate::gguf::TensorType;

/// A GGUF file that is being put together. Nothing is checked: what it writes may be wrong on purpose.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    /// The version in the header.
    pub version: u32,
    /// At multiples of how many bytes tensors begin; written to the metadata by hand where it is not 32.
    pub alignment: usize,
    /// Keys, the numbers of their types, and their values as bytes.
    pub metadata: Vec<(String, u32, Vec<u8>)>,
    /// Tensors.
    pub tensors: Vec<WrittenTensor>,
}

/// A tensor of a [`GgufWriter`].
#[derive(Clone, Debug)]
pub struct WrittenTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions as the file has them, the width of a row first.
    pub dimensions: Vec<u64>,
    /// The number of its type.
    pub kind: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The offset in the file's words, in the place of the right one.
    pub offset: Option<u64>,
}

/// The numbers of types of metadata.
mod kind {
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }
}

impl GgufWriter {
    /// Adds a number of 32 bits.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.raw(key, kind::U32, value.to_le_bytes().to_vec());
    }

    /// Adds a floating-point number of 32 bits.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.raw(key, kind::F32, value.to_le_bytes().to_vec());
    }

    /// Adds a boolean.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.raw(key, kind::BOOL, vec![value.into()]);
    }

    /// Adds a text.
    pub fn string(&mut self, key: &str, value: &str) {
        self.raw(key, kind::STRING, string(value));
    }

    /// Adds a list of texts.
    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        let items = values.iter().flat_map(|value| string(value.as_ref()));
        let head = [&kind::STRING.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.raw(key, kind::ARRAY, head.into_iter().chain(items).collect());
    }

    /// Adds a list of numbers of 32 bits with signs.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        let items = values.iter().flat_map(|value| value.to_le_bytes());
        let head = [&kind::I32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.raw(key, kind::ARRAY, head.into_iter().chain(items).collect());
    }

    /// Adds a value of any type by its bytes.
    pub fn raw(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.metadata.push((key.into(), kind, value));
    }

    /// Adds a tensor of `shape`, the rows first.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: TensorType, bytes: Vec<u8>) {
        let dimensions = shape.iter().rev().map(|n| *n as u64).collect();
        self.tensors.push(WrittenTensor { name: name.into(), dimensions, kind: kind.number(), bytes, offset: None });
    }

    /// Removes the key, or the tensor, called `name`.
    pub fn remove(&mut self, name: &str) {
        self.metadata.retain(|(key, _, _)| key != name);
        self.tensors.retain(|tensor| tensor.name != name);
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
            bytes.extend(tensor.dimensions.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        [bytes, data].concat()
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}
