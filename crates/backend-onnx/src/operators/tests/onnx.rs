//! Files of a few nodes, written by hand. Field numbers are those of `onnx.proto`.

#[path = "../../../tests/it/wire.rs"]
mod wire;

use self::wire::{message, number, text, varint};

/// The types of tensors.
pub(super) const FLOAT: u64 = 1;
pub(super) const UINT8: u64 = 2;
pub(super) const INT32: u64 = 6;
pub(super) const INT64: u64 = 7;
pub(super) const FLOAT16: u64 = 10;
pub(super) const BFLOAT16: u64 = 16;

/// Operators of ONNX itself; the others are of `com.microsoft`.
const STANDARD: [&str; 7] = ["Add", "Cast", "Mul", "Reshape", "Sigmoid", "SimplifiedLayerNormalization", "Split"];

/// One node, with what it is given.
#[derive(Default)]
pub(super) struct OneNode<'n> {
    pub(super) operator: &'n str,
    /// Of the node; those that are left out are empty.
    pub(super) inputs: Vec<&'n str>,
    pub(super) outputs: Vec<&'n str>,
    pub(super) integers: Vec<(&'n str, i64)>,
    pub(super) floats: Vec<(&'n str, f32)>,
    /// Name, type, shape and bytes.
    pub(super) constants: Vec<(&'n str, u64, Vec<usize>, Vec<u8>)>,
    /// Inputs of the graph, of any size: name, type, rank.
    pub(super) given: Vec<(&'n str, u64, usize)>,
    /// The number of dimensions of each output.
    pub(super) ranks: Vec<usize>,
}

impl OneNode<'_> {
    /// A file of this node alone.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let outputs: Vec<_> = self.outputs.iter().copied().zip(self.ranks.iter().copied()).collect();
        file(&[self], &outputs)
    }

    fn proto(&self) -> Vec<u8> {
        let mut node = Vec::new();
        self.inputs.iter().for_each(|input| message(&mut node, 1, input.as_bytes()));
        self.outputs.iter().for_each(|output| message(&mut node, 2, output.as_bytes()));
        message(&mut node, 4, self.operator.as_bytes());
        for (name, value) in &self.integers {
            let mut attribute = text(1, name);
            number(&mut attribute, 3, value.cast_unsigned());
            number(&mut attribute, 20, 2);
            message(&mut node, 5, &attribute);
        }
        for (name, value) in &self.floats {
            let mut attribute = text(1, name);
            varint(&mut attribute, 2 << 3 | 5);
            attribute.extend(value.to_le_bytes());
            number(&mut attribute, 20, 1);
            message(&mut node, 5, &attribute);
        }
        if !STANDARD.contains(&self.operator) {
            message(&mut node, 7, b"com.microsoft");
        }
        node
    }
}

/// A file of `nodes`, with these outputs of so many dimensions.
pub(super) fn file(nodes: &[&OneNode<'_>], outputs: &[(&str, usize)]) -> Vec<u8> {
    let mut body = Vec::new();
    nodes.iter().for_each(|node| message(&mut body, 1, &node.proto()));
    message(&mut body, 2, b"a few nodes");
    for (name, kind, dims, bytes) in nodes.iter().flat_map(|node| &node.constants) {
        let mut tensor = Vec::new();
        dims.iter().for_each(|&dim| number(&mut tensor, 1, dim as u64));
        number(&mut tensor, 2, *kind);
        message(&mut tensor, 8, name.as_bytes());
        message(&mut tensor, 9, bytes);
        message(&mut body, 5, &tensor);
    }
    let given = nodes.iter().flat_map(|node| &node.given);
    given.for_each(|(name, kind, rank)| message(&mut body, 11, &value_info(name, *kind, *rank)));
    outputs.iter().for_each(|(name, rank)| message(&mut body, 12, &value_info(name, FLOAT, *rank)));
    let mut out = Vec::new();
    number(&mut out, 1, 10);
    message(&mut out, 7, &body);
    for (domain, version) in [("", 21), ("com.microsoft", 1)] {
        let mut opset = text(1, domain);
        number(&mut opset, 2, version);
        message(&mut out, 8, &opset);
    }
    out
}

/// The bytes of floats.
pub(super) fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn value_info(name: &str, element: u64, rank: usize) -> Vec<u8> {
    let mut shape = Vec::new();
    (0..rank).for_each(|dim| message(&mut shape, 1, &text(2, &format!("{name}.{dim}"))));
    let (mut tensor, mut kind) = (Vec::new(), Vec::new());
    number(&mut tensor, 1, element);
    message(&mut tensor, 2, &shape);
    message(&mut kind, 1, &tensor);
    let mut out = text(1, name);
    message(&mut out, 2, &kind);
    out
}
