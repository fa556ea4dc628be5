//! The constants of a graph by what the engine does with them. Headers are read, never weights.

use std::collections::HashMap;
use std::num::Saturating;

use tandem_core::backend::Kernels;
use tandem_core::footprint::Count;
use tandem_onnx_graph::{DataType, Graph, TensorData};

/// The constants of a graph, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GraphFootprint {
    /// Floats that products multiply by (`MatMul`, `Gemm`), which the engine copies into an order of its own.
    pub(crate) float_products: Count,
    /// Codes, scales and zero points of 8 and 4 bits that products multiply by (`MatMulNBits`), and floats that Tandem's operators do.
    pub(crate) block_products: Count,
    /// Those of them that Tandem's operators read where they lie: all floats.
    pub(crate) custom_products: Count,
    /// All others: embeddings, norms, tables.
    pub(crate) others: Count,
    /// Those of the products that the engine copies and something else reads too, such as an embedding that is the head.
    pub(crate) shared: Count,
    /// How many of all these lie inside the graph's own file.
    pub(crate) inline: Count,
    /// Bytes of a value in the KV cache.
    pub(crate) kv_value: Count,
    /// Whether products of Tandem's operators do not stay in their file.
    pub(crate) moves: bool,
}

/// What the engine does with a constant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    FloatProduct,
    BlockProduct,
    CustomProduct,
    Other,
}

impl GraphFootprint {
    /// Those of `graph` with these kernels.
    pub(crate) fn of_graph(graph: &Graph, kernels: Kernels) -> Self {
        let uses = uses(graph, kernels);
        let mut sum = Self { kv_value: kv_value(graph), ..Self::default() };
        for tensor in graph.initializers() {
            let bytes = Saturating(tensor.n_bytes().unwrap_or(0));
            let uses = uses.get(tensor.name.as_str()).map_or(&[Use::Other][..], Vec::as_slice);
            let product = uses.iter().find(|used| **used != Use::Other);
            match product {
                Some(Use::FloatProduct) => sum.float_products += bytes,
                Some(used) => {
                    sum.block_products += bytes;
                    sum.custom_products += if *used == Use::CustomProduct { bytes } else { Saturating(0) };
                }
                None => sum.others += bytes,
            }
            if product.is_some_and(|used| *used != Use::CustomProduct) && uses.contains(&Use::Other) {
                sum.shared += bytes;
            }
            if !matches!(tensor.data, TensorData::External(_)) {
                sum.inline += bytes;
            }
        }
        sum
    }
}

/// What reads each constant.
fn uses(graph: &Graph, kernels: Kernels) -> HashMap<&str, Vec<Use>> {
    let mut uses: HashMap<&str, Vec<Use>> = HashMap::new();
    for node in graph.nodes() {
        let is_own = kernels == Kernels::Tandem && graph.has_custom_operator(node);
        // Not what it is widened to, which is not computed then.
        if let Some(floats) = graph.float_rows(node).filter(|_| is_own) {
            uses.entry(&floats.name).or_default().push(Use::CustomProduct);
            continue;
        }
        for (place, input) in node.inputs.iter().enumerate() {
            let used = match node.op_type.as_str() {
                "MatMul" | "Gemm" | "FusedMatMul" | "FusedGemm" if place == 1 => Use::FloatProduct,
                "MatMulNBits" if is_own && place > 0 => Use::CustomProduct,
                "MatMulNBits" | "MatMulInteger" | "DynamicQuantizeMatMul" | "QLinearMatMul" if place > 0 => Use::BlockProduct,
                _ => Use::Other,
            };
            uses.entry(input).or_default().push(used);
        }
    }
    uses
}

fn kv_value(graph: &Graph) -> Count {
    let past = graph.inputs().find(|input| input.name.starts_with("past"));
    Saturating(past.and_then(|past| past.data_type).and_then(DataType::bits).unwrap_or(32) / 8)
}
