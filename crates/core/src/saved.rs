//! A sequence in a file: its tokens with their keys and values, so that a later process goes on without computing them.
//!
//! The file is safetensors, which other tools can look into: `tokens`, and for each layer its keys and values as the engine held them. Its
//! metadata say what computed them ([`SequenceOrigin`]) and have a hash of every tensor and one of themselves. It is written whole or not
//! at all, for its owner alone.
//!
//! Keys and values of the same engine, weights, adapters and dtypes go on to the bit. Those of another engine are believed once some of
//! them were computed anew and are alike; those of other weights are refused.

mod origin;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use sha2::{Digest, Sha256};

pub use self::origin::SequenceOrigin;
use crate::backend::{DType, KvShape, KvState, LogitsRequest};
use crate::error::{Error, Result};
use crate::primitives::TokenId;
use crate::sequence::Sequence;

/// What the metadata of a file say it is.
const FORMAT: &str = "tandem-sequence-1";

/// Keys of the metadata, in the order in which [`SEAL`] hashes them.
const FIELDS: [&str; 3] = ["format", "origin", "sha256"];

/// The hash of the other metadata.
const SEAL: &str = "seal";

/// The tensor of the token ids.
const TOKENS: &str = "tokens";

/// The most bytes that a header has: that of a model of 200 layers has 40 KB.
const MAX_HEADER: u64 = 1 << 20;

/// Tokens at the end that are computed anew where another engine computed them.
pub const CHECKED: usize = 16;

/// A sequence that was saved, or is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedSequence {
    origin: SequenceOrigin,
    tokens: Vec<TokenId>,
    state: KvState,
}

/// How a sequence was restored.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Restored {
    /// What was saved, to the bit.
    Exact,
    /// Another engine's, or one with other dtypes, of which the last tokens were computed anew.
    Checked {
        /// How many.
        n_tokens: usize,
        /// The largest difference, in parts of the largest value of its layer.
        difference: f64,
    },
}

impl SavedSequence {
    /// What `sequence` holds, which a model of `origin` computed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model whose keys and values cannot be exported, [`Error::EmptyPrompt`] for an empty sequence.
    pub fn of(sequence: &Sequence, origin: SequenceOrigin) -> Result<Self> {
        if sequence.tokens().is_empty() {
            return Err(Error::EmptyPrompt);
        }
        Ok(Self::new(origin, sequence.tokens().to_vec(), sequence.export_kv()?))
    }

    /// `tokens`, at least one, whose keys and values a model of `origin` computed.
    ///
    /// # Panics
    /// For keys and values of other tokens than the first of a sequence, or of another number.
    pub fn new(origin: SequenceOrigin, tokens: Vec<TokenId>, state: KvState) -> Self {
        assert!(
            (state.first_position, state.n_tokens) == (0, tokens.len()) && state.is_whole(),
            "each token has keys and values"
        );
        Self { origin, tokens, state }
    }

    /// Its tokens.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Their keys and values.
    pub fn state(&self) -> &KvState {
        &self.state
    }

    /// What computed it.
    pub fn origin(&self) -> &SequenceOrigin {
        &self.origin
    }

    /// Writes it to `path`, whole or not at all, for its owner alone. A file that is there is replaced.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |error: io::Error| Error::bad_file(path.display().to_string(), "cannot be written", error);
        let bytes = self.to_bytes().map_err(|error| failed(io::Error::other(error)))?;
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Such files are their owner's alone.
        let mut draft = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        draft.write_all(&bytes).and_then(|()| draft.as_file().sync_all()).map_err(failed)?;
        draft.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Reads the file at `path`, of up to `max_tokens` tokens with up to `kv_bytes` of keys and values each.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] for a file that cannot be read, is damaged or larger.
    pub fn read(path: &Path, max_tokens: usize, kv_bytes: usize) -> Result<Self> {
        let file = path.display().to_string();
        let unreadable = |error: io::Error| Error::bad_file(&*file, "cannot be read", error);
        let limit = (max_tokens as u64).saturating_mul(kv_bytes as u64 + 4).saturating_add(MAX_HEADER);
        let opened = fs::File::open(path).map_err(unreadable)?;
        let metadata = opened.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Error::BadFile { file, problem: "is not a file".into(), hint: None, source: None });
        }
        if metadata.len() > limit {
            let problem = format!("has {} bytes, and {max_tokens} tokens of this model take up to {limit}", metadata.len());
            let hint = Some("a session with a longer context can hold more".into());
            return Err(Error::BadFile { file, problem, hint, source: None });
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        opened.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::parse(&bytes, &file)
    }

    /// The sequence of a file's `bytes`; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::BadFile`] and [`Error::BadField`] for what is damaged.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        let damaged = |error: safetensors::SafeTensorError| Error::bad_file(file, "is not a sequence that was saved", error);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let entry = |key: &str| metadata.get(key).ok_or_else(|| Error::bad_field(file, key, "is missing"));
        if entry(FIELDS[0])? != FORMAT {
            return Err(Error::bad_field(file, FIELDS[0], format!("is not `{FORMAT}`, which this version reads")));
        }
        if entry(SEAL)? != &seal(&metadata) {
            return Err(changed(file, SEAL));
        }
        let origin =
            serde_json::from_str(entry(FIELDS[1])?).map_err(|error| Error::bad_field(file, FIELDS[1], error.to_string()))?;
        let hashes: BTreeMap<String, String> =
            serde_json::from_str(entry(FIELDS[2])?).map_err(|error| Error::bad_field(file, FIELDS[2], error.to_string()))?;
        let read = |name: &str| -> Result<TensorView<'_>> {
            let tensor = tensors.tensor(name).map_err(|_| Error::bad_field(file, name, "is missing"))?;
            match hashes.get(name) {
                Some(hash) if *hash == sha256(tensor.data()) => Ok(tensor),
                _ => Err(changed(file, name)),
            }
        };
        let tokens = read(TOKENS)?;
        if tokens.dtype() != Dtype::U32 || tokens.shape().len() != 1 || tokens.shape() == [0] {
            return Err(Error::bad_field(file, TOKENS, "is not a list of numbers of 32 bits"));
        }
        let tokens: Vec<TokenId> = tokens.data().as_chunks().0.iter().map(|bytes| TokenId::from_le_bytes(*bytes)).collect();
        let state = state(tensors.len() - 1, tokens.len(), file, &read)?;
        Ok(Self { origin, tokens, state })
    }

    /// Puts it in the place of what `sequence` holds, of a model of `origin`. What another engine computed is compared first; after an
    /// error the sequence is empty.
    ///
    /// # Errors
    /// [`Error::BadField`] for another model's, and for what differs from what this engine computes; as [`Sequence::append`].
    pub fn restore(&self, sequence: &mut Sequence, origin: &SequenceOrigin, file: &str) -> Result<Restored> {
        let same_engine = self.origin.compare(origin, file)?;
        sequence.rewind(0)?;
        let restored = match same_engine {
            true => sequence.import_kv(&self.tokens, &self.state).map(|()| Restored::Exact),
            false => self.check(sequence, self.origin.limit(origin), file),
        };
        if restored.is_err() {
            sequence.rewind(0)?;
        }
        restored
    }

    /// As [`restore`](Self::restore), with the last tokens computed anew.
    fn check(&self, sequence: &mut Sequence, limit: f64, file: &str) -> Result<Restored> {
        let n = self.tokens.len();
        let kept = n - CHECKED.min(n);
        if kept > 0 {
            sequence.import_kv(&self.tokens[..kept], &self.state.part(0..kept))?;
        }
        sequence.append(&self.tokens[kept..], LogitsRequest::None)?;
        let (saved, own) = (self.state.part(kept..n), sequence.export_kv()?.part(kept..n));
        let difference = saved.difference(&own);
        if difference.is_none_or(|difference| difference > limit) {
            let by = difference.map_or("cannot be compared with".to_owned(), |by| {
                format!("differ by {by:.0e} of the largest, more than {limit:.0e}, from")
            });
            let problem = format!("keys and values {by} those that `{}` computes", self.origin.engine());
            return Err(Error::bad_field(file, "origin", problem).with_hint("compute it anew from its tokens"));
        }
        Ok(Restored::Checked { n_tokens: n - kept, difference: difference.unwrap_or_default() })
    }

    fn to_bytes(&self) -> std::result::Result<Vec<u8>, safetensors::SafeTensorError> {
        let KvShape { n_layers, kv_heads, head_dim } = self.state.shape;
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let mut tensors = vec![(TOKENS.to_owned(), Dtype::U32, vec![self.tokens.len()], tokens)];
        let size = self.state.data.len() / n_layers;
        for (index, values) in self.state.data.chunks_exact(size.max(1)).enumerate() {
            let (dtype, bytes) = narrowed(values, self.state.dtype);
            tensors.push((layer_name(index), dtype, vec![2, kv_heads, self.tokens.len(), head_dim], bytes));
        }
        let hashes: BTreeMap<&str, String> = tensors.iter().map(|(name, .., bytes)| (name.as_str(), sha256(bytes))).collect();
        let json = |value: serde_json::Result<String>| value.expect("names and hashes are JSON");
        let values = [FORMAT.to_owned(), json(serde_json::to_string(&self.origin)), json(serde_json::to_string(&hashes))];
        let mut metadata: HashMap<String, String> = FIELDS.map(ToOwned::to_owned).into_iter().zip(values).collect();
        metadata.insert(SEAL.into(), seal(&metadata));
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("bytes are as many as the shape says"))
        });
        serialize(views, Some(metadata))
    }
}

/// The keys and values of `n_layers` layers, which `read` finds.
fn state<'t>(n_layers: usize, n_tokens: usize, file: &str, read: &dyn Fn(&str) -> Result<TensorView<'t>>) -> Result<KvState> {
    let mut data = Vec::new();
    let mut first: Option<(Dtype, [usize; 2])> = None;
    for index in 0..n_layers {
        let name = layer_name(index);
        let tensor = read(&name)?;
        let sizes = match *tensor.shape() {
            [2, kv_heads, n, head_dim] if n == n_tokens && kv_heads * head_dim > 0 => [kv_heads, head_dim],
            _ => return Err(Error::bad_field(file, name, format!("has the shape {:?}", tensor.shape()))),
        };
        if *first.get_or_insert((tensor.dtype(), sizes)) != (tensor.dtype(), sizes) {
            return Err(Error::bad_field(file, name, "differs from the other layers in its type or sizes"));
        }
        widen(&tensor, &mut data).ok_or_else(|| Error::bad_field(file, &*name, format!("is of {:?}", tensor.dtype())))?;
    }
    let (dtype, [kv_heads, head_dim]) = first.ok_or_else(|| Error::bad_field(file, layer_name(0), "is missing"))?;
    let dtype = match dtype {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        _ => DType::F32,
    };
    Ok(KvState::new(KvShape { n_layers, kv_heads, head_dim }, 0, n_tokens, dtype, data))
}

/// Appends the values of `tensor`; `None` where they are not floats.
fn widen(tensor: &TensorView<'_>, out: &mut Vec<f32>) -> Option<()> {
    let start = out.len();
    let halves = || tensor.data().as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    match tensor.dtype() {
        Dtype::F32 => out.extend(tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
        Dtype::F16 => {
            let halves: Vec<f16> = halves().map(f16::from_bits).collect();
            out.resize(start + halves.len(), 0.0);
            halves.convert_to_f32_slice(&mut out[start..]);
        }
        Dtype::BF16 => out.extend(halves().map(|bits| bf16::from_bits(bits).to_f32())),
        _ => return None,
    }
    Some(())
}

/// `values` as bytes of `dtype`, in which they were held.
fn narrowed(values: &[f32], dtype: DType) -> (Dtype, Vec<u8>) {
    match dtype {
        DType::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            (Dtype::F16, halves.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        DType::Bf16 => (Dtype::BF16, values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()),
        _ => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }
}

fn layer_name(index: usize) -> String {
    format!("layers.{index}")
}

fn seal(metadata: &HashMap<String, String>) -> String {
    let fields = FIELDS.map(|key| metadata.get(key).map_or("", String::as_str));
    sha256(fields.join("\0").as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn changed(file: &str, field: &str) -> Error {
    Error::bad_field(file, field, "differs from its hash: the file was changed or is damaged")
}
