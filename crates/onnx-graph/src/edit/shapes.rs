//! Infers which values of a graph are `[batch, tokens, width]`, and which operators work position by position.
//!
//! ONNX files need not declare the shapes of values between operators, so they are inferred from the token ids on.

use std::collections::{HashMap, HashSet};

use crate::graph::{AttributeValue, DataType, Dim, Graph, Node, Tensor, TensorData, ValueInfo};

/// The input whose second dim counts tokens.
const IDS: &str = "input_ids";

/// The inferred shape of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// `[batch, tokens, width]`
    Tokens,
    /// The same for any number of tokens.
    Constant(Constant),
}

/// The inferred shape of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Constant {
    /// The number of dims.
    n_dims: usize,
    /// Only the last dim is larger than 1: broadcast over tokens, it is the same for all.
    is_row: bool,
    /// The value of a single integer.
    integer: Option<i64>,
}

/// The inferred shapes of a graph's values; the shape of any other value is unknown.
pub(super) struct Shapes<'g> {
    graph: &'g Graph,
    shapes: HashMap<&'g str, Shape>,
    /// Names of dims that count tokens.
    token_dims: HashSet<&'g str>,
}

impl<'g> Shapes<'g> {
    /// Infers the shapes of the main graph, whose operators are in topological order.
    pub(super) fn read(graph: &'g Graph) -> Self {
        let main = graph.main();
        let mut shapes = Self { graph, shapes: HashMap::new(), token_dims: HashSet::new() };
        let overridden: HashSet<&str> = main.inputs.iter().map(|input| input.name.as_str()).collect();
        for tensor in &main.initializers {
            let constant = shapes.constant(tensor);
            let is_row = constant.is_row && !overridden.contains(tensor.name.as_str());
            shapes.shapes.insert(&tensor.name, Shape::Constant(Constant { is_row, ..constant }));
        }
        let declared: HashMap<&str, &'g ValueInfo> =
            main.values.iter().chain(&main.inputs).chain(&main.outputs).map(|value| (value.name.as_str(), value)).collect();
        if let Some([_, Dim::Symbolic(tokens)]) = declared.get(IDS).and_then(|ids| ids.dims.as_deref()) {
            shapes.token_dims.insert(tokens);
        }
        for value in declared.values() {
            shapes.learn(value);
        }
        for node in &main.nodes {
            let computed = shapes.outputs(node);
            for (output, shape) in node.outputs.iter().zip(computed) {
                if let Some(shape) = shape.filter(|_| !output.is_empty()) {
                    shapes.shapes.insert(output, shape);
                }
                if let Some(value) = declared.get(output.as_str()) {
                    shapes.learn(value);
                }
            }
        }
        shapes
    }

    /// The inputs of `node` that are `[batch, tokens, width]`, if it computes each position from that position of them alone. Its outputs have
    /// that shape too then.
    pub(super) fn token_inputs(&self, node: &'g Node) -> Option<Vec<&'g str>> {
        let contrib = node.domain == "com.microsoft";
        if !contrib && !["", "ai.onnx"].contains(&node.domain.as_str()) {
            return None;
        }
        match node.op_type.as_str() {
            "MatMul" | "FusedMatMul" => {
                let turned = ["transA", "transBatchA", "transBatchB"].iter().any(|name| node.int(name).unwrap_or(0) != 0);
                let is_matrix = self.constant_input(node, 1)?.n_dims == 2;
                self.first_and_constants(node, 1).filter(|_| is_matrix && !turned)
            }
            "MatMulNBits" | "MatMulBnb4" if contrib => self.first_and_constants(node, 1),
            "MatMulInteger" => {
                // A zero point with a dim would be one per token.
                let has_one_zero = node.inputs.get(2).is_none_or(String::is_empty) || self.constant_input(node, 2)?.n_dims == 0;
                let is_matrix = self.constant_input(node, 1)?.n_dims == 2;
                self.first_and_constants(node, 1).filter(|_| is_matrix && has_one_zero)
            }
            "SkipSimplifiedLayerNormalization" | "SkipLayerNormalization" if contrib => {
                let has_statistics = node.outputs.iter().skip(1).take(2).any(|output| !output.is_empty());
                self.first_and_constants(node, 2).filter(|_| !has_statistics)
            }
            "SimplifiedLayerNormalization" | "RMSNormalization" | "LayerNormalization" => {
                let is_last = is_last_axis(node.int("axis").unwrap_or(-1));
                self.first_and_constants(node, 1).filter(|_| is_last && node.outputs.len() == 1)
            }
            "ReduceMean" | "ReduceSum" => {
                let is_last = self.reduced_axis(node).is_some_and(is_last_axis);
                self.first_and_constants(node, 1).filter(|_| is_last && node.int("keepdims") != Some(0))
            }
            operator if ELEMENTWISE.contains(&operator) => self.rows(node),
            _ => None,
        }
    }

    /// Learns that a value whose second of three declared dims counts tokens is `[batch, tokens, width]`; or, from a value that is known to
    /// be, that its second dim counts tokens.
    fn learn(&mut self, value: &'g ValueInfo) {
        if let Some([_, Dim::Symbolic(tokens), _]) = value.dims.as_deref() {
            if self.token_dims.contains(tokens.as_str()) {
                self.shapes.insert(&value.name, Shape::Tokens);
            } else if self.is_tokens(&value.name) {
                self.token_dims.insert(tokens);
            }
        }
    }

    fn is_tokens(&self, value: &str) -> bool {
        self.shapes.get(value) == Some(&Shape::Tokens)
    }

    /// The shapes of a node's outputs.
    fn outputs(&self, node: &'g Node) -> Vec<Option<Shape>> {
        const SCALAR: Shape = Shape::Constant(Constant { n_dims: 0, is_row: true, integer: None });
        if self.token_inputs(node).is_some() {
            return vec![Some(Shape::Tokens); node.outputs.len()];
        }
        let input = |index: usize| node.inputs.get(index).map(String::as_str).unwrap_or_default();
        let n_dims = |index| self.constant_input(node, index).map(|constant| constant.n_dims);
        let of_rows = |is_so: bool| vec![is_so.then_some(Shape::Tokens)];
        match node.op_type.as_str() {
            "Constant" => vec![self.constant_node(node).map(Shape::Constant)],
            "Gather" => of_rows(input(1) == IDS && node.int("axis").unwrap_or(0) == 0 && n_dims(0) == Some(2)),
            // The scales have as many dims as the original codes, which may have been reshaped.
            "GatherBlockQuantized" => {
                of_rows(input(1) == IDS && node.int("gather_axis").unwrap_or(0) == 0 && n_dims(2) == Some(2))
            }
            "GroupQueryAttention" | "MultiHeadAttention" => of_rows(node.domain == "com.microsoft"),
            // All tokens share one scale and one zero point, so it does not work position by position.
            "DynamicQuantizeLinear" if self.is_tokens(input(0)) => vec![Some(Shape::Tokens), Some(SCALAR), Some(SCALAR)],
            _ => vec![self.computed_constant(node).map(Shape::Constant)],
        }
    }

    /// The shape of a value that is computed from constants only.
    fn computed_constant(&self, node: &Node) -> Option<Constant> {
        let first = self.constant_input(node, 0)?;
        match node.op_type.as_str() {
            "Transpose" => Some(Constant { is_row: false, integer: None, ..first }),
            "DequantizeLinear" => Some(Constant { integer: None, ..first }),
            operator if ELEMENTWISE.contains(&operator) => (0..node.inputs.len()).try_fold(first, |all, index| {
                let other = self.constant_input(node, index)?;
                let is_row = all.is_row && other.is_row;
                Some(Constant { n_dims: all.n_dims.max(other.n_dims), is_row, integer: None })
            }),
            _ => None,
        }
    }

    fn constant_node(&self, node: &'g Node) -> Option<Constant> {
        match &node.attributes.first()?.value {
            AttributeValue::Tensors(tensors) => tensors.first().map(|tensor| self.constant(tensor)),
            AttributeValue::Int(value) => Some(Constant { n_dims: 0, is_row: true, integer: Some(*value) }),
            AttributeValue::Float(_) => Some(Constant { n_dims: 0, is_row: true, integer: None }),
            _ => None,
        }
    }

    fn constant(&self, tensor: &Tensor) -> Constant {
        let dims = tensor.dims.as_slice();
        let is_row = dims.len() <= 3 && dims.iter().rev().skip(1).all(|dim| *dim == 1);
        let integer = match &tensor.data {
            TensorData::Inline(range) if tensor.data_type == DataType::INT64 => {
                self.graph.slice(range).try_into().ok().map(i64::from_le_bytes)
            }
            _ => None,
        };
        Constant { n_dims: dims.len(), is_row, integer }
    }

    fn constant_input(&self, node: &Node, index: usize) -> Option<Constant> {
        match self.shapes.get(node.inputs.get(index)?.as_str())? {
            Shape::Constant(constant) => Some(*constant),
            Shape::Tokens => None,
        }
    }

    /// The first `n` inputs, if they have a row per token and all others are constants.
    fn first_and_constants(&self, node: &'g Node, n: usize) -> Option<Vec<&'g str>> {
        let (tokens, others) = node.inputs.split_at_checked(n)?;
        let are_fixed = (n..).zip(others).all(|(index, other)| other.is_empty() || self.constant_input(node, index).is_some());
        let are_tokens = tokens.iter().all(|input| self.is_tokens(input));
        (are_fixed && are_tokens).then(|| tokens.iter().map(String::as_str).collect())
    }

    /// The inputs with a row per token, if there are any and the others are one row for all tokens.
    fn rows(&self, node: &'g Node) -> Option<Vec<&'g str>> {
        let mut tokens = Vec::new();
        for (index, input) in node.inputs.iter().enumerate().filter(|(_, input)| !input.is_empty()) {
            match self.is_tokens(input) {
                true => tokens.push(input.as_str()),
                false if self.constant_input(node, index)?.is_row => {}
                false => return None,
            }
        }
        (!tokens.is_empty()).then_some(tokens)
    }

    /// The single axis that a node reduces: an attribute, or an input in later versions of ONNX.
    fn reduced_axis(&self, node: &Node) -> Option<i64> {
        match node.attribute("axes") {
            Some(AttributeValue::Ints(axes)) => <[i64; 1]>::try_from(axes.as_slice()).ok().map(|[axis]| axis),
            _ => self.constant_input(node, 1)?.integer,
        }
    }
}

/// The last of three.
fn is_last_axis(axis: i64) -> bool {
    matches!(axis, -1 | 2)
}

/// Elementwise operators, with broadcasting.
pub(super) const ELEMENTWISE: [&str; 29] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Min",
    "Max",
    "Where",
    "Cast",
    "Identity",
    "Neg",
    "Abs",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "Erf",
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Relu",
    "Clip",
    "Gelu",
    "FastGelu",
    "BiasGelu",
    "QuickGelu",
    "Elu",
    "HardSigmoid",
    "Swish",
];
