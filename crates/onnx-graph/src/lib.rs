//! Read, check, edit, build and write ONNX graphs, without an engine.

mod build;
mod check;
mod edit;
mod encode;
mod error;
mod graph;
mod schema;
mod wire;

pub use crate::build::{
    BuildOptions, Built, DATA_FILE, DecoderSpec, GRAPH_FILE, Outputs, RopeTable, SourceError, Weight, WeightFormat, WeightSource,
    WeightType, build, build_inline, export,
};
pub use crate::edit::{Activations, Edit, LogitsControl};
pub use crate::error::{Error, Result};
pub use crate::graph::{
    Attribute, AttributeValue, DataType, Dim, ExternalData, Function, Graph, Node, OpsetImport, SparseTensor, Subgraph, Tensor,
    TensorData, ValueInfo,
};
