//! Products with constant floats that have one row for each output, `[outputs, inputs]`, as checkpoints have them: `FusedMatMul` of a constant, or
//! of one that a `Cast` widens to 32 bits. The operator that stands in for them reads the constant itself.

use std::collections::HashMap;

use super::{CONTRIB, given};
use crate::graph::{AttributeValue, DataType, Graph, Node, Tensor};

/// A product of floats.
pub(super) struct FloatProduct<'g> {
    /// `[rows, columns]`, in the type that it is stored in.
    pub(super) weight: &'g Tensor,
    /// Outputs.
    pub(super) rows: usize,
    /// Inputs.
    pub(super) columns: usize,
}

impl<'g> FloatProduct<'g> {
    /// What `node` multiplies, if it is such a product.
    pub(super) fn of(graph: &'g Graph, node: &Node) -> Option<Self> {
        let is_fused = (node.domain.as_str(), node.op_type.as_str()) == (CONTRIB, "FusedMatMul");
        if !is_fused || node.inputs.len() != 2 || node.outputs.len() != 1 {
            return None;
        }
        let is_plain = node.attributes.iter().all(|attribute| match (attribute.name.as_str(), &attribute.value) {
            ("transA" | "transBatchA" | "transBatchB", AttributeValue::Int(turned)) => *turned == 0,
            ("transB", AttributeValue::Int(_)) => true,
            ("alpha", AttributeValue::Float(alpha)) => *alpha == 1.0,
            _ => false,
        });
        let has_rows = node.int("transB") == Some(1);
        let weight = Self::weight(graph, given(node, 1)?).filter(|_| is_plain && has_rows)?;
        let size = |size: i64| usize::try_from(size).ok().filter(|&size| size > 0);
        let &[rows, columns] = weight.dims.as_slice() else { return None };
        Some(Self { weight, rows: size(rows)?, columns: size(columns)? })
    }

    /// The constant that `value` is, or is widened from.
    fn weight(graph: &'g Graph, value: &str) -> Option<&'g Tensor> {
        let main = graph.main();
        // An input that stands in for a constant may be another one in each run.
        let constant = |name: &str| main.initializer(name).filter(|_| !main.inputs.iter().any(|input| input.name == name));
        if let Some(tensor) = constant(value) {
            return Some(tensor).filter(|tensor| tensor.data_type == DataType::FLOAT);
        }
        let cast = widening(graph, value)?;
        constant(given(cast, 0)?).filter(|tensor| [DataType::FLOAT16, DataType::BFLOAT16].contains(&tensor.data_type))
    }
}

/// The node that casts something to `value`, floats of 32 bits.
fn widening<'g>(graph: &'g Graph, value: &str) -> Option<&'g Node> {
    let is_cast = |node: &&Node| {
        node.domain.is_empty()
            && node.op_type == "Cast"
            && node.int("to") == Some(DataType::FLOAT.0.into())
            && node.inputs.len() == 1
    };
    graph.main().producer(value).filter(is_cast)
}

/// The `Cast` nodes whose results nothing but products that are replaced reads; `readers` are those of the graph.
pub(super) fn needless_casts<'g>(graph: &'g Graph, readers: &HashMap<&str, usize>) -> Vec<&'g Node> {
    let mut folded: HashMap<&str, usize> = HashMap::new();
    for node in graph.nodes().iter().filter(|node| FloatProduct::of(graph, node).is_some()) {
        *folded.entry(&node.inputs[1]).or_default() += 1;
    }
    let is_needless = |(value, n): (&str, usize)| readers.get(value) == Some(&n);
    folded.into_iter().filter(|read| is_needless(*read)).filter_map(|(value, _)| widening(graph, value)).collect()
}
