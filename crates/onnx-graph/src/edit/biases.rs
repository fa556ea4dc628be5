//! Takes biases out of quantised products, for engines whose kernel does not add them.

use super::{Edit, children, message};
use crate::encode;
use crate::graph::Node;
use crate::schema::{graph, node};

/// The place of the bias among the inputs of `MatMulNBits`.
const BIAS: usize = 5;

impl Edit<'_> {
    /// Adds the biases of `MatMulNBits` in nodes of their own, and returns how many there were. ONNX Runtime's kernel for CUDA refuses
    /// them at the first run: "does not support bias in CUDA kernel", `matmul_nbits.cc`, seen with 1.27.
    pub fn separate_biases(&mut self) -> usize {
        let (graph, nodes) = (self.graph, self.graph.nodes());
        let mut n_changed = 0;
        for (index, product) in nodes.iter().enumerate().filter(|(_, node)| node.op_type == "MatMulNBits") {
            let (Some(bias), Some(output)) = (product.inputs.get(BIAS).filter(|bias| !bias.is_empty()), product.outputs.first())
            else {
                continue;
            };
            let fields = message(graph, &product.range);
            let (input, result) = (children(fields, node::INPUT).nth(BIAS), children(fields, node::OUTPUT).next());
            let (Some(input), Some(result)) = (input, result) else { continue };
            let unbiased = format!("tandem.{output}.unbiased");
            self.patches.remove(input.start);
            self.patches.replace(result.start, unbiased.clone().into_bytes());
            let sum = encode::node(&Node {
                name: format!("tandem.{output}.bias"),
                op_type: "Add".into(),
                inputs: vec![unbiased, bias.clone()],
                outputs: vec![output.clone()],
                ..Node::default()
            });
            // Nodes come after those whose values they take.
            match nodes.get(index + 1) {
                Some(next) => self.patches.insert_before(next.range.start, graph::NODE, &sum),
                None => self.append_to_main(graph::NODE, &sum),
            }
            n_changed += 1;
        }
        n_changed
    }
}
