//! What a graph weighs, before an engine sees it: its constants by what the engine does with them. Headers are read, never weights.

use std::collections::HashMap;

use tandem_core::backend::LoadOptions;
use tandem_core::files::ModelFiles;
use tandem_core::{DType, Result};
use tandem_onnx_graph::{DataType, Graph, TensorData};

use crate::source::{Chosen, appends_in_place, dtype_of, open};

/// The constants of a graph, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphWeight {
    /// Floats that products multiply by.
    pub float_products: u64,
    /// Codes, scales and zero points of products with quantised weights.
    pub block_products: u64,
    /// All else: embeddings, norms, tables.
    pub others: u64,
    /// Those of the products that something else reads too, such as an embedding that is the head.
    pub shared: u64,
    /// How many of all these lie inside the graph's own file.
    pub inline: u64,
    /// Bytes of a value in the KV cache.
    pub kv_value: u64,
    /// Keys and values are appended to in place.
    pub in_place: bool,
}

/// What the engine does with a constant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    FloatProduct,
    BlockProduct,
    Other,
}

/// The dtype of the weights that a model of `files` has under `options`, and what its graph weighs; no weight for one that is to be
/// made of the checkpoint.
///
/// # Errors
/// As loading, for files and graphs that cannot be read.
pub fn weigh(files: &ModelFiles, options: &LoadOptions) -> Result<(DType, Option<GraphWeight>)> {
    match Chosen::of(files, options)? {
        Chosen::Made => Ok((options.dtype.unwrap_or(DType::F32), None)),
        Chosen::Graph(found) => {
            let (graph, _) = open(&found.file)?;
            Ok((dtype_of(&graph).or(found.dtype).unwrap_or(DType::F32), Some(weight(&graph))))
        }
    }
}

fn weight(graph: &Graph) -> GraphWeight {
    let uses = uses(graph);
    let mut sum = GraphWeight { kv_value: kv_value(graph), in_place: appends_in_place(graph), ..GraphWeight::default() };
    for tensor in graph.initializers() {
        let bytes = tensor.n_bytes().unwrap_or(0);
        let uses = uses.get(tensor.name.as_str()).map_or(&[Use::Other][..], Vec::as_slice);
        let product = uses.iter().find(|used| **used != Use::Other);
        match product {
            Some(Use::FloatProduct) => sum.float_products += bytes,
            Some(_) => sum.block_products += bytes,
            None => sum.others += bytes,
        }
        if product.is_some() && uses.contains(&Use::Other) {
            sum.shared += bytes;
        }
        if !matches!(tensor.data, TensorData::External(_)) {
            sum.inline += bytes;
        }
    }
    sum
}

/// What reads each constant.
fn uses(graph: &Graph) -> HashMap<&str, Vec<Use>> {
    let mut uses: HashMap<&str, Vec<Use>> = HashMap::new();
    for node in graph.nodes() {
        for (place, input) in node.inputs.iter().enumerate() {
            let used = match node.op_type.as_str() {
                "MatMul" | "Gemm" | "FusedMatMul" | "FusedGemm" if place == 1 => Use::FloatProduct,
                "MatMulNBits" | "MatMulInteger" | "DynamicQuantizeMatMul" | "QLinearMatMul" if place > 0 => Use::BlockProduct,
                _ => Use::Other,
            };
            uses.entry(input).or_default().push(used);
        }
    }
    uses
}

fn kv_value(graph: &Graph) -> u64 {
    let past = graph.inputs().find(|input| input.name.starts_with("past"));
    past.and_then(|past| past.data_type).and_then(DataType::bits).unwrap_or(32) / 8
}
