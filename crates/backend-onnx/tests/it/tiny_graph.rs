//! ONNX files with a few operators, written by hand: what no exporter writes.
//!
//! Field numbers are those of `onnx.proto`.

use crate::wire::{message, number, text};

/// A graph from token ids to one output.
#[derive(Clone, Copy)]
pub(crate) struct TinyGraph {
    /// The name of the first input, int64 `[batch, tokens]`.
    pub(crate) ids: &'static str,
    /// Another input of that shape, which is not used.
    pub(crate) other_input: Option<&'static str>,
    /// Operators with one input and one output, one after the other, before a cast to f32.
    pub(crate) of_integers: &'static [&'static str],
    /// The same behind it.
    pub(crate) of_floats: &'static [&'static str],
    /// The name of the output, f32.
    pub(crate) output: &'static str,
    /// Its dims, all of them symbols.
    pub(crate) dims: &'static [&'static str],
}

impl Default for TinyGraph {
    fn default() -> Self {
        Self {
            ids: "input_ids",
            other_input: None,
            of_integers: &[],
            of_floats: &[],
            output: "last_hidden_state",
            dims: &["batch", "tokens", "width"],
        }
    }
}

const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// The file.
pub(crate) fn bytes(graph: &TinyGraph) -> Vec<u8> {
    let mut body = Vec::new();
    let mut to = text(1, "to");
    number(&mut to, 3, FLOAT);
    number(&mut to, 20, 2);
    let plain = |operator: &&'static str| (*operator, Vec::new());
    let operators = graph.of_integers.iter().map(plain).chain([("Cast", to)]).chain(graph.of_floats.iter().map(plain));
    let mut value = graph.ids.to_owned();
    for (i, (operator, attribute)) in operators.enumerate() {
        let output = format!("value.{i}");
        message(&mut body, 1, &node(operator, &[&value], &output, &attribute));
        value = output;
    }
    if graph.dims.len() == 3 {
        let mut axes = text(8, "axes");
        number(&mut axes, 1, 1);
        number(&mut axes, 2, INT64);
        message(&mut axes, 9, &2_i64.to_le_bytes());
        message(&mut body, 5, &axes);
        message(&mut body, 1, &node("Unsqueeze", &[&value, "axes"], graph.output, &[]));
    } else {
        message(&mut body, 1, &node("Identity", &[&value], graph.output, &[]));
    }
    message(&mut body, 2, b"tiny");
    for input in std::iter::once(graph.ids).chain(graph.other_input) {
        message(&mut body, 11, &value_info(input, INT64, &["batch", "tokens"]));
    }
    message(&mut body, 12, &value_info(graph.output, FLOAT, graph.dims));
    let mut opset = Vec::new();
    number(&mut opset, 2, 17);
    let mut out = Vec::new();
    number(&mut out, 1, 8);
    message(&mut out, 7, &body);
    message(&mut out, 8, &opset);
    out
}

fn node(operator: &str, inputs: &[&str], output: &str, attribute: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    inputs.iter().for_each(|input| message(&mut out, 1, input.as_bytes()));
    message(&mut out, 2, output.as_bytes());
    message(&mut out, 4, operator.as_bytes());
    if !attribute.is_empty() {
        message(&mut out, 5, attribute);
    }
    out
}

fn value_info(name: &str, element: u64, dims: &[&str]) -> Vec<u8> {
    let mut shape = Vec::new();
    dims.iter().for_each(|dim| message(&mut shape, 1, &text(2, dim)));
    let (mut tensor, mut kind) = (Vec::new(), Vec::new());
    number(&mut tensor, 1, element);
    message(&mut tensor, 2, &shape);
    message(&mut kind, 1, &tensor);
    let mut out = text(1, name);
    message(&mut out, 2, &kind);
    out
}
