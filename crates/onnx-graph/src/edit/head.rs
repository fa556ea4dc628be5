//! Finds the product with the vocabulary: from `logits` back through the elementwise operators that models put after it.

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Subgraph};

/// More operators than any model has between its head and its logits, or between a weight and its use.
const MAX_STEPS: usize = 16;

/// The head and what follows it.
pub(super) struct Head<'g> {
    /// The product of hidden states (its first input) and weights.
    pub(super) node: &'g Node,
    /// The values from the product to the logits, both included.
    pub(super) values: Vec<&'g str>,
}

/// Finds the head of `logits`.
///
/// # Errors
/// When the logits are not the product with a weight, followed by elementwise operators.
pub(super) fn find<'g>(graph: &'g Graph, logits: &'g str) -> Result<Head<'g>> {
    let main = graph.main();
    let refuse = |problem: String| {
        Err(Error::bad_field(graph.file(), "graph.output", format!("`{logits}` {problem}"))
            .with_hint("export the graph with an input `num_logits_to_keep`, or without changes to its head"))
    };
    let mut values = vec![logits];
    for _ in 0..MAX_STEPS {
        let value = values[values.len() - 1];
        let Some(node) = main.producer(value) else {
            return refuse(format!("comes from `{value}`, which no node computes"));
        };
        let operator = node.op_type.as_str();
        match operator {
            "MatMul"
            | "MatMulNBits"
            | "MatMulBnb4"
            | "FusedMatMul"
            | "MatMulInteger"
            | "MatMulIntegerToFloat"
            | "DynamicQuantizeMatMul" => {
                let is_head =
                    node.int("transA").unwrap_or(0) == 0 && node.inputs.iter().skip(1).all(|input| is_fixed(main, input, 0));
                return match node.inputs.first().filter(|_| is_head) {
                    Some(_) => Ok(Head { node, values }),
                    None => refuse(format!("comes from a `{operator}` of two values that are not weights")),
                };
            }
            "Cast" | "Identity" | "Tanh" | "Mul" | "Div" | "Add" | "Sub" | "Where" | "Clip" | "Neg" => {
                let mut moving = node.inputs.iter().filter(|input| !is_fixed(main, input, 0));
                match (moving.next(), moving.next()) {
                    (Some(input), None) => values.push(input),
                    _ => return refuse(format!("comes from a `{operator}` of several values that depend on the tokens")),
                }
            }
            _ => return refuse(format!("comes from a `{operator}`, which may mix tokens")),
        }
    }
    refuse(format!("is more than {MAX_STEPS} operations away from its head"))
}

/// Whether the value has the same shape for any number of tokens: weights, what is computed from weights only, and the scale of a
/// dynamic quantisation, which all tokens share.
fn is_fixed(main: &Subgraph, value: &str, depth: usize) -> bool {
    if value.is_empty() || main.initializer(value).is_some() {
        return true;
    }
    let Some(node) = main.producer(value).filter(|_| depth < MAX_STEPS) else { return false };
    match node.op_type.as_str() {
        "Constant" => true,
        "DynamicQuantizeLinear" => node.outputs.first().is_some_and(|quantized| quantized != value),
        "Transpose" | "DequantizeLinear" | "Cast" | "Identity" | "Mul" | "Div" | "Add" | "Sub" | "Reshape" | "Unsqueeze"
        | "Squeeze" => node.inputs.iter().all(|input| is_fixed(main, input, depth + 1)),
        _ => false,
    }
}
