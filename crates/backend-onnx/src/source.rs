//! Chooses the graph that the engine loads: a graph file, read and checked before the engine sees it and edited where that makes it faster,
//! or one that is built from the checkpoint.

mod adapted;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use tandem_core::backend::{Kernels, LoadOptions, Numerics, Purpose, WeightFile};
use tandem_core::cache::MADE_IN_MEMORY;
use tandem_core::config::ModelConfig;
use tandem_core::files::{GraphFile, ModelFile, ModelFiles};
use tandem_core::{DType, Device, Error, Result};
use tandem_kernels::matrix::Kernels as ByRows;
use tandem_onnx_graph::{Activations, AdapterInputs, CustomProduct, DataType, Dim, Edit, Graph, LogitsControl, Node};

pub(crate) use self::adapted::needed_inputs;
use self::adapted::{has_modules, own_inputs};
use crate::error::bad_graph;
use crate::export::{GraphPlan, RunBy, encodes, graph_format, refuse_unsupported_architecture};
use crate::graph_cache::{CachedGraph, cached_graph};
use crate::kv::held_by_own;
use crate::operators::kernels_for;
use crate::value_names::can_probe;

/// A larger graph, weights included, is edited only where it must be: an edit makes a copy in memory.
const CHEAP_TO_COPY: usize = 64 << 20;

/// A graph for the engine, with what is known about it.
pub(crate) struct Source {
    /// Its name in messages.
    pub(crate) name: String,
    /// Where the engine reads it.
    pub(crate) location: GraphLocation,
    /// The dtype of the weights.
    pub(crate) dtype: DType,
    /// In what they are multiplied by, which may be narrower floats that are widened as they are read.
    pub(crate) memory_dtype: DType,
    /// Every KV tensor is appended to by `GroupQueryAttention`, which can do so in place.
    pub(crate) in_place: bool,
    /// With Tandem's operators, a run can be given the tokens of several sequences.
    pub(crate) can_pack: bool,
    /// Without any of them, a run can be given a token of each of several sequences.
    pub(crate) can_stack: bool,
    /// And Tandem's operators stand in for all of those.
    pub(crate) cache_in_blocks: bool,
    /// Its inner values have known names.
    pub(crate) can_probe: bool,
    /// Its products are those of modules, which adapters change.
    pub(crate) can_adapt: bool,
    /// The products that have inputs for adapters already.
    pub(crate) own: Vec<String>,
    /// The inputs for adapters that were added.
    pub(crate) added: Vec<AdapterInputs>,
    /// The products that Tandem's operators compute, adapters included.
    pub(crate) custom_products: Vec<CustomProduct>,
    /// The files of the graph and its weights.
    pub(crate) weight_files: Vec<WeightFile>,
    /// Keeps a graph from the cache from being removed.
    pub(crate) cached: Option<CachedGraph>,
}

/// Where the engine reads a graph.
pub(crate) enum GraphLocation {
    /// The file as it is.
    File(PathBuf),
    /// Bytes, and the directory of the external weights.
    Memory { bytes: Cow<'static, [u8]>, weights: Option<PathBuf> },
}

impl GraphLocation {
    /// Of a graph that was taken.
    const NOWHERE: Self = Self::Memory { bytes: Cow::Borrowed(&[]), weights: None };
}

/// Where the graph of a model comes from.
pub(crate) enum GraphSource {
    /// A graph file.
    Graph(GraphFile),
    /// A graph that is built from the checkpoint.
    Export,
}

impl GraphSource {
    /// Chooses among `files` for `dtype`; `graph` is one that was named.
    pub(crate) fn choose(files: &ModelFiles, dtype: Option<DType>, graph: Option<&Path>) -> Result<Self> {
        if let Some(path) = graph {
            return Ok(Self::Graph(GraphFile { file: ModelFile::Path(path.into()), dtype: None }));
        }
        match files.graph_for(dtype) {
            Ok(found) => Ok(Self::Graph(found.clone())),
            Err(_) if can_be_made(files, dtype) => Ok(Self::Export),
            // Its dtype is known only once it is read.
            Err(none) => Ok(Self::Graph(files.graphs.iter().find(|graph| files.dtype_of(graph).is_none()).ok_or(none)?.clone())),
        }
    }
}

/// A graph that was read and checked.
pub(crate) struct OpenedGraph {
    file: ModelFile,
    pub(crate) graph: Graph,
    pub(crate) dtype: DType,
}

impl OpenedGraph {
    /// Reads and checks `found`, whose weights must have the `requested` dtype, if one is.
    pub(crate) fn open(found: &GraphFile, requested: Option<DType>) -> Result<Self> {
        let file = found.file.clone();
        let graph = open(&file)?;
        if let Some(directory) = directory(&file) {
            graph.check(directory).map_err(bad_graph)?;
        }
        let dtype = dtype_of(&graph).or(found.dtype).unwrap_or(DType::F32);
        if let Some(requested) = requested.filter(|&requested| requested != dtype) {
            let problem = format!("`{requested}` was requested, and the weights of this graph are {dtype}");
            return Err(Error::bad_field(file.name(), "dtype", problem));
        }
        Ok(Self { file, graph, dtype })
    }
}

/// A graph that was opened, or that is to be exported.
pub(crate) enum OpenedSource {
    Graph(Box<OpenedGraph>),
    Export,
}

impl OpenedSource {
    /// Opens what `options` request among `files`.
    pub(crate) fn open(files: &ModelFiles, options: &LoadOptions) -> Result<Self> {
        let found = match GraphSource::choose(files, options.dtype, options.onnx.graph.as_deref())? {
            GraphSource::Graph(found) => found,
            GraphSource::Export => return Ok(Self::Export),
        };
        let opened = OpenedGraph::open(&found, options.dtype)?;
        // A published graph for generation is of no use when texts are embedded.
        let is_free = options.onnx.graph.is_none() && !files.weights.is_empty();
        if is_free && options.purpose == Purpose::Encode && generates(&opened.graph) {
            return Ok(Self::Export);
        }
        Ok(Self::Graph(Box::new(opened)))
    }

    /// The graph that was opened.
    pub(crate) fn graph(&self) -> Option<&Graph> {
        match self {
            Self::Graph(opened) => Some(&opened.graph),
            Self::Export => None,
        }
    }

    /// Whether it encodes, and does not generate.
    pub(crate) fn encodes(&self, config: &ModelConfig, purpose: Purpose) -> bool {
        match self {
            Self::Graph(opened) => !generates(&opened.graph),
            Self::Export => encodes(config, purpose),
        }
    }

    /// The graph for the engine.
    pub(crate) fn source(&self, files: &ModelFiles, config: &ModelConfig, options: &LoadOptions) -> Result<Source> {
        match self {
            Self::Graph(opened) => {
                refuse_head_size(&opened.graph, config.head_dim())?;
                Source::of_graph(opened, options)
            }
            Self::Export => Source::export(files, config, options),
        }
    }
}

impl Source {
    /// The graph that `options` request among `files`.
    pub(crate) fn choose(files: &ModelFiles, config: &ModelConfig, options: &LoadOptions) -> Result<Self> {
        OpenedSource::open(files, options)?.source(files, config, options)
    }

    /// The graph as the engine gets it, and the directory of its external weights.
    pub(crate) fn graph(&self) -> Result<(Graph, Option<PathBuf>)> {
        match &self.location {
            GraphLocation::File(path) => Ok((Graph::open(path).map_err(bad_graph)?, path.parent().map(Path::to_owned))),
            GraphLocation::Memory { bytes, weights } => {
                Ok((Graph::parse(bytes.clone(), &self.name).map_err(bad_graph)?, weights.clone()))
            }
        }
    }

    /// Edits the graph once more, unless `change` says that there is nothing to change. After an error the graph is gone.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&Graph, &mut Edit<'_>) -> Result<bool>) -> Result<()> {
        // Moved and not copied: it may hold all weights.
        match std::mem::replace(&mut self.location, GraphLocation::NOWHERE) {
            GraphLocation::File(path) => {
                let graph = Graph::open(&path).map_err(bad_graph)?;
                let mut edit = graph.edit();
                if !change(&graph, &mut edit)? {
                    self.location = GraphLocation::File(path);
                    return Ok(());
                }
                let directory = path.parent().filter(|_| !graph.external_files().is_empty());
                let weights = directory.map(|directory| edit.relocate(directory)).transpose().map_err(bad_graph)?;
                self.location = GraphLocation::Memory { bytes: Cow::Owned(edit.to_bytes().map_err(bad_graph)?), weights };
            }
            GraphLocation::Memory { bytes, weights } => {
                let graph = Graph::parse(bytes, &self.name).map_err(bad_graph)?;
                let mut edit = graph.edit();
                let edited = change(&graph, &mut edit)?.then(|| edit.to_bytes()).transpose().map_err(bad_graph)?;
                drop(edit);
                let bytes = edited.map_or_else(|| graph.into_bytes(), Cow::Owned);
                self.location = GraphLocation::Memory { bytes, weights };
            }
        }
        Ok(())
    }

    /// Gives products and attention to Tandem's operators where `options` say so; the last edit. Says how their kernels are chosen, if there
    /// are any: rows of a text that is encoded must not depend on those of others.
    pub(crate) fn use_custom_operators(&mut self, options: &LoadOptions) -> Result<Option<ByRows>> {
        let (mut used, mut custom_products) = (None, Vec::new());
        let (mut is_all_attention, mut can_pack) = (false, false);
        let self_dtype = self.dtype;
        if kernels_for(options)? == Kernels::Tandem {
            self.edit(|graph, edit| {
                let encodes = options.purpose == Purpose::Encode || !generates(graph);
                is_all_attention = !encodes && graph.can_hold_f16();
                let narrow = !encodes && held_by_own(graph, self_dtype, options) == DType::F16;
                let own = edit.use_custom_operators(if narrow { DataType::FLOAT16 } else { DataType::FLOAT });
                custom_products = own.products;
                can_pack = !encodes && graph.can_pack_sequences();
                used = (own.n_nodes > 0).then_some(if encodes { ByRows::ByShape } else { ByRows::Fastest });
                Ok(used.is_some())
            })?;
        }
        (self.custom_products, self.can_pack) = (custom_products, can_pack);
        self.cache_in_blocks = self.in_place && is_all_attention;
        // Kernels of ours are chosen by how many rows one sequence has.
        self.can_stack &= used.is_none();
        Ok(used)
    }

    /// Gives products inputs for adapters.
    pub(crate) fn add_adapter_inputs(&mut self, added: &[AdapterInputs]) -> Result<()> {
        if !added.is_empty() {
            self.edit(|_, edit| edit.add_adapter_inputs(added).map_err(bad_graph).map(|()| true))?;
            self.added = added.to_vec();
        }
        Ok(())
    }

    /// The graph that was opened, with the edits that `options` request.
    fn of_graph(opened: &OpenedGraph, options: &LoadOptions) -> Result<Self> {
        let OpenedGraph { file, graph, dtype } = opened;
        let directory = directory(file);
        Ok(Self {
            name: file.name().into_owned(),
            location: location(file, graph, directory, options)?,
            dtype: *dtype,
            memory_dtype: memory_dtype(graph, *dtype),
            in_place: appends_in_place(graph),
            can_pack: false,
            can_stack: appends_in_place(graph) && graph.can_stack_sequences(),
            cache_in_blocks: false,
            can_probe: can_probe(graph),
            can_adapt: has_modules(graph),
            own: own_inputs(graph),
            added: Vec::new(),
            custom_products: Vec::new(),
            weight_files: weight_files(file, graph, directory)?,
            cached: None,
        })
    }

    /// A graph of the checkpoint: in memory when that is small or part of the program, otherwise from the cache.
    fn export(files: &ModelFiles, config: &ModelConfig, options: &LoadOptions) -> Result<Self> {
        // Before all weights are hashed to find the graph in the cache.
        let dtype = options.dtype.unwrap_or(DType::F32);
        let format = graph_format(config, dtype, options.purpose);
        refuse_unsupported_architecture(config, format.outputs, &files.name)?;
        if stored_bytes(files)? >= MADE_IN_MEMORY && files.weights.iter().all(|file| file.path().is_some()) {
            let cached = cached_graph(files, dtype, options)?;
            let file = ModelFile::Path(cached.path().into());
            let opened = OpenedGraph::open(&GraphFile { file, dtype: Some(dtype) }, options.dtype)?;
            return Ok(Self { cached: Some(cached), ..Self::of_graph(&opened, options)? });
        }
        let bytes = GraphPlan::open(files, config, format, RunBy::of(options)?)?.build()?;
        let graph = Graph::parse(bytes, &files.name).map_err(bad_graph)?;
        Ok(Self {
            name: files.name.clone(),
            location: edited(&graph, None, options)?
                .unwrap_or_else(|| GraphLocation::Memory { bytes: Cow::Owned(graph.bytes().to_vec()), weights: None }),
            dtype,
            memory_dtype: memory_dtype(&graph, dtype),
            in_place: appends_in_place(&graph),
            can_pack: false,
            can_stack: appends_in_place(&graph) && graph.can_stack_sequences(),
            cache_in_blocks: false,
            can_probe: can_probe(&graph),
            can_adapt: has_modules(&graph),
            own: own_inputs(&graph),
            added: Vec::new(),
            custom_products: Vec::new(),
            weight_files: files.weights.iter().map(ModelFile::weight_file).collect::<Result<_>>()?,
            cached: None,
        })
    }
}

/// Whether a graph of `dtype` can be built from the weights. For a model with graphs, one is built only if a dtype was requested.
pub(crate) fn can_be_made(files: &ModelFiles, dtype: Option<DType>) -> bool {
    let is_made = matches!(dtype, None | Some(DType::F32 | DType::F16 | DType::Int8 | DType::Int4));
    !files.weights.is_empty() && (files.graphs.is_empty() || (dtype.is_some() && is_made))
}

/// Bytes of the files that the weights of a checkpoint are in.
pub(crate) fn stored_bytes(files: &ModelFiles) -> Result<u64> {
    files.weights.iter().map(ModelFile::len).sum()
}

fn open(file: &ModelFile) -> Result<Graph> {
    match file {
        ModelFile::Path(path) => Graph::open(path),
        ModelFile::Embedded { name, bytes } => Graph::parse(*bytes, *name),
        ModelFile::Gguf { .. } => Graph::parse(file.map()?.to_vec(), file.name()),
    }
    .map_err(bad_graph)
}

/// Where the weights of a graph that is a file lie.
fn directory(file: &ModelFile) -> Option<&Path> {
    let parent = file.path()?.parent().filter(|parent| !parent.as_os_str().is_empty());
    Some(parent.unwrap_or(Path::new(".")))
}

fn location(file: &ModelFile, graph: &Graph, directory: Option<&Path>, options: &LoadOptions) -> Result<GraphLocation> {
    if let Some(edited) = edited(graph, directory, options)? {
        return Ok(edited);
    }
    Ok(match file {
        ModelFile::Path(path) => GraphLocation::File(path.clone()),
        ModelFile::Embedded { bytes, .. } => GraphLocation::Memory { bytes: Cow::Borrowed(bytes), weights: None },
        ModelFile::Gguf { .. } => GraphLocation::Memory { bytes: Cow::Owned(graph.bytes().to_vec()), weights: None },
    })
}

/// The graph with the edits that are worthwhile, if any are.
fn edited(graph: &Graph, directory: Option<&Path>, options: &LoadOptions) -> Result<Option<GraphLocation>> {
    let mut edit = graph.edit();
    let activations = match options.numerics {
        Numerics::Fast => Activations::Int8WhereOpen,
        Numerics::Exact => Activations::Float,
    };
    let mut worth = edit.set_activations(activations) > 0;
    worth |= matches!(options.device, Device::Cuda(_)) && edit.adapt_to_cuda().map_err(bad_graph)? > 0;
    if worth || graph.bytes().len() <= CHEAP_TO_COPY {
        worth |= control_logits(graph, &mut edit);
    }
    if !worth {
        return Ok(None);
    }
    let weights =
        directory.filter(|_| !graph.external_files().is_empty()).map(|d| edit.relocate(d)).transpose().map_err(bad_graph)?;
    Ok(Some(GraphLocation::Memory { bytes: Cow::Owned(edit.to_bytes().map_err(bad_graph)?), weights }))
}

/// Adds an input for the number of logits, unless the head is not recognised.
fn control_logits(graph: &Graph, edit: &mut Edit<'_>) -> bool {
    if !generates(graph) {
        return false;
    }
    // One with a default is an input too.
    let has = graph.main().inputs.iter().any(|input| input.name == "num_logits_to_keep");
    !has && matches!(edit.control_logits("logits"), Ok(LogitsControl::Input))
}

/// Whether a graph generates: it has a KV cache, and logits for each token.
fn generates(graph: &Graph) -> bool {
    let logits = graph.outputs().iter().find(|output| output.name == "logits");
    graph.inputs().any(|input| input.name.starts_with("past"))
        && logits.is_some_and(|logits| logits.dims.as_ref().is_none_or(|dims| dims.len() != 2))
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
    // A graph of Tandem's says it: its floats may be narrower than what they are widened to.
    let said = graph.metadata().iter().find(|(key, _)| key == "tandem.weights").and_then(|(_, dtype)| dtype.parse().ok());
    // The largest matrix decides: norms and tables may be of another type.
    let largest = graph.initializers().iter().filter(|tensor| tensor.dims.len() >= 2).max_by_key(|tensor| tensor.n_elements())?;
    said.or_else(|| float_dtype(largest.data_type))
}

fn float_dtype(data_type: DataType) -> Option<DType> {
    match data_type {
        DataType::FLOAT => Some(DType::F32),
        DataType::FLOAT16 => Some(DType::F16),
        DataType::BFLOAT16 => Some(DType::Bf16),
        _ => None,
    }
}

/// In what the weights of `graph`, of `dtype`, are multiplied by: those of floats in rows as they are stored.
fn memory_dtype(graph: &Graph, dtype: DType) -> DType {
    let of_rows = graph.nodes().iter().filter_map(|node| graph.float_rows(node)).max_by_key(|tensor| tensor.n_elements());
    of_rows.filter(|_| dtype == DType::F32).and_then(|tensor| float_dtype(tensor.data_type)).unwrap_or(dtype)
}

/// Refuses heads that `GroupQueryAttention` does not accept, which it would say at the first run only. `head_dim` is their width where the
/// graph does not declare it.
///
/// # Errors
/// [`Error::Unsupported`].
fn refuse_head_size(graph: &Graph, head_dim: usize) -> Result<()> {
    let Some(attention) = graph.nodes().iter().find(|node| appends(node)) else { return Ok(()) };
    let past = attention.inputs.get(3).and_then(|past| graph.inputs().find(|input| input.name == *past));
    let head_dim = match past.and_then(|past| past.dims.as_ref()?.last()) {
        Some(&Dim::Fixed(declared)) => declared,
        _ => head_dim as i64,
    };
    let multiple = if attention.int("do_rotary").unwrap_or(0) != 0 { 16 } else { 8 };
    if head_dim % multiple == 0 {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("the graph `{}`, whose attention has heads of {head_dim},", graph.file()),
        reason: format!("ONNX Runtime's `GroupQueryAttention` accepts multiples of {multiple} here"),
        hint: Some("use the checkpoint, from which a graph with padded heads is built".into()),
    })
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

/// The operator writes where the attention mask ends when its past and its present are one value.
/// Source: `ConcatStateChunkGQA` in ONNX Runtime's `gqa_attention_base.h`.
fn appends(node: &Node) -> bool {
    node.op_type == "GroupQueryAttention" && node.domain == "com.microsoft"
}

fn weight_files(file: &ModelFile, graph: &Graph, directory: Option<&Path>) -> Result<Vec<WeightFile>> {
    let beside = directory.into_iter().flat_map(|directory| {
        graph.external_files().into_iter().map(move |location| ModelFile::Path(directory.join(location))).collect::<Vec<_>>()
    });
    std::iter::once(file.clone()).chain(beside).map(|file| file.weight_file()).collect()
}
