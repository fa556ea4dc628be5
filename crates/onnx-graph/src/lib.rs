//! Read, check, edit, build and write ONNX graphs of decoders and encoders, without an engine.
//!
//! - [`Graph`] reads a file's operators, inputs, outputs and where its weights are; the weights stay in the mapped file.
//! - [`Graph::check`] refuses untrusted files that reach outside their directory, need a custom library, or lie about sizes.
//! - [`Graph::edit`] changes a few places of a file and keeps every other byte, including fields of later ONNX versions.
//! - [`export`], [`build`] and [`build_inline`] build a graph from the weights of a checkpoint.
//!
//! A graph is read at the level of the protobuf wire format. A generated reader of the ONNX messages (`prost`) drops the fields that it
//! does not know, and would copy gigabytes of inline weights to change an attribute. Here a reader holds positions within the mapped
//! file, and an edit is a list of replaced ranges.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use tandem_onnx_graph::{Activations, Graph};
//!
//! let directory = Path::new("model/onnx");
//! let graph = Graph::open(&directory.join("model_q4.onnx"))?;
//! graph.check(directory)?;
//! println!("{:?}", graph.operator_counts());
//!
//! let mut edit = graph.edit();
//! edit.control_logits("logits")?;
//! edit.set_activations(Activations::Int8WhereOpen);
//! let folder_of_weights = edit.relocate(directory)?;
//! let for_the_engine = edit.to_bytes()?;
//! # Ok::<(), tandem_onnx_graph::Error>(())
//! ```

mod build;
mod check;
mod edit;
mod encode;
mod error;
mod graph;
mod schema;
mod wire;

pub use crate::build::{
    Activation, Blocks, BuildOptions, Built, DATA_FILE, DecoderSpec, EmbeddingSpec, EncoderLayer, EncoderSpec, GRAPH_FILE,
    Interrupted, Linear, Needs, Norm, NormKind, Norms, Outputs, RelativeBias, RopeTable, SourceError, Spec, Table, Weight,
    WeightFormat, WeightSource, WeightType, build, build_inline, export, needs, smoke_test_graph,
};
pub use crate::edit::{
    ADAPTER_INPUT, ADAPTER_PLACE, Activations, AdapterInputs, BLOCK_OPERATOR, BlockMatrix, CustomOperators, CustomProduct, Edit,
    F16_ATTENTION, FloatMatrix, LogitsControl, LowRank, MODULE_ATTRIBUTE, OPERATOR_DOMAIN, OUTPUTS_ATTRIBUTE, Product, RowBlock,
    RowFunction, RowStep, STEPS_ATTRIBUTE, WIDTHS_ATTRIBUTE, module_name, product_attribute,
};
pub use crate::error::{Error, Result};
pub use crate::graph::{
    Attribute, AttributeValue, DataType, Dim, ExternalData, Function, Graph, Node, OpsetImport, SparseTensor, Subgraph, Tensor,
    TensorData, ValueInfo,
};
