//! How `GroupQueryAttention` is told the length of each row: exporters count the ones of the mask.

use super::{Packing, given, is_onnx};
use crate::graph::{AttributeValue, Node};

const MASK: &str = "attention_mask";

/// The places of the lengths of rows less one, and of the longest row's, among the inputs of attention.
const LAST_POSITIONS: usize = 5;
const LONGEST: usize = 6;

impl Packing<'_> {
    /// Whether the lengths that `attention` gets are those of the mask's rows.
    pub(super) fn is_told_lengths(&self, attention: &Node) -> bool {
        given(attention, LAST_POSITIONS).is_some_and(|value| self.is_count_less_one(value))
            && given(attention, LONGEST).is_some_and(|value| self.is_width_of_mask(value))
    }

    /// Whether `value` is one less than the ones in each row of the mask.
    fn is_count_less_one(&self, value: &str) -> bool {
        let sub = self.computed_by(value).filter(|node| node.op_type == "Sub" && self.is_one(node, 1));
        let sum = sub.and_then(|node| self.computed_by(&node.inputs[0])).filter(|node| node.op_type == "ReduceSum");
        sum.is_some_and(|node| {
            let of_rows = match node.attribute("axes") {
                Some(AttributeValue::Ints(axes)) => axes == &[1],
                _ => self.is_one(node, 1),
            };
            of_rows && self.without_casts(&node.inputs[0]) == MASK
        })
    }

    /// Whether `value` is how wide the mask is.
    fn is_width_of_mask(&self, value: &str) -> bool {
        let width = self.computed_by(value).filter(|node| node.op_type == "Gather" && self.is_one(node, 1));
        let shape = width.and_then(|node| self.computed_by(&node.inputs[0])).filter(|node| node.op_type == "Shape");
        shape.is_some_and(|node| node.attributes.is_empty() && self.without_casts(&node.inputs[0]) == MASK)
    }

    /// The node that computes `value`, before casts of it.
    fn computed_by(&self, value: &str) -> Option<&Node> {
        self.graph.main().producer(self.without_casts(value)).filter(|node| is_onnx(node) && !node.inputs.is_empty())
    }

    /// What `value` is a cast of, or a cast of a cast.
    fn without_casts<'v>(&'v self, value: &'v str) -> &'v str {
        let before = |value: &'v str| match self.graph.main().producer(value) {
            Some(node) if is_onnx(node) && node.op_type == "Cast" && node.inputs.len() == 1 => &node.inputs[0],
            _ => value,
        };
        before(before(value))
    }

    fn is_one(&self, node: &Node, index: usize) -> bool {
        self.integers(node, index).as_deref() == Some(&[1])
    }
}
