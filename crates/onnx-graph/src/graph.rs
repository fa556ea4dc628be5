//! A decoded ONNX file: its operators, inputs and outputs, and where its weights are.

pub(crate) mod decode;
mod node;
mod tensor;
pub(crate) mod walk;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

pub use self::node::{Attribute, AttributeValue, Dim, Function, Node, Subgraph, ValueInfo};
pub use self::tensor::{DataType, ExternalData, SparseTensor, Tensor, TensorData};
use crate::error::{Error, Result};

/// Protobuf's limit on a message, which ONNX Runtime enforces; larger models keep their weights in other files.
pub(crate) const MAX_PROTO_BYTES: u64 = i32::MAX as u64;

/// A decoded ONNX file. Weights stay in the mapped file, or in the files beside it.
#[derive(Debug)]
pub struct Graph {
    file: String,
    bytes: Bytes,
    contents: Contents,
}

/// The content of a `ModelProto`.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) ir_version: i64,
    pub(crate) producer_name: String,
    pub(crate) producer_version: String,
    pub(crate) opset_imports: Vec<OpsetImport>,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) functions: Vec<Function>,
    pub(crate) n_training_infos: usize,
    pub(crate) training: Vec<Subgraph>,
    pub(crate) main: Subgraph,
}

/// A version of an operator set that the graph was written for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpsetImport {
    /// The operators' domain; empty for ONNX's own.
    pub domain: String,
    /// The version.
    pub version: i64,
}

enum Bytes {
    Mapped(Mmap),
    Memory(Cow<'static, [u8]>),
}

impl Graph {
    /// Reads the file at `path`. It must not be changed while the graph is in use: it is mapped, not copied.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than 2 GiB, or is not an ONNX file.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|source| Error::io(&name, "opened", source))?;
        let metadata = file.metadata().map_err(|source| Error::io(&name, "read", source))?;
        if !metadata.is_file() {
            return Err(Error::bad_file(&name, "is not a regular file"));
        }
        check_size(&name, metadata.len())?;
        let bytes = match metadata.len() {
            0 => Bytes::Memory(Cow::Borrowed(&[])),
            _ => Bytes::Mapped(map(&file).map_err(|source| Error::io(&name, "mapped", source))?),
        };
        Self::read(name, bytes)
    }

    /// Reads a file in memory; `name` is its name in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(bytes: impl Into<Cow<'static, [u8]>>, name: impl Into<String>) -> Result<Self> {
        let (name, bytes) = (name.into(), bytes.into());
        check_size(&name, bytes.len() as u64)?;
        Self::read(name, Bytes::Memory(bytes))
    }

    fn read(file: String, bytes: Bytes) -> Result<Self> {
        let contents = decode::model(&decode::Limits::new(&file), &bytes)?;
        Ok(Self { file, bytes, contents })
    }

    /// The path, or the name of an embedded file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A part of the file: the data of an inline tensor, a whole message.
    pub fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// The main graph.
    pub fn main(&self) -> &Subgraph {
        &self.contents.main
    }

    /// The required inputs of the main graph, without initializers that may be overridden.
    pub fn inputs(&self) -> impl Iterator<Item = &ValueInfo> {
        let constants: BTreeSet<_> = self.initializers().iter().map(|tensor| tensor.name.as_str()).collect();
        self.main().inputs.iter().filter(move |input| !constants.contains(input.name.as_str()))
    }

    /// The main graph's initializers that are inputs too: adapters of a graph that was exported for them.
    pub fn overridable_initializers(&self) -> impl Iterator<Item = &Tensor> {
        let inputs: BTreeSet<_> = self.main().inputs.iter().map(|input| input.name.as_str()).collect();
        self.initializers().iter().filter(move |tensor| inputs.contains(tensor.name.as_str()))
    }

    /// The outputs of the main graph.
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.main().outputs
    }

    /// The main graph's operators, in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.main().nodes
    }

    /// The main graph's constants.
    pub fn initializers(&self) -> &[Tensor] {
        &self.main().initializers
    }

    /// The version of the format.
    pub fn ir_version(&self) -> i64 {
        self.contents.ir_version
    }

    /// The program that wrote the file, and its version.
    pub fn producer(&self) -> (&str, &str) {
        (&self.contents.producer_name, &self.contents.producer_version)
    }

    /// The file as it was read, or a copy of it where it is mapped.
    pub fn into_bytes(self) -> Cow<'static, [u8]> {
        match self.bytes {
            Bytes::Memory(bytes) => bytes,
            Bytes::Mapped(map) => Cow::Owned(map.to_vec()),
        }
    }

    /// The operator sets that the graph was written for.
    pub fn opset_imports(&self) -> &[OpsetImport] {
        &self.contents.opset_imports
    }

    /// Metadata that the exporter stored in the file.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.contents.metadata
    }

    /// Operators that the file defines.
    pub fn functions(&self) -> &[Function] {
        &self.contents.functions
    }

    /// How often each operator appears, here, in nested graphs and in functions: `com.microsoft.MatMulNBits`, `MatMul`.
    pub fn operator_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.for_each_node(&mut |node| *counts.entry(node.operator()).or_default() += 1);
        counts
    }

    /// The files beside the graph that hold its weights, as the graph names them.
    pub fn external_files(&self) -> BTreeSet<&str> {
        let mut files = BTreeSet::new();
        self.for_each_tensor(&mut |tensor| {
            if let TensorData::External(external) = &tensor.data {
                files.insert(external.location.as_str());
            }
        });
        files
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

fn check_size(file: &str, n_bytes: u64) -> Result<()> {
    if n_bytes > MAX_PROTO_BYTES {
        let problem = format!("the file has {n_bytes} bytes, and ONNX files are limited to 2 GiB");
        return Err(
            Error::bad_file(file, problem).with_hint("keep the weights of a model of this size in files beside the graph")
        );
    }
    Ok(())
}

#[expect(unsafe_code, reason = "the operating system cannot guarantee that a mapped file does not change; `open` requires it")]
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is read-only, and `Graph::open` requires that the file does not change while the graph is in use.
    unsafe { Mmap::map(file) }
}
