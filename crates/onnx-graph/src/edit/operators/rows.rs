//! What is known of the values of a graph as rows: which of them have as many rows, how wide these are, and whether they are floats of
//! 32 bits. What the operators of blocks demand of their inputs is decided with it.

use std::collections::HashMap;

use super::block::RowFunction;
use super::floats::FloatProduct;
use super::{CONTRIB, given, has_only, is_product};
use crate::graph::{AttributeValue, DataType, Graph, Node, Tensor, TensorData};

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Values with the same number have the same shape but for the last dim.
    pub(super) like: usize,
    /// The last dim.
    pub(super) width: Option<usize>,
    /// Whether it consists of floats of 32 bits.
    pub(super) is_f32: bool,
    /// The value has one dim more: its rows, which are `width` wide, are divided into heads of this width.
    pub(super) head: Option<usize>,
}

/// What a node does to rows. Inputs and outputs are those of the node, by their places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RowOperator {
    /// A product with a matrix of blocks.
    Product { columns: usize, rows: usize },
    /// A product with a matrix of floats.
    FloatProduct { columns: usize, rows: usize },
    /// A norm; with `has_sum` of the sum of the first two inputs, `in_heads` of each head of a row.
    RmsNorm { width: usize, epsilon: f32, has_sum: bool, in_heads: bool },
    /// Of the first two inputs.
    Add { width: usize },
    /// Of the first two inputs.
    Mul { width: usize },
    /// One of the first two inputs is a constant vector: that at the place `vector`.
    AddVector { width: usize, vector: usize },
    /// Of the first input.
    Function { width: usize, function: RowFunction },
    /// Each output has the columns of a row behind those of the output before it.
    Split { width: usize },
    /// The rows stay as they are, and are divided into heads, or no longer are.
    View { width: usize, in_heads: bool },
}

impl RowOperator {
    /// The width of its results.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Product { rows, .. } | Self::FloatProduct { rows, .. } => rows,
            Self::RmsNorm { width, .. }
            | Self::Add { width }
            | Self::Mul { width }
            | Self::AddVector { width, .. }
            | Self::Function { width, .. }
            | Self::Split { width }
            | Self::View { width, .. } => width,
        }
    }

    /// Whether its result is divided into heads.
    pub(super) fn in_heads(self) -> bool {
        matches!(self, Self::View { in_heads: true, .. } | Self::RmsNorm { in_heads: true, .. })
    }
}

/// How values come to have the same rows.
#[derive(PartialEq, Eq, Hash)]
enum Origin<'g> {
    /// They are this value's.
    Value(&'g str),
    /// They are part of others: those of a `Slice` with these inputs.
    Slice(usize, &'g [String]),
}

/// The values of a graph, as far as its nodes have been visited.
pub(super) struct KnownRows<'g> {
    graph: &'g Graph,
    constants: HashMap<&'g str, &'g Tensor>,
    known: HashMap<&'g str, Rows>,
    origins: HashMap<Origin<'g>, usize>,
}

impl<'g> KnownRows<'g> {
    pub(super) fn new(graph: &'g Graph) -> Self {
        let main = graph.main();
        let mut constants: HashMap<_, _> = main.initializers.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        // An input that stands in for a constant may be another one in each run.
        main.inputs.iter().for_each(|input| {
            constants.remove(input.name.as_str());
        });
        let mut rows = Self { graph, constants, known: HashMap::new(), origins: HashMap::new() };
        let declared = main.inputs.iter().chain(&main.values);
        for value in declared.filter(|value| value.data_type == Some(DataType::FLOAT)) {
            rows.rows(&value.name);
            rows.known.entry(&value.name).and_modify(|known| known.is_f32 = true);
        }
        rows
    }

    /// What is known of `value`.
    pub(super) fn rows(&mut self, value: &'g str) -> Rows {
        if let Some(known) = self.known.get(value) {
            return *known;
        }
        let is_f32 = self.constants.get(value).is_some_and(|tensor| tensor.data_type == DataType::FLOAT);
        let fresh = Rows { like: self.like(Origin::Value(value)), width: None, is_f32, head: None };
        self.known.insert(value, fresh);
        fresh
    }

    fn like(&mut self, origin: Origin<'g>) -> usize {
        let next = self.origins.len();
        *self.origins.entry(origin).or_insert(next)
    }

    /// What `node` does to rows, if that is all it does.
    pub(super) fn operator(&mut self, node: &'g Node) -> Option<RowOperator> {
        const ONNX: &str = "";
        let domain = if node.domain == "ai.onnx" { ONNX } else { &node.domain };
        if node.outputs.first().is_none_or(String::is_empty) {
            return None;
        }
        let first = node.inputs.first().filter(|input| !input.is_empty())?;
        let (in_heads, operator) = (self.rows(first).head.is_some(), node.op_type.as_str());
        // Others take the last dim for the width of a row.
        if in_heads && !["SimplifiedLayerNormalization", "RMSNormalization", "Reshape"].contains(&operator) {
            return None;
        }
        match (domain, operator) {
            (ONNX, "Split") => self.split(node),
            (ONNX, "Reshape") => self.view(node),
            (CONTRIB, "MatMulNBits") if is_product(self.graph, node) => {
                let n_outputs = node.int("N")?;
                // One that is computed may be a part of what the block computes.
                let has_bias = |bias: &&Tensor| bias.data_type == DataType::FLOAT && bias.dims == [n_outputs];
                if given(node, 5).is_some_and(|bias| self.constants.get(bias).filter(|bias| has_bias(bias)).is_none()) {
                    return None;
                }
                let size = |name: &str| usize::try_from(node.int(name)?).ok();
                Some(RowOperator::Product { columns: size("K")?, rows: size("N")? })
            }
            (CONTRIB, "FusedMatMul") => {
                let FloatProduct { columns, rows, .. } = FloatProduct::of(self.graph, node)?;
                Some(RowOperator::FloatProduct { columns, rows })
            }
            (ONNX, "SimplifiedLayerNormalization" | "RMSNormalization") => self.norm(node),
            (CONTRIB, "SkipSimplifiedLayerNormalization") => self.skip_norm(node),
            (ONNX, "Add" | "Mul") if node.attributes.is_empty() => self.binary(node),
            (CONTRIB, "QuickGelu") => {
                let is_silu = matches!(node.attribute("alpha"), Some(AttributeValue::Float(alpha)) if *alpha == 1.0);
                self.function(node, RowFunction::Silu).filter(|_| is_silu && has_only(node, &[], |name, _| name == "alpha"))
            }
            (CONTRIB, "FastGelu") if node.attributes.is_empty() => self.function(node, RowFunction::GeluTanh),
            (ONNX, "Gelu") => {
                let is_tanh = matches!(node.attribute("approximate"), Some(AttributeValue::Text(kind)) if kind == b"tanh");
                let only = has_only(node, &[], |name, _| name == "approximate");
                self.function(node, RowFunction::GeluTanh).filter(|_| is_tanh && only)
            }
            (ONNX, "Sigmoid") if node.attributes.is_empty() => self.function(node, RowFunction::Sigmoid),
            _ => None,
        }
    }

    /// The width of a constant vector of floats; `None` for one that is repeated.
    fn vector(&self, value: Option<&str>) -> Option<usize> {
        let tensor = self.constants.get(value?).filter(|tensor| tensor.data_type == DataType::FLOAT)?;
        match tensor.dims.as_slice() {
            &[width] => usize::try_from(width).ok().filter(|&width| width > 1),
            _ => None,
        }
    }

    fn norm(&mut self, node: &'g Node) -> Option<RowOperator> {
        let width = self.vector(given(node, 1))?;
        let own = self.rows(given(node, 0)?);
        let is_known = |name: &str, value: &AttributeValue| match (name, value) {
            ("axis", AttributeValue::Int(axis)) => *axis == -1,
            ("stash_type", AttributeValue::Int(kind)) => *kind == i64::from(DataType::FLOAT.0),
            (name, AttributeValue::Float(_)) => name == "epsilon",
            _ => false,
        };
        let is_alone = node.inputs.len() == 2 && node.outputs[1..].iter().all(String::is_empty);
        let fits = own.is_f32 && own.head.or(own.width).is_none_or(|own| own == width);
        let (epsilon, in_heads) = (epsilon(node), own.head.is_some());
        let width = own.width.unwrap_or(width);
        let norm = RowOperator::RmsNorm { width, epsilon, has_sum: false, in_heads };
        (is_alone && fits && has_only(node, &[], is_known)).then_some(norm)
    }

    /// The integers of a constant within the file.
    pub(super) fn integers(&self, value: Option<&str>) -> Option<Vec<i64>> {
        let tensor = self.constants.get(value?).filter(|tensor| tensor.data_type == DataType::INT64)?;
        let TensorData::Inline(range) = &tensor.data else { return None };
        Some(self.graph.slice(range).as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    }

    fn split(&mut self, node: &'g Node) -> Option<RowOperator> {
        let own = self.rows(given(node, 0)?);
        let sizes = split_sizes(self.graph, node)?;
        let is_last = node.int("axis").is_some_and(|axis| axis == -1) && has_only(node, &["axis"], |_, _| false);
        let is_whole = node.outputs.iter().all(|output| !output.is_empty()) && own.width.is_some() && own.width == sum(&sizes);
        own.width.filter(|_| is_last && is_whole && own.is_f32).map(|width| RowOperator::Split { width })
    }

    /// `[0, 0, heads, width of a head]`, or `[0, 0, width of a row]`.
    fn view(&mut self, node: &'g Node) -> Option<RowOperator> {
        let own = self.rows(given(node, 0)?);
        let (width, shape) = (own.width.filter(|_| own.is_f32)?, self.integers(given(node, 1))?);
        let size = |size: i64| usize::try_from(size).ok().filter(|&size| size > 1);
        let in_heads = match (shape.as_slice(), own.head) {
            (&[0, 0, heads, head], None) => (usize::try_from(heads).ok()?.checked_mul(size(head)?)? == width).then_some(true),
            (&[0, 0, whole], Some(_)) => (size(whole) == Some(width)).then_some(false),
            _ => None,
        };
        in_heads.filter(|_| node.attributes.is_empty()).map(|in_heads| RowOperator::View { width, in_heads })
    }

    /// The width of the heads of the result of `node`, which is `operator`.
    fn head(&mut self, node: &'g Node, operator: RowOperator) -> Option<usize> {
        let of_shape = || self.integers(given(node, 1))?.last().and_then(|&size| usize::try_from(size).ok());
        match operator {
            RowOperator::View { in_heads: true, .. } => of_shape(),
            RowOperator::RmsNorm { in_heads: true, .. } => self.rows(&node.inputs[0]).head,
            _ => None,
        }
    }

    fn skip_norm(&mut self, node: &'g Node) -> Option<RowOperator> {
        let width = self.vector(given(node, 2))?;
        let (first, second) = (self.rows(given(node, 0)?), self.rows(given(node, 1)?));
        // Behind the weight a bias, and between the outputs means and variances.
        let is_plain = node.inputs.iter().skip(3).all(String::is_empty)
            && node.outputs.iter().enumerate().all(|(place, output)| [0, 3].contains(&place) || output.is_empty());
        let fits = |rows: Rows| rows.like == first.like && rows.head.is_none() && rows.width.is_none_or(|own| own == width);
        let is_known = |name: &str, value: &AttributeValue| name == "epsilon" && matches!(value, AttributeValue::Float(_));
        let epsilon = epsilon(node);
        (is_plain && fits(first) && fits(second) && has_only(node, &[], is_known)).then_some(RowOperator::RmsNorm {
            width,
            epsilon,
            has_sum: true,
            in_heads: false,
        })
    }

    fn binary(&mut self, node: &'g Node) -> Option<RowOperator> {
        let [first, second] = node.inputs.as_slice() else { return None };
        let vectors = [first, second].map(|value| self.vector(Some(value)));
        let both = [self.rows(first), self.rows(second)];
        let is_add = node.op_type == "Add";
        for (vector, value) in [(1, 0), (0, 1)] {
            if let (Some(width), true) = (vectors[vector], is_add && both[value].is_f32)
                && both[value].width == Some(width)
            {
                return Some(RowOperator::AddVector { width, vector });
            }
        }
        let width = both[0].width.filter(|_| both[0] == both[1] && both[0].is_f32)?;
        Some(if is_add { RowOperator::Add { width } } else { RowOperator::Mul { width } })
    }

    fn function(&mut self, node: &'g Node, function: RowFunction) -> Option<RowOperator> {
        let [input] = node.inputs.as_slice() else { return None };
        let rows = self.rows(input);
        rows.width.filter(|_| rows.is_f32).map(|width| RowOperator::Function { width, function })
    }

    /// Notes what is known of the outputs of `node`, which is `operator` if that is known.
    pub(super) fn visit(&mut self, node: &'g Node, operator: Option<RowOperator>) {
        let Some(output) = node.outputs.first().filter(|output| !output.is_empty()) else { return };
        if let Some(operator) = operator {
            let vector = matches!(operator, RowOperator::AddVector { vector: 0, .. });
            let like = self.rows(&node.inputs[usize::from(vector)]).like;
            let rows = Rows { like, width: Some(operator.width()), is_f32: true, head: self.head(node, operator) };
            let sizes = if let RowOperator::Split { .. } = operator { split_sizes(self.graph, node) } else { None };
            for (place, output) in node.outputs.iter().enumerate().filter(|(_, output)| !output.is_empty()) {
                let width = sizes.as_ref().map_or(rows.width, |sizes| sizes.get(place).copied());
                self.known.insert(output, Rows { width, ..rows });
            }
            return;
        }
        let Some(input) = node.inputs.first() else { return };
        let (own, before) = (self.rows(output), self.rows(input));
        let rows = match node.op_type.as_str() {
            "GroupQueryAttention" => Rows { like: before.like, width: None, is_f32: before.is_f32, head: None },
            "Cast" => Rows { is_f32: node.int("to") == Some(DataType::FLOAT.0.into()), ..before },
            "Slice" if self.slices_tokens(node) => {
                let like = self.like(Origin::Slice(before.like, &node.inputs[1..]));
                Rows { like, width: None, is_f32: before.is_f32, head: None }
            }
            "Gather" if node.int("axis").unwrap_or(0) == 0 => {
                let table = self.constants.get(input.as_str()).map(|tensor| tensor.dims.as_slice());
                let width = if let Some(&[_, width]) = table { usize::try_from(width).ok() } else { None };
                Rows { width, is_f32: before.is_f32, ..own }
            }
            "GatherBlockQuantized" => Rows { is_f32: given(node, 2).is_some_and(|scales| self.rows(scales).is_f32), ..own },
            "Slice" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Identity" => Rows { is_f32: before.is_f32, ..own },
            "Add" | "Mul" | "Sub" | "Div" => {
                Rows { is_f32: before.is_f32 || given(node, 1).is_some_and(|other| self.rows(other).is_f32), ..own }
            }
            _ => own,
        };
        self.known.insert(output, rows);
    }

    /// Whether a `Slice` takes parts of the second dim alone: of rows, whole ones.
    fn slices_tokens(&self, node: &Node) -> bool {
        let axes = given(node, 3).and_then(|axes| self.constants.get(axes));
        let is_one = |tensor: &Tensor| {
            let TensorData::Inline(range) = &tensor.data else { return false };
            tensor.data_type == DataType::INT64 && self.graph.slice(range) == 1_i64.to_le_bytes()
        };
        node.domain.is_empty() && axes.is_some_and(|axes| is_one(axes))
    }
}

/// The widths of the outputs of a `Split`, which a constant within the file has.
pub(super) fn split_sizes(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    let main = graph.main();
    let name = given(node, 1)?;
    let tensor = main.initializer(name).filter(|_| !main.inputs.iter().any(|input| input.name == name))?;
    let TensorData::Inline(range) = &tensor.data else { return None };
    let sizes = graph.slice(range).as_chunks().0.iter().map(|bytes| usize::try_from(i64::from_le_bytes(*bytes)).ok());
    let sizes: Vec<usize> = sizes.collect::<Option<_>>()?;
    (tensor.data_type == DataType::INT64 && sizes.len() == node.outputs.len() && !sizes.contains(&0)).then_some(sizes)
}

/// The sum of sizes that a file may have of any size.
fn sum(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(0_usize, |sum, size| sum.checked_add(*size))
}

/// A norm's, or the default of all of them.
fn epsilon(node: &Node) -> f32 {
    match node.attribute("epsilon") {
        Some(AttributeValue::Float(epsilon)) => *epsilon,
        _ => 1e-5,
    }
}
