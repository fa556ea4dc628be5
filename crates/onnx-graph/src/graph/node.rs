//! Nodes, their attributes, and the graphs within attributes.

use std::ops::Range;

use super::tensor::{DataType, SparseTensor, Tensor};

/// One operator of a graph.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The node's own name; may be empty.
    pub name: String,
    /// The operator, such as `MatMul`.
    pub op_type: String,
    /// The operator's domain; empty for ONNX's own.
    pub domain: String,
    /// Names of values; an empty one is an omitted input.
    pub inputs: Vec<String>,
    /// Names of values; an empty one is an unused output.
    pub outputs: Vec<String>,
    /// Named constants.
    pub attributes: Vec<Attribute>,
    /// The whole `NodeProto`, as positions in the file.
    pub range: Range<usize>,
}

/// A named constant of a node.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its name, such as `axis`.
    pub name: String,
    /// Its value.
    pub value: AttributeValue,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Text, which need not be UTF-8.
    Text(Vec<u8>),
    /// Floats.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Texts.
    Texts(Vec<Vec<u8>>),
    /// One tensor or more.
    Tensors(Vec<Tensor>),
    /// One graph or more: the branches of `If`, the body of `Loop`.
    Graphs(Vec<Subgraph>),
    /// One sparse tensor or more.
    SparseTensors(Vec<SparseTensor>),
    /// A type, which is not decoded.
    Type,
    /// The attribute of this name of the surrounding function.
    Reference(String),
}

/// A graph: the main one of a file, or one within an attribute.
#[derive(Clone, Debug, Default)]
pub struct Subgraph {
    /// Its name.
    pub name: String,
    /// Operators, in topological order.
    pub nodes: Vec<Node>,
    /// Constants.
    pub initializers: Vec<Tensor>,
    /// Sparse constants.
    pub sparse_initializers: Vec<SparseTensor>,
    /// Inputs, including initializers that may be overridden.
    pub inputs: Vec<ValueInfo>,
    /// Outputs.
    pub outputs: Vec<ValueInfo>,
    /// Values between the nodes whose types or shapes the file declares.
    pub values: Vec<ValueInfo>,
    /// The whole `GraphProto`, as positions in the file.
    pub range: Range<usize>,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Its name.
    pub name: String,
    /// The elements' type; `None` for anything but a tensor.
    pub data_type: Option<DataType>,
    /// The shape; `None` if the file does not declare it.
    pub dims: Option<Vec<Dim>>,
}

/// One dimension of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this.
    Fixed(i64),
    /// The same size wherever the name is the same.
    Symbolic(String),
    /// Any size.
    Unknown,
}

/// A function: an operator that the file defines.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Its domain.
    pub domain: String,
    /// The operator's name.
    pub name: String,
    /// Its operators.
    pub nodes: Vec<Node>,
    /// Attributes with their defaults.
    pub attributes: Vec<Attribute>,
}

impl Node {
    /// The attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        self.attributes.iter().find(|attribute| attribute.name == name).map(|attribute| &attribute.value)
    }

    /// The integer attribute of this name.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attribute(name) {
            Some(AttributeValue::Int(value)) => Some(*value),
            _ => None,
        }
    }
}

impl Subgraph {
    /// The initializer of this name.
    pub fn initializer(&self, name: &str) -> Option<&Tensor> {
        self.initializers.iter().find(|tensor| tensor.name == name)
    }

    /// The node that computes this value.
    pub fn producer(&self, value: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.outputs.iter().any(|output| output == value))
    }
}
