//! The weight of a product: which constants it is made of, and in what layout.

use crate::graph::{DataType, Graph, Node, Tensor};

/// Operators between a constant and its use; no exporter writes more.
const MAX_STEPS: usize = 4;
/// More inputs than any matrix has.
const MAX_SIZE: usize = 1 << 31;

/// A weight by its constants.
#[derive(Debug)]
pub(super) enum Weight<'g> {
    /// Floats.
    Floats {
        tensor: &'g Tensor,
        /// Stored as `[outputs, inputs]`, and not as `[inputs, outputs]`.
        has_rows: bool,
    },
    /// Integers with a scale for each block of inputs, as `MatMulNBits` has them.
    Blocks { codes: &'g Tensor, scales: &'g Tensor, zeros: Option<&'g Tensor>, bits: usize, block_size: usize },
    /// Integers with one scale or one for each output.
    Integers {
        codes: &'g Tensor,
        zeros: Option<&'g Tensor>,
        scales: Option<&'g Tensor>,
        /// Stored as `[outputs, inputs]`, and not as `[inputs, outputs]`.
        has_rows: bool,
    },
    /// Another form, which is multiplied by but not read.
    Other,
}

/// What a node multiplies by.
pub(super) struct Multiplied<'g> {
    pub(super) weight: Weight<'g>,
    pub(super) n_inputs: usize,
    pub(super) n_outputs: usize,
    /// The type of the floats.
    pub(super) data_type: DataType,
    /// The bias that the node adds.
    pub(super) bias: Option<&'g str>,
    /// Names of the values that the weight is, from the product back to the constant.
    pub(super) names: Vec<&'g str>,
}

/// A constant, and what happens to it before it is used.
struct Constant<'g> {
    tensor: &'g Tensor,
    is_transposed: bool,
    /// It is dequantised or cast to floats of this type.
    converted: Option<DataType>,
    /// The node that dequantises it.
    dequantised: Option<&'g Node>,
    names: Vec<&'g str>,
}

impl<'g> Multiplied<'g> {
    /// What `node` multiplies its first input by, if that is a constant matrix.
    pub(super) fn of(graph: &'g Graph, node: &'g Node) -> Option<Self> {
        match (node.domain.as_str(), node.op_type.as_str()) {
            ("" | "ai.onnx", "MatMul") => Self::floats(graph, node, false, None),
            ("com.microsoft", "FusedMatMul") => {
                let is_plain = ["transA", "transBatchA", "transBatchB"].iter().all(|name| node.int(name).unwrap_or(0) == 0);
                Self::floats(graph, node, node.int("transB") == Some(1), None).filter(|_| is_plain && is_one(node, "alpha"))
            }
            ("" | "ai.onnx", "Gemm") => {
                let is_plain = node.int("transA").unwrap_or(0) == 0 && is_one(node, "alpha") && is_one(node, "beta");
                Self::floats(graph, node, node.int("transB") == Some(1), bias(node, 2)).filter(|_| is_plain)
            }
            ("com.microsoft", "MatMulNBits") => Self::blocks(graph, node),
            ("" | "ai.onnx", "MatMulInteger") => Self::integers(graph, node, [3, usize::MAX], None),
            ("com.microsoft", "DynamicQuantizeMatMul") => Self::integers(graph, node, [3, 2], bias(node, 4)),
            _ => None,
        }
    }

    fn floats(graph: &'g Graph, node: &'g Node, turned: bool, bias: Option<&'g str>) -> Option<Self> {
        let constant = constant(graph, node.inputs.get(1)?)?;
        let [first, second] = matrix(constant.tensor)?;
        let has_rows = turned != constant.is_transposed;
        let [n_inputs, n_outputs] = if has_rows { [second, first] } else { [first, second] };
        let data_type = constant.converted.unwrap_or(constant.tensor.data_type);
        let is_widened = constant.converted == Some(DataType::FLOAT)
            && [DataType::FLOAT16, DataType::BFLOAT16].contains(&constant.tensor.data_type);
        let weight = match (constant.converted.filter(|_| !is_widened), constant.dequantised) {
            (None, _) => Weight::Floats { tensor: constant.tensor, has_rows },
            (Some(_), Some(node)) => dequantised(graph, node, constant.tensor, has_rows).unwrap_or(Weight::Other),
            (Some(_), None) => Weight::Other,
        };
        Some(Self { weight, n_inputs, n_outputs, data_type, bias, names: constant.names })
    }

    fn blocks(graph: &'g Graph, node: &'g Node) -> Option<Self> {
        let main = graph.main();
        let given = |index: usize| node.inputs.get(index).filter(|input| !input.is_empty());
        let codes = main.initializer(node.inputs.get(1)?)?;
        let scales = main.initializer(node.inputs.get(2)?)?;
        let attribute = |name: &str| usize::try_from(node.int(name)?).ok().filter(|value| (1..=MAX_SIZE).contains(value));
        let (n_inputs, n_outputs) = (attribute("K")?, attribute("N")?);
        if codes.dims.first() != node.int("N").as_ref() {
            return None;
        }
        let (bits, block_size) = (attribute("bits").unwrap_or(4), attribute("block_size")?);
        let zeros = given(3).map(|zeros| main.initializer(zeros));
        let is_known = [4, 8].contains(&bits) && given(4).is_none() && zeros.is_none_or(|zeros| zeros.is_some());
        let weight = match zeros.flatten() {
            _ if !is_known => Weight::Other,
            zeros => Weight::Blocks { codes, scales, zeros, bits, block_size },
        };
        let names = vec![codes.name.as_str()];
        Some(Self { weight, n_inputs, n_outputs, data_type: scales.data_type, bias: bias(node, 5), names })
    }

    /// Integers whose zero points and scales are inputs with these indices.
    fn integers(graph: &'g Graph, node: &'g Node, [zeros, scales]: [usize; 2], bias: Option<&'g str>) -> Option<Self> {
        let main = graph.main();
        let codes = main.initializer(node.inputs.get(1)?)?;
        let [n_inputs, n_outputs] = matrix(codes)?;
        let given = |index: usize| node.inputs.get(index).filter(|input| !input.is_empty());
        let is_constant = |index| given(index).is_none_or(|name| main.initializer(name).is_some());
        let tensor = |index| given(index).and_then(|name| main.initializer(name));
        let weight = match is_constant(zeros) {
            true => Weight::Integers { codes, zeros: tensor(zeros), scales: tensor(scales), has_rows: false },
            false => Weight::Other,
        };
        Some(Self { weight, n_inputs, n_outputs, data_type: DataType::FLOAT, bias, names: vec![codes.name.as_str()] })
    }
}

impl<'g> Weight<'g> {
    /// The same with the scales that come after the product of integers.
    pub(super) fn scaled(self, after: Option<&'g Tensor>) -> Self {
        match self {
            Self::Integers { codes, zeros, scales, has_rows } => {
                Self::Integers { codes, zeros, scales: scales.or(after), has_rows }
            }
            other => other,
        }
    }
}

/// The scales of a weight of integers: the constant in the product that the `Mul` node `last` multiplies by.
pub(super) fn scales_of<'g>(graph: &'g Graph, last: &Node) -> Option<&'g Tensor> {
    let main = graph.main();
    let products = last.inputs.iter().filter_map(|input| main.producer(input)).filter(|node| node.op_type == "Mul");
    products.flat_map(|node| &node.inputs).find_map(|input| main.initializer(input))
}

/// The constant that `value` is, before it is turned or made floats.
fn constant<'g>(graph: &'g Graph, value: &'g str) -> Option<Constant<'g>> {
    let main = graph.main();
    let (mut value, mut is_transposed, mut converted, mut dequantised, mut names) = (value, false, None, None, Vec::new());
    for _ in 0..MAX_STEPS {
        names.push(value);
        if let Some(tensor) = main.initializer(value) {
            // An input that stands in for a constant may be another one in each run.
            let is_fixed = !main.inputs.iter().any(|input| input.name == value);
            return is_fixed.then_some(Constant { tensor, is_transposed, converted, dequantised, names });
        }
        let node = main.producer(value)?;
        value = node.inputs.first()?;
        match node.op_type.as_str() {
            "Transpose" => is_transposed = !is_transposed,
            "Identity" => {}
            "Cast" => converted = converted.or(node.int("to").and_then(|to| Some(DataType(i32::try_from(to).ok()?)))),
            "DequantizeLinear" => {
                let scales = main.initializer(node.inputs.get(1)?)?;
                converted = converted.or(Some(scales.data_type));
                dequantised = dequantised.or(Some(node));
            }
            _ => return None,
        }
    }
    None
}

/// What the `DequantizeLinear` node `node` makes of `codes`, the constant that a product multiplies by: `None` for scales of blocks or of
/// inputs, and where something else lies between the node and the constant.
///
/// Source: `DequantizeLinear` of <https://onnx.ai/onnx/operators/>, versions 10 to 25.
fn dequantised<'g>(graph: &'g Graph, node: &'g Node, codes: &'g Tensor, has_rows: bool) -> Option<Weight<'g>> {
    let main = graph.main();
    let zeros = node.inputs.get(2).filter(|input| !input.is_empty()).map(|zeros| main.initializer(zeros));
    let (scales, zeros) = (main.initializer(node.inputs.get(1)?)?, zeros.map_or(Some(None), |zeros| zeros.map(Some))?);
    let axis = node.int("axis").unwrap_or(1);
    let of_outputs = i64::from(!has_rows);
    let is_read = main.initializer(node.inputs.first()?).is_some()
        && node.int("block_size").unwrap_or(0) == 0
        && (scales.n_elements() == Some(1) || scales.dims.len() == 1 && [of_outputs, of_outputs - 2].contains(&axis));
    is_read.then_some(Weight::Integers { codes, zeros, scales: Some(scales), has_rows })
}

fn matrix(tensor: &Tensor) -> Option<[usize; 2]> {
    let size = |size: i64| usize::try_from(size).ok().filter(|&size| size > 0);
    match tensor.dims.as_slice() {
        &[first, second] => Some([size(first)?, size(second)?]),
        _ => None,
    }
}

/// The bias at `index` of a node's inputs.
fn bias(node: &Node, index: usize) -> Option<&str> {
    node.inputs.get(index).map(String::as_str).filter(|input| !input.is_empty())
}

/// Whether a factor is 1, as it is by default.
fn is_one(node: &Node, name: &str) -> bool {
    match node.attribute(name) {
        None => true,
        Some(crate::graph::AttributeValue::Float(value)) => *value == 1.0,
        Some(_) => false,
    }
}
