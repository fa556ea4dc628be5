//! A graph file, read and checked before the engine sees it.

use std::path::{Path, PathBuf};

use tandem_core::backend::WeightFile;
use tandem_core::files::{GraphFile, ModelFile};
use tandem_core::{DType, Error, Result};
use tandem_onnx_graph::{DataType, Graph, Node};

/// What the file says of itself.
pub(crate) struct Source {
    /// Its name in messages.
    pub(crate) name: String,
    /// The dtype of the weights.
    pub(crate) dtype: DType,
    /// Every KV tensor is appended to by `GroupQueryAttention`, which can do so in place.
    pub(crate) in_place: bool,
    /// The graph and the files that its weights are in.
    pub(crate) weight_files: Vec<WeightFile>,
}

impl Source {
    /// Reads `graph_file` without its weights, and checks all that it refers to.
    pub(crate) fn read(graph_file: &GraphFile) -> Result<Self> {
        let (graph, directory) = open(&graph_file.file)?;
        if let Some(directory) = directory {
            graph.check(directory).map_err(bad_graph)?;
        }
        Ok(Self {
            name: graph_file.file.name().into_owned(),
            dtype: dtype_of(&graph).or(graph_file.dtype).unwrap_or(DType::F32),
            in_place: appends_in_place(&graph),
            weight_files: weight_files(&graph_file.file, &graph, directory)?,
        })
    }
}

fn open(file: &ModelFile) -> Result<(Graph, Option<&Path>)> {
    match file {
        ModelFile::Path(path) => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok((Graph::open(path).map_err(bad_graph)?, Some(directory)))
        }
        ModelFile::Embedded { name, bytes } => Ok((Graph::parse(*bytes, *name).map_err(bad_graph)?, None)),
    }
}

fn bad_graph(error: tandem_onnx_graph::Error) -> Error {
    let hint = error.hint().map_or_else(|| Some("download or export the graph again".into()), |hint| Some(hint.into()));
    match error {
        tandem_onnx_graph::Error::Field { file, field, problem, .. } => Error::BadField { file, field, problem, hint },
        tandem_onnx_graph::Error::Io { ref file, done, .. } => {
            Error::BadFile { file: file.clone(), problem: format!("cannot be {done}"), hint, source: Some(Box::new(error)) }
        }
        other => Error::BadFile { file: other.file().into(), problem: "is no graph that can be used".into(), hint, source: Some(Box::new(other)) },
    }
}

/// The dtype of the weights of the projections, from the operators that multiply by them.
fn dtype_of(graph: &Graph) -> Option<DType> {
    let nodes = graph.nodes();
    let bits = nodes.iter().filter(|node| node.op_type == "MatMulNBits").map(|node| node.int("bits").unwrap_or(4)).min();
    if let Some(bits) = bits {
        return Some(if bits <= 4 { DType::Int4 } else { DType::Int8 });
    }
    if nodes.iter().any(|node| ["MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul"].contains(&node.op_type.as_str())) {
        return Some(DType::Int8);
    }
    // The largest matrix decides: norms and tables may be of another type.
    let largest = graph.initializers().iter().filter(|tensor| tensor.dims.len() >= 2).max_by_key(|tensor| tensor.n_elements())?;
    match largest.data_type {
        DataType::FLOAT => Some(DType::F32),
        DataType::FLOAT16 => Some(DType::F16),
        DataType::BFLOAT16 => Some(DType::Bf16),
        _ => None,
    }
}

fn appends_in_place(graph: &Graph) -> bool {
    let mut pasts = graph.inputs().filter(|input| input.name.starts_with("past")).peekable();
    let takes = |name: &str| {
        let mut takers = graph.nodes().iter().filter(|node| node.inputs.iter().any(|input| input == name));
        let only = takers.next().filter(|_| takers.next().is_none());
        only.is_some_and(appends)
    };
    pasts.peek().is_some() && pasts.all(|past| takes(&past.name))
}

/// Past key and value are inputs 3 and 4, present key and value outputs 1 and 2.
/// Source: `GroupQueryAttention` in ONNX Runtime's `docs/ContribOperators.md`.
fn appends(node: &Node) -> bool {
    node.op_type == "GroupQueryAttention" && node.domain == "com.microsoft"
}

fn weight_files(file: &ModelFile, graph: &Graph, directory: Option<&Path>) -> Result<Vec<WeightFile>> {
    let mut files = vec![match file {
        ModelFile::Path(path) => weight_file(path.clone())?,
        ModelFile::Embedded { name, bytes } => WeightFile { name: (*name).into(), path: None, bytes: bytes.len() as u64 },
    }];
    if let Some(directory) = directory {
        for location in graph.external_files() {
            files.push(weight_file(directory.join(location))?);
        }
    }
    Ok(files)
}

fn weight_file(path: PathBuf) -> Result<WeightFile> {
    let name = path.display().to_string();
    let bytes = std::fs::metadata(&path).map_err(|error| Error::bad_file(&name, "cannot be read", error))?.len();
    Ok(WeightFile { name, path: Some(path), bytes })
}
